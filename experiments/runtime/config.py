"""Options that the commands share which train, alone or many runs side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from experiments.data import DataConfig


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """What `glimpse contest`, `compare`, `tune`, `variants` and `table1` share."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which images; those of a synthetic environment are drawn in any case."""
    bank: Path | None = None
    """Folder of the feature banks (`glimpse bank`), if not the environment's own."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(SharedConfig):
    """What the commands share that start many runs."""

    jobs: int | None = None
    """Runs side by side (default: one a core; on a GPU one)."""

    def __post_init__(self) -> None:
        """Check the number of jobs.

        Raises:
            ValueError: naming the option.
        """
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"--jobs is at least 1, not {self.jobs}")


def parallelism(jobs: int | None, device: str = "auto") -> tuple[int, int]:
    """Return how many jobs run side by side, and the threads of each.

    By default one a core on a CPU, since decks of a few hundred units gain little from a second
    thread, and one at a time on a GPU, which one job fills.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if jobs is None:
        import torch

        cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        jobs = 1 if cuda else cores
    return jobs, max(1, cores // jobs)
