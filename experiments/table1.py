"""`glimpse table1`: the 15 cells of the paper's Table 1 and its two baselines, run and laid out.

Everything is chosen on the validation cut (paper section 3). With `--final` each cell then trains
on all training pictures, for as many epochs as did best on the validation cut, and is evaluated on
test: once, since what is there is never run again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from experiments.cells import CELLS, PAPER_BASELINES, Cell
from experiments.data import DataConfig
from experiments.report import read_metrics
from experiments.runs import RunError, write_json
from experiments.sweep import Job, room, run_jobs, shared_words
from experiments.table1_report import format_table1, tabulate


@dataclass(frozen=True)
class Table1Config:
    """Run Table 1 of the paper, or part of it, and lay it out beside the paper's numbers.

    Started again, it goes on where it was; what is done is not done again.
    """

    cells: Positional[tuple[str, ...]] = ()
    """Which, by name (high-1 ... high-medium-low-3, googlenet-96, googlenet-224), or whole rows
    (high, medium, low, high-medium, high-medium-low, baselines); all by default."""
    out: Path = Path("runs/table1")
    """Folder of the runs and of the table."""
    data: OmitArgPrefixes[DataConfig] = DataConfig()
    """Which pictures."""
    bank: Path | None = Path("banks/dogs")
    """Feature banks (`glimpse bank`); `None` runs the encoder live."""
    encoder: str = "googlenet"
    """Encoder; with a bank it must be the bank's."""
    seeds: int = 2
    """Runs a cell, with seeds 0, 1, ..."""
    baseline_seeds: int = 1
    """Runs a baseline: each fine-tunes a whole GoogLeNet."""
    hidden_size: int | None = None
    """Units a deck (the paper: 4,096), if not the cells' own."""
    epochs: int | None = None
    """Passes over the training pictures, if not the cells' own."""
    batch_size: int | None = None
    """Pictures a step, if not the cells' own."""
    jobs: int | None = None
    """Runs side by side (default: one a core; on a GPU one)."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""
    final: bool = False
    """Train on all training pictures, for the epochs chosen on validation, and touch test."""
    only_table: bool = False
    """Run nothing: lay out what is there."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        choose_cells(self.cells)
        for name in ("seeds", "baseline_seeds"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is at least 1, not {getattr(self, name)}")
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"--jobs is at least 1, not {self.jobs}")


def choose_cells(names: tuple[str, ...]) -> list[str]:
    """Expand names of cells and rows, in the table's order.

    Raises:
        ValueError: for a name that is neither.
    """
    everything = [*CELLS, *PAPER_BASELINES]
    if not names:
        return everything
    chosen = set()
    for name in names:
        row = [cell.name for cell in CELLS.values() if cell.row == name]
        row = list(PAPER_BASELINES) if name == "baselines" else row
        if not row and name not in everything:
            raise ValueError(
                f"Table 1 has no cell {name!r}: there are {', '.join(everything)}, and the rows "
                f"{', '.join(dict.fromkeys(cell.row for cell in CELLS.values()))} and baselines"
            )
        chosen |= set(row) or {name}
    return [name for name in everything if name in chosen]


def cell_job(config: Table1Config, cell: Cell, seed: int, epochs: int | None = None) -> Job:
    """One run of a cell.

    Args:
        config: Of the table.
        cell: Which.
        seed: Of the run.
        epochs: For the final run on test, how many; None is a run on the validation cut.
    """
    words = [
        "train",
        cell.name,
        *shared_words(config.data, config.device),
        "--seed",
        str(seed),
        "--no-references",
    ]
    words += ["--bank", str(config.bank), "--encoder", config.encoder]
    if config.hidden_size is not None:
        words += ["--network.hidden-size", str(config.hidden_size)]
    if epochs is None and config.epochs is not None:
        words += ["--epochs", str(config.epochs)]
    if config.batch_size is not None:
        words += ["--batch-size", str(config.batch_size)]
    return _job(config, cell.name, seed, words, epochs)


def baseline_job(config: Table1Config, name: str, seed: int, epochs: int | None = None) -> Job:
    """One run of a baseline; arguments as for `cell_job`."""
    words = ["baseline", name, *shared_words(config.data, config.device), "--seed", str(seed)]
    if epochs is None and config.epochs is not None:
        words += ["--epochs", str(config.epochs)]
    return _job(config, name, seed, words, epochs)


def _job(config: Table1Config, name: str, seed: int, words: list[str], epochs: int | None) -> Job:
    folder = config.out / name / f"seed-{seed}"
    if epochs is None:
        return Job(f"{name} seed {seed}", folder, tuple(words))
    words += ["--train-split", "trainval", "--eval-split", "test", "--epochs", str(epochs)]
    folder = config.out / name / f"test-seed-{seed}"
    return Job(f"{name} seed {seed} on test", folder, tuple(words), "test")


def jobs_of(config: Table1Config, epochs: dict[str, int] | None = None) -> list[Job]:
    """All runs asked for; with `epochs` (by cell) those on test."""
    jobs = []
    for name in choose_cells(config.cells):
        count = None if epochs is None else epochs[name]
        if name in CELLS:
            jobs += [cell_job(config, CELLS[name], seed, count) for seed in range(config.seeds)]
        else:
            jobs += [
                baseline_job(config, name, seed, count) for seed in range(config.baseline_seeds)
            ]
    return jobs


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
    names = choose_cells(config.cells)
    parallel, threads = room(config.jobs, config.device)
    if not config.only_table and not config.final:
        # A baseline keeps every core busy by itself.
        for chosen, at_once, each in (
            ([n for n in names if n in CELLS], parallel, threads),
            ([n for n in names if n not in CELLS], 1, parallel * threads),
        ):
            if chosen:
                run_jobs(jobs_of(replace(config, cells=tuple(chosen))), at_once, each)
    if config.final:
        unfinished = [job.name for job in jobs_of(config) if not job.finished]
        if unfinished:
            raise RunError(
                f"{', '.join(unfinished)}: not done on the validation cut, by which everything is "
                "chosen; run the same command without --final first"
            )
        epochs = {
            name: choose_epochs([job.folder for job in jobs_of(replace(config, cells=(name,)))])
            for name in names
        }
        if not config.only_table:
            run_jobs(jobs_of(config, epochs), parallel, threads)
    record = tabulate(config.out, "test" if config.final else "val")
    stem = config.out / ("table1-test" if config.final else "table1")
    write_json(stem.with_suffix(".json"), record)
    text = format_table1(record)
    stem.with_suffix(".md").write_text(text + "\n")
    print(text)
    print(f"\nwritten: {stem.with_suffix('.json')}, {stem.with_suffix('.md')}")
    return record
