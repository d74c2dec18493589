"""Options that the commands share which train, alone or many runs side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from experiments.data import DataConfig, Options


@dataclass(frozen=True, kw_only=True)
class SharedConfig(Options):
    """Options that `glimpse train-agent`, `compare`, `tune`, `variants` and `table1` share."""

    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which images; those of a synthetic environment are drawn in any case."""
    bank: Path | None = None
    """Folder of the feature banks (`glimpse bank`), if not the environment's own."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""
