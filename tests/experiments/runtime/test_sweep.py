"""Sweeps: what is done is left alone, what was begun goes on, what fails is named."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tyro

from experiments.runtime import sweep as sweep_module
from experiments.runtime.config import SweepConfig, parallelism
from experiments.runtime.runs import RunError
from experiments.runtime.sweep import Job, flags, run_jobs


@dataclass(frozen=True)
class Part:
    width: int = 8
    wide: bool = False


@dataclass(frozen=True)
class Config:
    out: Path = Path("run")
    resume: bool = False
    seed: int = 0
    names: tuple[str, ...] = ("a",)
    bank: Path | None = Path("banks")
    mirror: bool = True
    part: Part = field(default_factory=Part)
    eval_split: str = "val"


def job(folder: Path, command: str = "train", **settings: Any) -> Job:
    return Job(command, folder.name, Config(out=folder, **settings), Config())


@pytest.fixture
def glimpse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the command: notes how it was called, and ends as its first word says."""
    package = tmp_path / "stand_in" / "experiments"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(
        "import json, os, pathlib, sys\n"
        "words = sys.argv[1:]\n"
        "out = pathlib.Path(words[words.index('--out') + 1])\n"
        "out.mkdir(parents=True, exist_ok=True)\n"
        "(out / 'config.json').write_text(json.dumps({'seed': 0}))\n"
        "with open(out / 'calls', 'a') as file:\n"
        "    file.write(' '.join(words) + ' threads=' + os.environ['OMP_NUM_THREADS'] + '\\n')\n"
        "if words[0] == 'fail':\n"
        "    sys.exit('no such bank')\n"
        "if words[0] != 'silent':\n"
        "    (out / 'evaluation-val.json').write_text('{}')\n"
    )
    monkeypatch.chdir(package.parent)  # `python -m` looks here first
    monkeypatch.setattr(sweep_module, "_POLL_SECONDS", 0.02)
    return tmp_path


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_every_job_runs_once_with_its_command(glimpse: Path) -> None:
    jobs = [job(glimpse / name) for name in ("a", "b", "c")]
    run_jobs(jobs, 2, 3)
    run_jobs(jobs, 2, 3)
    for each in jobs:
        name, folder = each.experiment, each.folder
        assert calls(folder) == [f"train {name} --out {folder} threads=3"]


def test_a_run_that_was_begun_goes_on(glimpse: Path) -> None:
    begun = job(glimpse / "a")
    begun.folder.mkdir()
    (begun.folder / "config.json").touch()
    run_jobs([begun], 1, 1)
    assert calls(begun.folder) == [f"train a --out {begun.folder} --resume threads=1"]


def test_a_finished_run_of_other_settings_is_not_taken_for_the_one_asked_for(
    glimpse: Path,
) -> None:
    run_jobs([job(glimpse / "a")], 1, 1)
    with pytest.raises(RunError, match=r"other settings \(part.width\)"):
        run_jobs([job(glimpse / "a", part=Part(width=16))], 1, 1)


def test_flags_say_what_differs_and_nothing_else() -> None:
    assert flags(Config(), Config()) == []
    asked = Config(seed=3, names=("b", "c"), bank=None, mirror=False, part=Part(9, True))
    assert flags(asked, Config()) == [
        "--seed",
        "3",
        "--names",
        "b",
        "c",
        "--bank",
        "None",
        "--no-mirror",
        "--part.width",
        "9",
        "--part.wide",
    ]
    assert tyro.cli(Config, args=flags(asked, Config())) == asked


@pytest.mark.parametrize("how, reason", [("fail", "no such bank"), ("silent", "it said nothing")])
def test_a_failure_is_named_and_stops_no_other(glimpse: Path, how: str, reason: str) -> None:
    jobs = [job(glimpse / "bad", how), job(glimpse / "good")]
    with pytest.raises(RunError, match=f"1 of 2 runs failed: .*bad: {reason}"):
        run_jobs(jobs, 1, 1)
    assert jobs[1].finished and not jobs[0].finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_the_jobs(
    number: signal.Signals, glimpse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (glimpse / "stand_in/experiments/cli.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "out.mkdir(parents=True)\n"
        "try:\n"
        "    (out / 'up').touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    (out / 'interrupted').touch()\n"
    )
    asked, before = job(glimpse / "a"), signal.getsignal(signal.SIGTERM)
    # Started in the background, as by nohup, a process and its children ignore Ctrl-C.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)

    def sleep(seconds: float) -> None:
        if (asked.folder / "up").exists():
            signal.raise_signal(number)

    monkeypatch.setattr(sweep_module.time, "sleep", sleep)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs([asked], 1, 1)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert (asked.folder / "interrupted").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_jobs_never_get_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert parallelism(None, "cpu") == (8, 1)
    assert parallelism(2, "cpu") == (2, 4)
    assert parallelism(16, "cpu") == (16, 1)
    assert parallelism(None, "cuda:0") == (1, 8)
    with pytest.raises(ValueError, match="--jobs is at least 1, not 0"):
        SweepConfig(jobs=0)
