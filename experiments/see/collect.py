"""What `glimpse view` shows: the agents of some runs, watched on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from encoders.bank import FeatureBank
from experiments.attention.measures import Scenery, survey
from experiments.data import breed
from experiments.geometry import relative_to_box, to_pixels
from experiments.metrics import score
from experiments.runtime.runs import RunError
from experiments.see.config import Over
from experiments.train.playback import OpenRun, Playback, open_run, play_back, run_titles
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.pyramid import PATCH_SIDE
from glimpse_env.retina.rules import patch_boxes

TOP = 5
"""Most probable breeds told after each glimpse."""


@dataclass(frozen=True)
class Player:
    """One agent of one run, watched.

    Shapes: T glimpses, N images.
    """

    run: str
    """The run's title."""
    agent: str
    """`learned` or a reference agent."""
    resolutions: tuple[str, ...]
    """What each glimpse shows."""
    watched: Playback
    """What it did on every image watched."""
    record: dict[str, Any]
    """Which run and checkpoint it is."""
    patch_side: int = PATCH_SIDE
    """P, side of its patches in pixels."""

    @property
    def answers(self) -> Int64[np.ndarray, " N"]:
        """Classes named at the end."""
        return self.watched.predictions[-1]


@dataclass(frozen=True)
class Collection:
    """Agents and the images that they were watched on."""

    dataset: ImageDataset
    """Images of the split."""
    players: tuple[Player, ...]
    """Who was watched, in the order of the runs."""
    scenery: Scenery
    """Sizes and boxes of every image watched."""
    shown: Int64[np.ndarray, " n"]
    """Places in the images watched of those that the page shows."""
    seed: int = 0
    """Seed of the choice of images and of the noise outside them."""

    @property
    def images(self) -> Int64[np.ndarray, " N"]:
        """Indices in the split of the images watched."""
        return self.scenery.images

    @property
    def patch_side(self) -> int:
        """P of the patches that the page shows: of runs of several sides the largest."""
        return max(player.patch_side for player in self.players)


def open_runs(
    folders: Sequence[Path],
    split: str,
    *,
    bank: Path | None = None,
    live: bool = False,
    data_dir: Path | None = None,
    num_images: int | None = None,
) -> list[tuple[OpenRun, str]]:
    """Open runs that are to be shown side by side, each with its title.

    Raises:
        RunError: A folder without a run or a checkpoint, or runs of different images.
    """
    opened: list[tuple[OpenRun, str]] = []
    for folder, title in zip(folders, run_titles(folders), strict=True):
        run = open_run(
            folder, split, bank=bank, live=live, data_dir=data_dir, num_images=num_images
        )
        first = opened[0][0].dataset if opened else run.dataset
        if run.dataset.fingerprint != first.fingerprint:
            raise RunError(
                f"{folder} is of other images than {folders[0]}: show runs of one data set "
                "together, the others in a file of their own"
            )
        opened.append((run, title))
    return opened


def choose_images(
    total: int, count: int, seed: int, *, everything: bool
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " n"]]:
    """Draw the images to show.

    Args:
        total: Images in the split.
        count: Images to show, at most.
        seed: Seed of the draw.
        everything: Watch the whole split, not only what is shown.

    Returns:
        Indices of the images to watch, and the places among them of those to show; both ascend.

    Example:
        >>> choose_images(4, 2, 0, everything=True)[0].tolist()
        [0, 1, 2, 3]
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    if everything:
        return np.arange(total), drawn
    return drawn, np.arange(len(drawn))


def collect(
    folders: Sequence[Path],
    split: str,
    *,
    count: int,
    seed: int = 0,
    over: Over = "auto",
    bank: Path | None = None,
    live: bool = False,
    data_dir: Path | None = None,
) -> Collection:
    """Watch every agent of some runs on the same images.

    Args:
        folders: Runs of `glimpse train`, or agents that come trained.
        split: Which images.
        count: Images to show.
        seed: Seed of their choice and of the noise outside them.
        over: Images to watch: the whole split, or those shown; `auto` watches the whole split
            where every run has a bank, since a live encoder takes its time.
        bank: Other banks than the runs' own.
        live: Use the live encoder although a run has banks.
        data_dir: Folder of the images, if it has moved.

    Raises:
        RunError: see `open_runs`.
    """
    runs = open_runs(folders, split, bank=bank, live=live, data_dir=data_dir, num_images=count)
    dataset = runs[0][0].dataset
    banked = all(isinstance(run.source, FeatureBank) for run, _ in runs)
    everything = over == "split" or (over == "auto" and banked)
    images, shown = choose_images(len(dataset), count, seed, everything=everything)
    players = [
        Player(
            title,
            run.config.policy if name == "learned" and run.config.policy != "two-deck" else name,
            run.resolutions,
            play_back(agent, run.env, images=images, seed=seed),
            run.describe(),
            run.config.patch_side,
        )
        for run, title in runs
        for name, agent in run.agents.items()
    ]
    return Collection(dataset, tuple(players), survey(dataset, images), shown, seed)


def describe(collection: Collection) -> dict[str, Any]:
    """All that the page shows besides the pixels, ready for JSON.

    Names are handed on as they are: the page is to treat them as text and nothing else.
    """
    dataset, scenery = collection.dataset, collection.scenery
    classes = dataset.class_names
    return {
        "split": dataset.split,
        "seed": collection.seed,
        "watched": len(collection.images),
        "total": len(dataset),
        "patch_side": collection.patch_side,
        "classes": [breed(name) for name in classes],
        "labels": np.asarray(dataset.labels)[collection.images].tolist(),
        "images": [
            {
                "at": place,
                "index": int(collection.images[place]),
                "name": dataset.name(int(collection.images[place])),
                "size": list(scenery.sizes[place]),
                "boxes": _round(scenery.boxes[place], 1),
                "context": _round(
                    _boxes(
                        scenery.sizes[place],
                        np.zeros((1, 2)),
                        ("low",),
                        patch_side=collection.patch_side,
                    )[0, 0]
                ),
            }
            for place in collection.shown.tolist()
        ],
        "players": [_describe_player(player, collection) for player in collection.players],
    }


def _describe_player(player: Player, collection: Collection) -> dict[str, Any]:
    watched, scenery = player.watched, collection.scenery
    classes = len(collection.dataset.class_names)
    found = score(watched.labels, player.answers, classes)
    relative = np.full(watched.fixations.shape, np.nan)
    for place, (boxes, size) in enumerate(zip(scenery.boxes, scenery.sizes, strict=True)):
        if len(boxes):
            points = to_pixels(watched.fixations[:, place], size)
            relative[:, place] = relative_to_box(points, boxes)
    probabilities = np.exp(watched.log_probs[-1])
    sure = probabilities[np.arange(len(player.answers)), player.answers]
    return {
        "run": player.run,
        "agent": player.agent,
        "folder": Path(player.record["run"]).name,
        "epoch": player.record["epoch"],
        "resolutions": list(player.resolutions),
        "looks": len(watched.fixations),
        "ma": [round(value, 1) for value in (found.ma, found.low, found.high)],
        "answers": player.answers.tolist(),
        "sure": _round(sure, 4),
        # Image by image, glimpse by glimpse, x then y.
        "fixations": _round(watched.fixations.transpose(1, 0, 2).ravel(), 3),
        "in_box": [
            None if np.isnan(value) else round(value, 3)
            for value in relative.transpose(1, 0, 2).ravel().tolist()
        ],
        "episodes": [
            _describe_episode(player, collection, place) for place in collection.shown.tolist()
        ],
    }


def _describe_episode(player: Player, collection: Collection, place: int) -> dict[str, Any]:
    watched = player.watched
    scales = None if watched.scales is None else watched.scales[:, place]
    log_probs = watched.log_probs[:, place]
    best = np.argsort(-log_probs, axis=1, kind="stable")[:, :TOP]
    size = collection.scenery.sizes[place]
    return {
        "boxes": _round(
            _boxes(size, watched.fixations[:, place], player.resolutions, scales, player.patch_side)
        ),
        "scales": None if scales is None else _round(scales, 2),
        "best": best.tolist(),
        "probabilities": _round(np.exp(np.take_along_axis(log_probs, best, axis=1)), 4),
        "truth": _round(np.exp(log_probs[:, watched.labels[place]]), 4),
    }


def _boxes(
    size: tuple[int, int],
    fixations: Float[np.ndarray, "T 2"],
    resolutions: tuple[str, ...],
    scales: Float[np.ndarray, " T"] | None = None,
    patch_side: int = PATCH_SIDE,
) -> Float[np.ndarray, "T S 4"]:
    return patch_boxes((size[1], size[0]), fixations, resolutions, scales, patch_side)


def _round(values: np.ndarray, digits: int = 2) -> list[Any]:
    return np.asarray(values, np.float64).round(digits).tolist()
