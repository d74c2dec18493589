"""What runs jobs somewhere: one protocol, and the three that keep it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from experiments.cluster.config import ClusterConfig, parallelism
from experiments.cluster.job import Job, versions
from experiments.cluster.worker import EXPECTED, Order, Outcome


@dataclass(frozen=True)
class State:
    """State of a submitted job."""

    kind: Literal["waiting", "running", "ended", "lost", "cancelled"]
    """`lost`: killed, or its node; `cancelled`: by somebody, on purpose."""
    where: str = ""
    """The machine it runs on, where that is known."""
    outcome: Outcome | None = None
    """How the job ended; None before."""
    reason: str = ""
    """Why it was lost."""


class Executor(Protocol):
    """Runs jobs on some machines."""

    outlives: bool
    """Whether jobs go on when the sweep ends."""
    seconds: float
    """Between two looks at the jobs."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start jobs, or have them wait for room; a job that was lost may be submitted again."""
        ...

    def states(self) -> dict[str, State]:
        """Return the state of the jobs, by name."""
        ...

    def cancel(self) -> None:
        """End what runs, as by Ctrl-C where that is possible, and forget what waits."""
        ...

    def close(self) -> None:
        """Give back what is held; jobs are left as they are."""
        ...


def order(job: Job, threads: int) -> Order:
    """Describe a job for whoever runs it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONPATH" or name.startswith("GLIMPSE_")
    }
    return Order(
        os.path.abspath(job.file),
        os.path.abspath(job.log),
        os.getcwd(),
        threads,
        kept | {EXPECTED: json.dumps(versions())},
    )


def make_executor(
    on: ClusterConfig, *, out: Path, parallel: int | None, device: str = "auto"
) -> Executor:
    """Open what was asked for.

    Args:
        on: The options.
        out: Folder for what the cluster itself writes.
        parallel: Jobs side by side, if limited.
        device: That the jobs compute on.

    Raises:
        RunError: It is not installed, or does not answer; the message says what to do.
    """
    if on.cluster == "slurm":
        from experiments.cluster.slurm import SlurmExecutor

        return SlurmExecutor(on, out / "slurm", parallel)
    if on.cluster == "ray":
        from experiments.cluster.ray_tasks import RayExecutor

        return RayExecutor(on, parallel)
    from experiments.cluster.local import LocalExecutor

    count, threads = parallelism(parallel, device)
    return LocalExecutor(count, on.threads or threads, device)
