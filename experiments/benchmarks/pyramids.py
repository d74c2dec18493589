"""Images a second made into pyramids, against the decoding of the same files alone.

Stanford Dogs where they are, else drawn images written as JPEG files of the usual size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from encoders.threads import in_parts
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    interleave,
    machine_record,
)
from glimpse_env.datasets.base import ImageFiles
from glimpse_env.datasets.errors import DatasetNotFoundError
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.datasets.stanford_dogs import StanfordDogs
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.mapped import MappedPyramids
from glimpse_env.pyramids.pyramid import RESOLUTIONS, build_pyramid
from glimpse_env.pyramids.storage import usual_bytes

CLAIM = "Building pyramids takes less than 3 times the pure decoding time of the same files."
MOST = 3.0
DECODE, MEMORY, FILE = "decoding alone", "pyramids in memory", "pyramids in a file to be mapped"


def run(*, quick: bool = False) -> Result:
    """Measure all three, by as many threads as torch has.

    Args:
        quick: A few small images; proves nothing.
    """
    windows, seconds, images = (2, 0.0, 8) if quick else (9, 0.5, 256)
    machine = machine_record(("pillow",))
    with tempfile.TemporaryDirectory() as folder, _images(images, Path(folder)) as found:
        dataset, kind = found
        rates = interleave(
            [_decoding(dataset), _in_memory(dataset), _in_a_file(dataset, Path(folder))],
            windows=windows,
            seconds=seconds,
        )
    ratios = {name: rates[DECODE].over(rates[name])[1] for name in (MEMORY, FILE)}
    return Result(
        claim=CLAIM,
        holds=max(ratios.values()) < MOST,
        header=("images a second", "median (quartiles) by processor time, and by the clock"),
        rows=(
            *((name, rate.cell()) for name, rate in rates.items()),
            *((f"time of {name} / {DECODE}", f"{ratio:.2f}x") for name, ratio in ratios.items()),
        ),
        notes=_notes(rates, kind, images),
        measured={
            "environment": machine,
            "settings": {"images": images, "kind": kind, "windows": windows},
            "times_over_decoding": {name: round(ratio, 3) for name, ratio in ratios.items()},
            "images_per_second": {name: rate.record() for name, rate in rates.items()},
        },
    )


class _Some:
    """The first images of a data set, as a data set."""

    def __init__(self, dataset: ImageFiles, count: int) -> None:
        self.dataset, self.count = dataset, min(count, len(dataset))

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)


@contextmanager
def _images(count: int, folder: Path) -> Iterator[tuple[Any, str]]:
    try:
        yield _Some(StanfordDogs(None, "val", allow_missing=True), count), "Stanford Dogs"
        return
    except DatasetNotFoundError:
        pass
    drawn = SyntheticDogs("train", num_images=count)
    target = folder / "drawn" / "dog"
    target.mkdir(parents=True)
    for index in range(count):
        image = Image.fromarray(drawn.image(index)).resize((500, 375))
        image.save(target / f"{index:05d}.jpg", quality=90)
    yield _Some(ImageFolder(folder / "drawn", "trainval"), count), "drawn, as JPEG"


def _all(count: int, work: Callable[[int], object]) -> Callable[[], int]:
    def part(start: int, stop: int) -> None:
        for index in range(start, stop):
            work(index)

    def run_once() -> int:
        in_parts(part, count)
        return count

    return run_once


def _decoding(dataset: Any) -> Contender:
    def decode(index: int) -> None:
        with Image.open(dataset.path(index)) as image:
            image.load()

    return Contender(DECODE, _all(len(dataset), decode))


def _in_memory(dataset: Any) -> Contender:
    """Build as a vector environment does: by threads, then copied into the arena."""
    capacity = 2 * usual_bytes(len(dataset), RESOLUTIONS)
    arena = PyramidArena.in_memory(len(dataset), RESOLUTIONS, capacity)

    def work() -> int:
        made: dict[int, Any] = {}

        def build(index: int) -> None:
            made[index] = build_pyramid(dataset.image(index))

        _all(len(dataset), build)()
        arena.start[:], arena.used = -1, 0
        for index, pyramid in made.items():
            arena.add(index, pyramid)
        return len(dataset)

    return Contender(MEMORY, work)


def _in_a_file(dataset: Any, folder: Path) -> Contender:
    mapped = MappedPyramids.create(folder / "mapped", dataset, chunk=32)

    def work() -> int:
        mapped.done[:] = 0
        return sum(mapped.build(dataset, workers=torch.get_num_threads()))

    return Contender(FILE, work)


def _notes(rates: dict[str, Rate], kind: str, images: int) -> tuple[str, ...]:
    file = float(np.median(rates[FILE].clock))
    size = usual_bytes(1000, RESOLUTIONS) / 1000
    return (
        f"{torch.get_num_threads()} thread(s), {os.cpu_count()} core(s); {images} images: "
        f"{kind}. Files are in the system's cache.",
        f"In a file, {file * size / 1e6:,.0f} MB a second are written and synchronised to the "
        "disk, so that a machine that dies loses no finished chunk: the disk counts in.",
    )
