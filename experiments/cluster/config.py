"""Options of the commands that start jobs: how many, and on which machines."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from agents.checked import Count, Whole
from experiments.data import Options
from experiments.runtime.config import SharedConfig

_TIME = r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}"


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Options):
    """Options that say where jobs run; the defaults are this machine."""

    cluster: Literal["local", "slurm", "ray"] = "local"
    """Run on this machine, or on the nodes of SLURM (`pip install 'glimpse-env[slurm]'`) or of Ray
    (`glimpse-env[ray]`). Results are the same with as many --threads."""
    threads: Count | None = None
    """Threads a job (default: here the cores divided by --jobs, on a cluster 1)."""
    gpus: Whole = 0
    """GPUs a job asks for on a cluster."""
    retries: Whole = 2
    """How often a job that is killed (node lost, memory, time limit, preemption) starts again."""
    partition: str | None = None
    """Partition of SLURM, if not its default."""
    account: str | None = None
    """Account of SLURM, if not your default."""
    time: str | None = None
    """Limit a job, as SLURM reads it: MINUTES, H:MM:SS, DAYS-HOURS (default: the partition's)."""
    slurm: tuple[str, ...] = ()
    """Other options of `sbatch`, as KEY=VALUE or KEY, such as mem=8G constraint=a100 exclusive."""
    ray_address: str | None = None
    """HOST:PORT, ray://HOST:PORT or `auto` (default: $RAY_ADDRESS, else `auto`, the cluster that
    runs on this machine)."""

    def __post_init__(self) -> None:
        """Check before anything is submitted.

        Raises:
            ValueError: Naming the option.
        """
        super().__post_init__()
        if self.time is not None and not re.fullmatch(_TIME, self.time):
            raise ValueError(f"--time {self.time}: give MINUTES, H:MM:SS or DAYS-HOURS")
        for each in self.slurm:
            if not re.fullmatch(r"[a-z][a-z-]*(=.+)?", each):
                raise ValueError(f"--slurm {each}: give KEY=VALUE, such as mem=8G, or KEY")
        own = {"slurm": ("partition", "account", "time", "slurm"), "ray": ("ray_address",)}
        for cluster, names in own.items():
            given = [name for name in names if getattr(self, name)]
            if given and self.cluster != cluster:
                flag = given[0].replace("_", "-")
                raise ValueError(f"--{flag} is of --cluster {cluster}, not of {self.cluster}")
        if self.gpus and self.cluster == "local":
            raise ValueError("--gpus is of --cluster slurm and ray: here --device says which GPU")


LOCAL = ClusterConfig()
"""This machine."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(SharedConfig):
    """Options shared by the commands that start many runs."""

    jobs: Count | None = None
    """Runs side by side (default: one a core; on a GPU one; on a cluster as many as it takes)."""
    on: OmitArgPrefixes[ClusterConfig] = field(default_factory=ClusterConfig)
    """Where they run."""


@dataclass(frozen=True)
class JobConfig:
    """Run one job as a sweep wrote it down, or go on with it."""

    file: Positional[Path]
    """NAME.job.json, beside the run's folder."""


def parallelism(jobs: int | None, device: str = "auto") -> tuple[int, int]:
    """Return how many jobs run side by side on this machine, and the threads of each.

    By default one a core on a CPU, since decks of a few hundred units gain little from a second
    thread, and one a GPU, which one job fills.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if jobs is None:
        import torch

        gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
        jobs = gpus or (1 if device.startswith("cuda") else cores)
    return jobs, max(1, cores // jobs)
