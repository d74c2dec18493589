"""Options of `glimpse view` and `record`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from agents.checked import Count, Positive
from experiments.data import Options

Over = Literal["auto", "split", "shown"]


@dataclass(frozen=True)
class ViewConfig(Options):
    """Write what the agents of finished runs did as one HTML file, for any browser."""

    runs: Positional[tuple[Path, ...]] = (Path("synthetic-dogs"),)
    """Run folders of `glimpse train`, shipped names or `hf://owner/name`; of one data set."""
    out: Path = Path("view.html")
    """The file; it needs no server and no network."""
    split: Literal["train", "val", "trainval", "test"] = "val"
    """Split to look at; `test` once, at the end."""
    count: Count = 200
    """Images to show, drawn at random."""
    over: Over = "auto"
    """Images behind heat maps and accuracies: all of the `split`, or those `shown` (`auto`: all
    where every run has a bank)."""
    max_mb: Positive = 20.0
    """Most that the file may take, in millions of bytes; images are compressed to fit."""
    title: str = "Where the agents look"
    """Title of the page."""
    bank: Path | None = None
    """Folder of other banks than the runs' own."""
    live: bool = False
    """Use the live encoder although a run was trained from a bank: fixations stay where chosen."""
    data_dir: Path | None = None
    """Folder of the images, if it has moved."""
    seed: int = 0
    """Seed of the choice of images and of the noise outside them."""
    scanpaths: Path | None = None
    """Write every glimpse of every image watched to this file too, `.csv` or `.parquet`."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        if not self.runs:
            raise ValueError("name at least one run folder of `glimpse train`")
        if self.out.is_dir():
            raise ValueError(f"--out is the file to write, and {self.out} is a folder")
        if self.scanpaths is not None:
            from experiments.attention.scanpaths import check_scanpath_file

            check_scanpath_file(self.scanpaths)


@dataclass(frozen=True)
class RecordConfig(Options):
    """Record what an agent sees, does and earns as a Minari data set (extra `minari`)."""

    run: Positional[Path]
    """Run folder of `glimpse train`, a shipped name or `hf://owner/name`."""
    minari: str
    """Name of the data set, such as `glimpse/dogs-v0`; it goes where Minari keeps them
    (`MINARI_DATASETS_PATH`)."""
    agent: str = "learned"
    """Who plays: `learned`, or a reference of the run with a checkpoint, `center` or `random`."""
    split: Literal["train", "val", "trainval", "test"] = "train"
    """Which images, each once."""
    count: Count | None = None
    """Episodes, of images drawn at random (default: all of the split)."""
    sampled: bool = False
    """Sample fixations, as in training, rather than looking at their mean."""
    bank: Path | None = None
    """Folder of other banks than the run's own."""
    live: bool = False
    """Use the live encoder although the run was trained from a bank."""
    data_dir: Path | None = None
    """Folder of the images, if it has moved."""
    seed: int = 0
    """Seed of the choice of images, the noise outside them and sampled fixations."""
