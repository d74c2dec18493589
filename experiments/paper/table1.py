"""`glimpse table1`: run the 15 cells and two whole-image classifiers of the paper's Table 1.

Everything is chosen on the validation cut (paper section 3). With `--final` each cell then trains
on all training images, for as many epochs as did best on the validation cut, and is evaluated on
test: once, since what is there is never run again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.paper.config import Table1Config
from experiments.paper.table1_report import format_table1, tabulate
from experiments.runtime.runs import RunError, write_json
from experiments.train.aggregate import read_metrics
from experiments.train.config import TrainConfig
from experiments.train.table1_cells import FORMS, Cell, choose_cells
from experiments.whole_image.config import CLASSIFIERS, WholeImageConfig

Run = TypeVar("Run", TrainConfig, WholeImageConfig)


def cell_config(config: Table1Config, cell: Cell, seed: int) -> TrainConfig:
    """Settings of one run of a cell, on the validation cut."""
    plain = config.cell_run(cell, out=config.out / cell.name / f"seed-{seed}", seed=seed)
    if config.hidden_size is None:
        return plain
    return replace(plain, network=replace(plain.network, hidden_size=config.hidden_size))


def whole_image_config(config: Table1Config, name: str, seed: int) -> WholeImageConfig:
    """Settings of one run of a whole-image classifier, on the validation cut."""
    asked = {} if config.whole_image_epochs is None else {"epochs": config.whole_image_epochs}
    return replace(
        CLASSIFIERS[name][1],
        out=config.out / name / f"seed-{seed}",
        data=config.data,
        seed=seed,
        device=config.device,
        **asked,
    )


def on_test(config: Run, epochs: int) -> Run:
    """The final run that follows from one on the validation cut (paper section 3)."""
    return replace(
        config,
        out=config.out.with_name(f"test-{config.out.name}"),
        train_split="trainval",
        eval_split="test",
        epochs=epochs,
    )


def jobs_of(config: Table1Config) -> list[Job]:
    """All runs on the validation cut that were asked for."""
    jobs = []
    for name in choose_cells(config.cells):
        if name in FORMS:
            cell = FORMS[name]
            jobs += [
                Job("train", name, cell_config(config, cell, seed)) for seed in range(config.seeds)
            ]
        else:
            jobs += [
                Job("whole-image", name, whole_image_config(config, name, seed))
                for seed in range(config.whole_image_seeds)
            ]
    return jobs


def final_jobs(config: Table1Config) -> list[Job]:
    """The runs on test: cells for the epochs that did best on the validation cut.

    A whole-image classifier keeps its number of epochs, over which its learning rate falls to zero.

    Raises:
        RunError: runs on the validation cut are not done.
    """
    jobs = jobs_of(config)
    unfinished = [job.name for job in jobs if not job.finished]
    if unfinished:
        raise RunError(
            f"{', '.join(unfinished)}: not done on the validation cut, by which everything is "
            "chosen; run the same command without --final first"
        )
    folders: dict[str, list[Path]] = {}
    for job in jobs:
        folders.setdefault(job.experiment, []).append(job.folder)
    epochs = {name: choose_epochs(runs) for name, runs in folders.items() if name in FORMS}
    finals = []
    for job in jobs:
        count = epochs[job.experiment] if job.experiment in epochs else job.config.epochs
        finals.append(replace(job, config=on_test(job.config, count)))
    return finals


def choose_epochs(runs: list[Path]) -> int:
    """Epochs to train for: where the mean over the runs of validation mA is best.

    Raises:
        RunError: a run has no record of its epochs.
    """
    curves = [
        {row["epoch"] + 1: row["eval_ma"] for row in read_metrics(run) if "eval_ma" in row}
        for run in runs
    ]
    shared = set.intersection(*(set(curve) for curve in curves))
    if not shared:
        raise RunError(f"{runs[0]} has no evaluation on the validation cut: let it finish")
    return max(sorted(shared), key=lambda epoch: np.mean([curve[epoch] for curve in curves]))


def table1(config: Table1Config) -> dict[str, Any]:
    """Run what is not done, then write `table1.json` and `table1.md` and print the table.

    Raises:
        RunError: runs failed, or `--final` before the runs on the validation cut are done.
    """
    jobs = final_jobs(config) if config.final else jobs_of(config)
    if not config.only_table:
        # A whole-image classifier keeps every core of this machine busy by itself.
        alone = 1 if config.on.cluster == "local" else config.jobs
        for command, parallel in (("train", config.jobs), ("whole-image", alone)):
            run_jobs(
                [job for job in jobs if job.command == command],
                config.on,
                out=config.out,
                parallel=parallel,
                device=config.device,
            )
    record = tabulate(jobs)
    stem = config.out / ("table1-test" if config.final else "table1")
    write_json(stem.with_suffix(".json"), record)
    text = format_table1(record)
    stem.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"\nwritten: {stem.with_suffix('.json')}, {stem.with_suffix('.md')}")
    return record
