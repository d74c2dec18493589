"""Jobs on SLURM as `squeue` tells of them, by a stand-in for it: no SLURM is needed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from experiments.cluster.config import ClusterConfig
from experiments.cluster.job import Job
from experiments.cluster.slurm import SlurmExecutor
from experiments.cluster.worker import Outcome
from experiments.prepare.config import BankConfig
from experiments.runtime.runs import RunError

pytest.importorskip("submitit", reason="no submitit: pip install 'glimpse-env[slurm]'")
if os.name == "nt":
    pytest.skip("the stand-in for squeue is a shell script", allow_module_level=True)


@dataclass
class Submitted:
    """A job that submitit has submitted."""

    job_id: str
    folder: Path
    outcome: Outcome | None = None
    paths: Any = field(init=False)

    def __post_init__(self) -> None:
        self.paths = self
        self.result_pickle = self.folder / f"{self.job_id}_result.pkl"
        if self.outcome is not None:
            self.result_pickle.touch()

    def exception(self) -> None:
        return None

    def result(self) -> Outcome | None:
        return self.outcome


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `squeue` prints; it fails where there is none."""
    programs, told = tmp_path / "bin", tmp_path / "queue"
    programs.mkdir()
    for name, text in (("squeue", f'exec cat "{told}"'), ("sbatch", "exit 1")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("USER", "somebody")
    return told


@pytest.fixture
def executor(queue: Path, tmp_path: Path) -> SlurmExecutor:
    (tmp_path / "slurm").mkdir()
    return SlurmExecutor(ClusterConfig(cluster="slurm"), tmp_path / "slurm")


def job(name: str, tmp_path: Path) -> Job:
    return Job("bank", name, BankConfig(out=tmp_path / name))


def record(executor: SlurmExecutor, **ids: str) -> None:
    executor._record.write_text(json.dumps(ids))


@pytest.mark.parametrize(
    "state, outcome, kind",
    [
        ("PENDING", None, "waiting"),
        ("RUNNING", None, "running"),
        ("COMPLETING", None, "running"),
        ("COMPLETED", None, "running"),  # the result is not to be seen yet
        ("NODE_FAIL", None, "lost"),
        ("CANCELLED", None, "cancelled"),
        ("CANCELLED", Outcome(143), "cancelled"),
        ("CANCELLED", Outcome(0), "ended"),
        ("RUNNING", Outcome(1), "ended"),
    ],
)
def test_the_state_of_a_job_is_what_the_queue_and_its_result_say(
    state: str,
    outcome: Outcome | None,
    kind: str,
    executor: SlurmExecutor,
    queue: Path,
    tmp_path: Path,
) -> None:
    queue.write_text(f"7_0|{state}|n1\n8|RUNNING|n2\nno row\n")
    executor._jobs["a"] = Submitted("7_0", tmp_path, outcome)
    found = executor.states()["a"]
    assert found.kind == kind
    if kind == "lost":
        assert found.reason == "node fail on n1"


def test_a_job_that_left_the_queue_without_a_result_is_lost_after_a_while(
    executor: SlurmExecutor, queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.write_text("")
    executor._jobs["a"] = Submitted("7_0", tmp_path)
    assert executor.states()["a"].kind == "running"
    monkeypatch.setattr("experiments.cluster.slurm._GONE_FOR", -1.0)
    assert executor.states()["a"].kind == "lost"


def test_where_squeue_fails_jobs_are_as_they_were(
    executor: SlurmExecutor, queue: Path, tmp_path: Path
) -> None:
    queue.write_text("7_0|PENDING|\n7_1|RUNNING|n1\n")
    executor._jobs |= {"a": Submitted("7_0", tmp_path), "b": Submitted("7_1", tmp_path)}
    before = executor.states()
    queue.unlink()
    assert executor.states() == before


def test_jobs_of_an_earlier_sweep_are_those_still_in_the_queue(
    executor: SlurmExecutor, queue: Path
) -> None:
    assert executor._left_behind() == {}
    record(executor, a="7_0", b="7_1", c="7_2", d="7_3")
    queue.write_text("7_0|RUNNING|n1\n7_1|PENDING|\n7_2|FAILED|n1\n")
    assert executor._left_behind() == {"a": "7_0", "b": "7_1"}


def test_without_an_answer_nothing_is_submitted_again(
    executor: SlurmExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(executor, a="7_0")
    monkeypatch.setattr(executor, "_submit", lambda jobs: pytest.fail("submitted"))
    with pytest.raises(RunError, match="SLURM does not answer"):
        executor.submit([job("a", tmp_path)])
    assert json.loads(executor._record.read_text()) == {"a": "7_0"}


def test_the_record_keeps_the_jobs_of_other_sweeps(
    executor: SlurmExecutor, queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(executor, other="7_0")
    queue.write_text("7_0|RUNNING|n1\n")
    new = job("b", tmp_path)
    monkeypatch.setattr(executor, "_submit", lambda jobs: [Submitted("8_0", tmp_path)])
    executor.submit([new])
    assert json.loads(executor._record.read_text()) == {"other": "7_0", new.name: "8_0"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_submitting_comes_when_the_array_is_recorded(
    number: signal.Signals,
    executor: SlurmExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = job("b", tmp_path)

    def submit(jobs: list[Job]) -> list[Submitted]:
        os.kill(os.getpid(), number)
        return [Submitted("8_0", tmp_path)]

    monkeypatch.setattr(executor, "_submit", submit)
    usual = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            executor.submit([new])
        assert signal.getsignal(number) is signal.default_int_handler
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(number, usual)
    assert json.loads(executor._record.read_text()) == {new.name: "8_0"}
