"""Sweeps on a real SLURM of two nodes: as on one machine, bit for bit, whatever dies meanwhile."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import command, glimpse, table, table_command, until
from tests.cluster.slurm_here import SlurmHere, missing

pytest.importorskip("submitit", reason="no submitit: pip install 'glimpse-env[slurm]'")


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmHere]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with SlurmHere() as running:
        yield running


SLURM = ("--cluster", "slurm", "--partition", "p", "--slurm", "oversubscribe")


def running(slurm: SlurmHere) -> set[str]:
    """Nodes on which jobs run."""
    return {node for state, node in slurm.jobs().values() if state == "RUNNING"}


def test_a_node_that_dies_costs_its_jobs_another_start(
    slurm: SlurmHere, banks: Path, here: tuple[Any, Any], tmp_path: Path
) -> None:
    out = tmp_path / "table"
    sweep = command(*table_command(banks, out, *SLURM), **slurm.environment)
    try:
        until(lambda: running(slurm) == {"n1", "n2"}, "two running jobs")
        until(lambda: list(out.glob("*/seed-*/config.json")), "a run that has begun")
        slurm.kill_node("n2")
        said, _ = sweep.communicate(timeout=1800)
    finally:
        sweep.kill()
        slurm.start_node("n2")
    assert sweep.returncode == 0, said
    assert "started again" in said
    assert table(out) == here
    # One array, and not a submission a job.
    arrays = {path.name.split("_")[0] for path in (out / "slurm").glob("*_submission.sh")}
    assert len(arrays) <= 3, arrays


def test_a_sweep_that_is_killed_finds_its_jobs_again(
    slurm: SlurmHere, banks: Path, here: tuple[Any, Any], tmp_path: Path
) -> None:
    out = tmp_path / "table"
    until(lambda: set(slurm.nodes().values()) == {"idle"}, "two idle nodes")
    words = table_command(banks, out, *SLURM)
    first = command(*words, **slurm.environment)
    until(lambda: running(slurm), "a running job")
    until((out / "slurm" / "submitted.json").exists, "a record of what was submitted")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = json.loads((out / "slurm" / "submitted.json").read_text())
    assert len(before) == 4
    glimpse(*words, **slurm.environment)
    assert json.loads((out / "slurm" / "submitted.json").read_text()) == before
    assert table(out) == here


def test_without_a_terminal_an_interruption_cancels_the_jobs(
    slurm: SlurmHere, banks: Path, tmp_path: Path
) -> None:
    sweep = command(*table_command(banks, tmp_path / "table", *SLURM), **slurm.environment)
    until(lambda: running(slurm), "a running job")
    sweep.send_signal(signal.SIGINT)
    said, _ = sweep.communicate(timeout=1800)
    assert sweep.returncode == 130, said
    assert "the same command goes on where it was" in said
    until(lambda: not slurm.jobs(), "an empty queue")


def test_what_sbatch_refuses_is_one_sentence(slurm: SlurmHere, banks: Path, tmp_path: Path) -> None:
    words = table_command(banks, tmp_path / "t", "--cluster", "slurm", "--partition", "nowhere")
    sweep = command(*words, **slurm.environment)
    said, _ = sweep.communicate(timeout=1800)
    assert sweep.returncode == 1
    assert "sbatch refused the jobs: " in said and "partition" in said
    assert "Traceback" not in said
