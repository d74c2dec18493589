"""Options of `glimpse attention`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from agents.checked import Count
from experiments.cluster.config import ClusterConfig
from experiments.data import Options


@dataclass(frozen=True)
class AttentionConfig(Options):
    """Say where the agents of finished runs look, against the dogs' boxes, and what it is worth."""

    runs: Positional[tuple[Path, ...]]
    """Runs of `glimpse train`, `hf://owner/name`, and records of `glimpse play` (one, or --out)."""
    out: Path = Path("attention")
    """Folder of attention.json, attention.md and attention.png."""
    split: Literal["train", "val", "trainval", "test"] = "val"
    """Split to look at; `test` once, at the end."""
    count: Count | None = None
    """Images, drawn at random (default: all of the split)."""
    bank: Path | None = None
    """Folder of other banks than the runs' own."""
    live: bool = False
    """Use the live encoder although a run was trained from a bank: fixations stay where chosen."""
    two_dogs: bool = False
    """Show images with two dogs each (runs on synthetic dogs only; live encoder)."""
    data_dir: Path | None = None
    """Folder of the images, if it has moved."""
    seed: int = 0
    """Seed of the choice of images and of the noise outside them."""
    dataset: str | None = None
    """Data set that records of `glimpse play` may import, as `module:function`; by itself a record
    imports no code."""
    scanpaths: Path | None = None
    """Write every glimpse of every agent to this file too, `.csv` or `.parquet`."""
    on: OmitArgPrefixes[ClusterConfig] = field(default_factory=ClusterConfig)
    """Where it is computed; on a cluster it is one job."""
    keypoints: Path | None = None
    """JSON file of StanfordExtra: tells whether fixations fall on the face."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        if not self.runs:
            raise ValueError("name at least one run folder of `glimpse train`")
        if self.scanpaths is not None:
            from experiments.attention.scanpaths import check_scanpath_file

            check_scanpath_file(self.scanpaths)
