"""Sweeps: what is done is left alone, what was begun goes on, what is killed starts again."""

from __future__ import annotations

import io
import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from experiments.cluster import local as local_module, sweep as sweep_module
from experiments.cluster.config import ClusterConfig, SweepConfig, parallelism
from experiments.cluster.executor import State
from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.cluster.table import JobTable
from experiments.runtime.runs import RunError


@dataclass(frozen=True)
class Part:
    width: int = 8
    wide: bool = False


@dataclass(frozen=True)
class Config:
    out: Path = Path("run")
    resume: bool = False
    seed: int = 0
    bank: Path | None = Path("banks")
    part: Part = field(default_factory=Part)
    eval_split: str = "val"


def job(folder: Path, command: str = "train", **settings: Any) -> Job:
    return Job(command, folder.name, Config(out=folder, **settings))


STAND_IN = """
import json, os, pathlib, signal, sys
job = json.loads(pathlib.Path(sys.argv[2]).read_text())
out, command = pathlib.Path(job["config"]["out"]), job["command"]
out.mkdir(parents=True, exist_ok=True)
(out / "config.json").write_text(json.dumps({"seed": 0}))
with open(out / "calls", "a") as file:
    file.write(f"{sys.argv[1]} {command} {job['experiment']} {os.environ['OMP_NUM_THREADS']}\\n")
if command == "fail":
    print("no such bank")
    sys.exit(1)
if command == "killed":
    print("half way")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
if command == "killed-once" and not (out / "once").exists():
    (out / "once").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if command != "silent":
    (out / "evaluation-val.json").write_text("{}")
"""


@pytest.fixture
def glimpse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the command: notes how it was called, and ends as the job's command says."""
    package = tmp_path / "stand_in" / "experiments"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(STAND_IN)
    monkeypatch.chdir(package.parent)  # `python -m` looks here first
    monkeypatch.setattr(local_module.LocalExecutor, "seconds", 0.02)
    return tmp_path


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_every_job_runs_once_as_its_file_says(glimpse: Path) -> None:
    jobs = [job(glimpse / name) for name in ("a", "b", "c")]
    for _ in range(2):
        run_jobs(jobs, ClusterConfig(threads=3), out=glimpse, parallel=2)
    for each in jobs:
        assert calls(each.folder) == [f"job train {each.experiment} 3"]


def test_a_finished_run_of_other_settings_is_not_taken_for_the_one_asked_for(
    glimpse: Path,
) -> None:
    run_jobs([job(glimpse / "a")], out=glimpse)
    with pytest.raises(RunError, match=r"other settings \(part.width\)"):
        run_jobs([job(glimpse / "a", part=Part(width=16))], out=glimpse)


@pytest.mark.parametrize("how, reason", [("fail", "no such bank"), ("silent", "it said nothing")])
def test_a_failure_is_named_and_stops_no_other(glimpse: Path, how: str, reason: str) -> None:
    jobs = [job(glimpse / "bad", how), job(glimpse / "good")]
    with pytest.raises(RunError, match=f"1 of 2 runs failed: .*bad: {reason}"):
        run_jobs(jobs, out=glimpse, parallel=1)
    assert jobs[1].finished and not jobs[0].finished
    assert len(calls(jobs[0].folder)) == 1  # it said what is wrong: again it would say the same


@pytest.mark.skipif(os.name == "nt", reason="there are no signals to be killed by")
def test_a_killed_job_starts_again_and_then_is_named(
    glimpse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(glimpse / "bad", "killed"), job(glimpse / "unlucky", "killed-once")]
    with pytest.raises(RunError, match=r"bad: killed \(SIGKILL\), started 3 times; .*half way"):
        run_jobs(jobs, ClusterConfig(retries=2), out=glimpse, parallel=1)
    assert jobs[1].finished
    assert [len(calls(each.folder)) for each in jobs] == [3, 2]
    told = capsys.readouterr().err
    assert "bad failed: killed (SIGKILL)" in told and "\n    half way" in told


@pytest.mark.skipif(os.name == "nt", reason="there are no signals to be killed by")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_the_jobs(
    number: signal.Signals, glimpse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (glimpse / "stand_in/experiments/cli.py").write_text(
        "import json, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "out = pathlib.Path(json.loads(pathlib.Path(sys.argv[2]).read_text())['config']['out'])\n"
        "out.mkdir(parents=True)\n"
        "try:\n"
        "    (out / 'up').touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    (out / 'interrupted').touch()\n"
    )
    asked, before = job(glimpse / "a"), signal.getsignal(signal.SIGTERM)
    # Started in the background, as by nohup, this process may ignore Ctrl-C.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)

    def sleep(seconds: float) -> None:
        if (asked.folder / "up").exists():
            signal.raise_signal(number)

    monkeypatch.setattr(sweep_module.time, "sleep", sleep)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs([asked], out=glimpse, parallel=1)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert (asked.folder / "interrupted").exists()
    assert signal.getsignal(signal.SIGTERM) is before


class Outliving:
    """Jobs that go on without the sweep, on machines that lose them as told."""

    outlives, seconds = True, 0.0

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.cancelled = False

    def submit(self, jobs: list[Job]) -> None:
        self.submitted += [each.name for each in jobs]

    def states(self) -> dict[str, State]:
        raise KeyboardInterrupt

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        pass


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer, left", [("\n", True), ("y\n", True), ("n\n", False), ("", False)])
def test_on_a_terminal_an_interruption_asks_whether_to_leave_the_jobs(
    answer: str, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Outliving()
    monkeypatch.setattr(sweep_module, "make_executor", lambda *a, **k: executor)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path / "a")], out=tmp_path)
    assert executor.submitted and executor.cancelled is not left


def test_without_a_terminal_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Outliving()
    monkeypatch.setattr(sweep_module, "make_executor", lambda *a, **k: executor)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path / "a")], out=tmp_path)
    assert executor.cancelled


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGHUP")
def test_jobs_that_outlive_the_sweep_go_on_when_the_terminal_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Outliving()
    monkeypatch.setattr(executor, "states", lambda: signal.raise_signal(signal.SIGHUP))
    monkeypatch.setattr(sweep_module, "make_executor", lambda *a, **k: executor)
    usual = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs([job(tmp_path / "a")], out=tmp_path)
    finally:
        signal.signal(signal.SIGHUP, usual)
    assert executor.submitted and not executor.cancelled


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGHUP")
def test_under_nohup_a_sweep_goes_on_when_the_terminal_is_closed(
    glimpse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    states = local_module.LocalExecutor.states

    def hang_up(executor: local_module.LocalExecutor) -> dict[str, State]:
        signal.raise_signal(signal.SIGHUP)
        return states(executor)

    monkeypatch.setattr(local_module.LocalExecutor, "states", hang_up)
    try:
        run_jobs([job(glimpse / "a")], out=glimpse, parallel=1)
    finally:
        signal.signal(signal.SIGHUP, usual)
    assert job(glimpse / "a").finished


def test_jobs_never_get_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert parallelism(None, "cpu") == (8, 1)
    assert parallelism(2, "cpu") == (2, 4)
    assert parallelism(16, "cpu") == (16, 1)
    assert parallelism(None, "cuda:0") == (1, 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert parallelism(None, "auto") == (4, 2)  # one a GPU
    assert parallelism(None, "cuda:0") == (1, 8)
    with pytest.raises(ValueError, match="--jobs is at least 1, not 0"):
        SweepConfig(jobs=0)


def test_jobs_side_by_side_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = [local_module._gpu(slot, 4, "auto") for slot in range(4)]
    assert gpus == ["0", "1", "0", "1"]
    assert local_module._gpu(1, 4, "cuda:0") == local_module._gpu(1, 4, "cpu") == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert [local_module._gpu(slot, 3, "auto") for slot in range(3)] == ["4", "5", "4"]


def test_a_job_that_starts_while_the_others_are_ended_is_ended_too() -> None:
    class Process:
        ended = False

        def terminate(self) -> None:
            self.ended = True

        def kill(self) -> None:
            pass

    executor, early, late = local_module.LocalExecutor(1, 1, "cpu"), Process(), Process()
    executor._started("early", early)  # type: ignore[arg-type]
    executor.cancel()
    executor._started("late", late)  # type: ignore[arg-type]
    assert early.ended and late.ended


def test_a_job_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(threading.Event):
        def terminate(self) -> None:
            pass

        kill = threading.Event.set

    monkeypatch.setattr(local_module, "_LAST_WORD", 0.1)
    executor, deaf = local_module.LocalExecutor(1, 1, "cpu"), Deaf()
    executor._futures["deaf"] = executor._pool.submit(deaf.wait, 300)  # type: ignore[arg-type]
    executor._started("deaf", deaf)  # type: ignore[arg-type]
    executor.cancel()
    assert deaf.is_set()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"retries": -1}, "--retries is at least 0"),
        ({"threads": 0}, "--threads is at least 1"),
        ({"partition": "p"}, "--partition is of --cluster slurm, not of local"),
        ({"cluster": "slurm", "ray_address": "auto"}, "--ray-address is of --cluster ray"),
        ({"cluster": "slurm", "slurm": ("mem=",)}, "give KEY=VALUE"),
        ({"cluster": "slurm", "time": "soon"}, "give MINUTES, H:MM:SS"),
        ({"gpus": 1}, "--gpus is of --cluster slurm and ray"),
    ],
)
def test_wrong_options_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClusterConfig(**settings)


def test_a_table_is_redrawn_on_a_terminal_and_a_log_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for stream in (io.StringIO(), Terminal()):
        with JobTable(["a", "b", "c"], ["b", "c"], stream) as table:
            table.show("b", "running", "node-1", 1)
            table.show("c", "again", "node fail on node-2", 2)
            table.draw()
            table.show("b", "done", "", 1)
        text = stream.getvalue()
        assert ("\x1b[" in text) is isinstance(stream, Terminal)
        assert "running on node-1" in text and "started again: node fail on node-2" in text
        assert "2 of 3 done, 1 again" in text
