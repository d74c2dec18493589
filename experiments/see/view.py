"""`glimpse view`: what the agents of some runs did, as one HTML file to step through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from experiments.attention.scanpaths import (
    Columns,
    check_scanpath_file,
    tabulate,
    write_scanpaths,
)
from experiments.runtime.runs import write_whole
from experiments.see.collect import Collection, Over, collect
from experiments.see.page import Page, build_page


@dataclass(frozen=True)
class ViewConfig:
    """Write what the agents of finished runs did as one HTML file, for any browser."""

    runs: Positional[tuple[Path, ...]]
    """Run folders of `glimpse train`, shipped names or `hf://owner/name`; of one data set."""
    out: Path = Path("view.html")
    """The file; it needs no server and no network."""
    split: Literal["train", "val", "trainval", "test"] = "val"
    """Split to look at; `test` once, at the end."""
    count: int = 200
    """Images to show, drawn at random."""
    over: Over = "auto"
    """Images behind heat maps and accuracies: all of the `split`, or those `shown` (`auto`: all
    where every run has a bank)."""
    max_mb: float = 20.0
    """Most that the file may take, in millions of bytes; images are compressed to fit."""
    title: str = "Where the agents look"
    """Of the page."""
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
        if not self.runs:
            raise ValueError("name at least one run folder of `glimpse train`")
        if self.count < 1:
            raise ValueError(f"--count is at least 1, not {self.count}")
        if not self.max_mb > 0:
            raise ValueError(f"--max-mb is more than 0, not {self.max_mb:g}")
        if self.out.is_dir():
            raise ValueError(f"--out is the file to write, and {self.out} is a folder")
        check_scanpath_file(self.scanpaths)


def tables(collection: Collection) -> list[Columns]:
    """The scanpaths of every agent, on all images watched."""
    return [
        tabulate(
            collection.dataset, collection.scenery.sizes, player.watched, run=player.run,
            agent=player.agent, resolutions=player.resolutions,
        )
        for player in collection.players
    ]  # fmt: skip


def view(config: ViewConfig) -> Page:
    """Watch the runs and write the page; says its size before it writes.

    Raises:
        RunError: A folder without a run or a checkpoint, or runs of different images.
        ValueError: The page does not fit, or Jinja2 is absent.
    """
    collection = collect(
        config.runs, config.split, count=config.count, seed=config.seed, over=config.over,
        bank=config.bank, live=config.live, data_dir=config.data_dir,
    )  # fmt: skip
    page = build_page(collection, title=config.title, max_megabytes=config.max_mb)
    print(
        f"{config.out}: {page.megabytes:.1f} MB, {page.images} images of "
        f"{len(collection.players)} agents (WebP, quality {page.quality})"
    )
    write_whole(config.out, page.html)
    print("written; open it in a browser")
    if config.scanpaths is not None:
        print(f"{config.scanpaths}: {write_scanpaths(config.scanpaths, tables(collection)):,} rows")
    return page
