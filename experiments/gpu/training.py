"""Stages that train: the core on patches, then Table 1 with it, live and at full width."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.gpu.measure import device_of
from experiments.gpu.plan import RECORDS, ROOT, Setting, UnfinishedError

_SPARE = 25.0
"""Seconds left over for a command to end when it is asked to."""
_LEAST = 40.0
"""Seconds below which nothing more is begun."""


def core(setting: Setting) -> dict[str, Any]:
    """Tune GoogLeNet on patches of the training images; goes on from its checkpoint.

    Raises:
        UnfinishedError: Time is up; the checkpoint is kept.
    """
    device_of(setting)
    folder = setting.out / "core"
    found = folder / f"{_core_name(setting)}.json"
    if not found.is_file():
        resume = ["--resume"] if (folder / "checkpoint" / "checkpoint.json").is_file() else []
        _glimpse(setting, [*core_command(setting, folder), *resume], {"steps": _last_step(folder)})
    kept = setting.out / RECORDS / "core"
    kept.mkdir(parents=True, exist_ok=True)
    for path in (found, found.with_suffix(".safetensors")):
        shutil.copyfile(path, kept / path.name)
    return {"core": found.name, "steps": _last_step(folder)}


def _core_name(setting: Setting) -> str:
    return "inception_mini" if setting.quick else "core"


def core_command(setting: Setting, folder: Path) -> list[str]:
    """Return the command that tunes the core."""
    common = ["pretrain", "--out", str(folder), "--device", setting.device]
    if setting.quick:
        small = "--num-images 12 --steps 2 --images 2 --looks 1 --probe 0 --checkpoint-every 1"
        return [*common, "--dataset", "synthetic", *small.split()]
    command = [*common, "--core", "googlenet", "--dataset", "stanford_dogs"]
    command += ["--steps", str(setting.core_steps), "--extent", "0.7", "--head-steps", "40"]
    command += ["--held-out", "0.02", "--images", "64", "--looks", "4", "--loaders", "12"]
    return [*command, "--cache-mb", "40000", "--checkpoint-every", "100", *_data_flags(setting)]


def _data_flags(setting: Setting) -> list[str]:
    flags = [] if setting.data_dir is None else ["--data-dir", str(setting.data_dir)]
    return flags + (["--allow-missing"] if setting.allow_missing else [])


def _last_step(folder: Path) -> int:
    try:
        return len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    except OSError:
        return 0


def table1(setting: Setting) -> dict[str, Any]:
    """Train the cells, seed by seed, and lay out those that are done.

    Each is `glimpse train` with a live encoder, mirrored images, random contexts, continuous
    fixations and 4,096 units a deck; finished runs stay, an unfinished one goes on.

    Raises:
        UnfinishedError: Time is up.
    """
    from experiments.paper.table1_report import tabulate

    device_of(setting)
    jobs, told = table1_jobs(setting), ""
    for job in jobs:
        if job.finished:
            continue
        if setting.left < _LEAST:
            told = "time is up"
            break
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.write()
        try:
            _glimpse(setting, ["job", str(job.file)], {})
        except UnfinishedError:
            told = f"{job.name} was interrupted"
            break
    done = [job for job in jobs if job.finished]
    result = {"runs": len(done), "of": len(jobs)}
    if done:
        result |= {"table": tabulate(done)}
    if told:
        raise UnfinishedError(result | {"because": told})
    return result


def table1_jobs(setting: Setting) -> list[Any]:
    """Return the runs: all cells with seed 0, then with seed 1, and so on."""
    from experiments.cluster.job import Job
    from experiments.data import DataConfig
    from experiments.paper.config import Table1Config
    from experiments.paper.table1 import cell_config
    from experiments.train.table1_cells import CELLS

    own = setting.out / "core" / "core.json"
    encoder = str(setting.core or (own if own.is_file() else "googlenet"))
    data = DataConfig(data_dir=setting.data_dir, allow_missing=setting.allow_missing)
    epochs, units, names = None, 4096, list(CELLS)
    if setting.quick:
        encoder, epochs, units, names = "inception_mini", 1, 16, ["high-1"]
        data = DataConfig(dataset="synthetic", num_images=16)
    config = Table1Config(
        out=setting.out / "table1",
        bank=None,
        encoder=encoder,
        data=data,
        hidden_size=units,
        device=setting.device,
        epochs=epochs,
        batch_size=8 if setting.quick else None,
    )
    jobs = []
    for seed in range(1 if setting.quick else setting.seeds):
        for name in names:
            run = cell_config(config, CELLS[name], seed)
            run = replace(run, mirror="auto", context="auto", storage="auto")
            jobs.append(Job("train", name, run))
    return jobs


def _glimpse(setting: Setting, arguments: list[str], progress: dict[str, Any]) -> None:
    """Run a `glimpse` command, asked to end before the stage's time is up.

    Raises:
        UnfinishedError: It was.
        RuntimeError: It failed.
    """
    command = [sys.executable, "-m", "experiments.cli", *arguments]
    print(f"glimpse {' '.join(arguments)}", flush=True)
    child = subprocess.Popen(command)
    try:
        code = child.wait(max(setting.left - _SPARE, 1.0))
    except subprocess.TimeoutExpired:
        child.terminate()
        try:
            child.wait(_SPARE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise UnfinishedError(progress) from None
    except BaseException:
        child.terminate()
        raise
    if code:
        raise RuntimeError(f"glimpse {arguments[0]} ended with code {code} (in {ROOT})")
