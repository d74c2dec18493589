"""`glimpse view`: what the agents of some runs did, as one HTML file to step through."""

from __future__ import annotations

from experiments.attention.scanpaths import (
    Columns,
    tabulate,
    write_scanpaths,
)
from experiments.runtime.runs import write_whole
from experiments.see.collect import Collection, collect
from experiments.see.config import ViewConfig
from experiments.see.page import Page, build_page


def tables(collection: Collection) -> list[Columns]:
    """The scanpaths of every agent, on all images watched."""
    return [
        tabulate(
            collection.dataset,
            collection.scenery.sizes,
            player.watched,
            run=player.run,
            agent=player.agent,
            resolutions=player.resolutions,
        )
        for player in collection.players
    ]


def view(config: ViewConfig) -> Page:
    """Watch the runs and write the page; says its size before it writes.

    Raises:
        RunError: A folder without a run or a checkpoint, or runs of different images.
        ValueError: The page does not fit, or Jinja2 is absent.
    """
    collection = collect(
        config.runs,
        config.split,
        count=config.count,
        seed=config.seed,
        over=config.over,
        bank=config.bank,
        live=config.live,
        data_dir=config.data_dir,
    )
    page = build_page(collection, title=config.title, max_megabytes=config.max_mb)
    count = len(collection.players)
    agents = "1 agent" if count == 1 else f"{count} agents"
    print(
        f"{config.out}: {page.megabytes:.1f} MB, {page.images} images of {agents} "
        f"(WebP, quality {page.quality})"
    )
    write_whole(config.out, page.html)
    print("written; open it in a browser")
    if config.scanpaths is not None:
        print(f"{config.scanpaths}: {write_scanpaths(config.scanpaths, tables(collection)):,} rows")
    return page
