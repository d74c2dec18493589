"""Sweeps: what is done is left alone, what was begun goes on, what fails is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import sweep as sweep_module
from experiments.runs import RunError
from experiments.sweep import Job, room, run_jobs


@pytest.fixture
def glimpse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the command: notes how it was called, and ends as its first word says."""
    package = tmp_path / "stand_in" / "experiments"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(
        "import os, pathlib, sys\n"
        "words = sys.argv[1:]\n"
        "out = pathlib.Path(words[words.index('--out') + 1])\n"
        "out.mkdir(parents=True, exist_ok=True)\n"
        "(out / 'config.json').write_text('{}')\n"
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
    jobs = [Job(name, glimpse / name, ("train", name)) for name in ("a", "b", "c")]
    run_jobs(jobs, 2, 3)
    run_jobs(jobs, 2, 3)
    for job in jobs:
        assert calls(job.folder) == [f"train {job.name} --out {job.folder} threads=3"]


def test_a_run_that_was_begun_goes_on(glimpse: Path) -> None:
    job = Job("a", glimpse / "a", ("train", "a"))
    job.folder.mkdir()
    (job.folder / "config.json").touch()
    run_jobs([job], 1, 1)
    assert calls(job.folder) == [f"train a --out {job.folder} --resume threads=1"]


@pytest.mark.parametrize("how, reason", [("fail", "no such bank"), ("silent", "it said nothing")])
def test_a_failure_is_named_and_stops_no_other(glimpse: Path, how: str, reason: str) -> None:
    jobs = [Job("bad", glimpse / "bad", (how,)), Job("good", glimpse / "good", ("train",))]
    with pytest.raises(RunError, match=f"1 of 2 runs failed: bad: {reason}"):
        run_jobs(jobs, 1, 1)
    assert jobs[1].finished and not jobs[0].finished


def test_an_interruption_reaches_the_jobs(glimpse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (glimpse / "stand_in/experiments/cli.py").write_text(
        "import pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "out.mkdir(parents=True)\n"
        "try:\n"
        "    (out / 'up').touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    (out / 'interrupted').touch()\n"
    )
    job = Job("a", glimpse / "a", ("train",))

    def sleep(seconds: float) -> None:
        if (job.folder / "up").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job], 1, 1)
    assert (job.folder / "interrupted").exists()


def test_room_never_gives_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sweep_module.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False
    )
    assert room(None, "cpu") == (8, 1)
    assert room(2, "cpu") == (2, 4)
    assert room(16, "cpu") == (16, 1)
    assert room(None, "cuda:0") == (1, 8)
