"""Pyramids in a file: made once by `glimpse pyramids`, memory-mapped by environments.

A folder holds `pyramids.json` (what it is), `sizes.i32` [N, 2] (height and width of each image),
`levels.u8` (the levels, image after image, in the order of the resolutions) and `done.u8` (one
byte a chunk of images). Where a level lies follows from the sizes, so that chunks can be built in
any order and by anybody.

Shape key: N images, S resolutions.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.folders import lay_out
from glimpse_env.datasets.base import ImageDataset, size_of
from glimpse_env.pyramids.arena import PyramidArena, pyramid_bytes
from glimpse_env.pyramids.pyramid import (
    PATCH_SIDE,
    RESOLUTIONS,
    check_patch_side,
    check_resolutions,
    dataset_pyramid,
    level_shape,
)

FORMAT = 1
_DESCRIPTION = "pyramids.json"
_MAX_SIDE = 2**24
"""Pixels of an image's side: far beyond any image, and no sum of sizes overflows."""


class PyramidsMismatchError(ValueError):
    """A folder of pyramids holds something else than what it is asked for."""


class PyramidsIncompleteError(RuntimeError):
    """The building of a folder of pyramids has not finished."""


@dataclass(frozen=True)
class MappedDescription:
    """Description of a folder of pyramids, as its record has it."""

    split: str
    """Split of the data set."""
    dataset: str
    """The data set's fingerprint."""
    num_images: int
    """N, the number of images."""
    resolutions: tuple[str, ...]
    """Levels, in the order they lie in."""
    num_bytes: int
    """Size of `levels.u8`."""
    chunk: int = 64
    """Images that are built, and marked done, together."""
    format: int = FORMAT
    """Version of the layout."""
    patch_side: int = PATCH_SIDE
    """P, of the patches that are cut from the levels."""

    @property
    def num_chunks(self) -> int:
        """Number of chunks that the folder is written in."""
        return -(-self.num_images // self.chunk)

    def record(self) -> dict[str, Any]:
        """Return the record of `pyramids.json`; the ordinary side is left out, as it always was."""
        record = asdict(self)
        if self.patch_side == PATCH_SIDE:
            del record["patch_side"]
        return record


class MappedPyramids:
    """A folder of pyramids, open to be built or read.

    Attributes:
        folder: Where it is.
        description: What it holds.
        arena: Its images, all of them laid out; those of chunks not done are not to be read.
        done: uint8 [chunks], 1 where a chunk is finished.
    """

    def __init__(self, folder: Path, description: MappedDescription, mode: str) -> None:
        """Map the files; use `create` or `open_mapped`."""
        self.folder, self.description = folder, description
        sizes = self._map("sizes.i32", np.int32, (description.num_images, 2), "r")
        flat = self._map("levels.u8", np.uint8, (description.num_bytes,), "r")
        self.done: Any = self._map("done.u8", np.uint8, (description.num_chunks,), mode)
        if sizes.size and not 0 < sizes.min() <= sizes.max() <= _MAX_SIDE:
            raise PyramidsMismatchError(
                f"{folder} is damaged: an image of {sizes.min()} or {sizes.max()} pixels; delete "
                "it and run `glimpse pyramids` again"
            )
        side = description.patch_side
        arena = PyramidArena(
            description.num_images, description.resolutions, flat, description.num_bytes, side
        )
        arena.image_shape[:] = sizes
        lengths = np.zeros(arena.start.shape, np.int64)
        for s, name in enumerate(description.resolutions):
            shapes = [level_shape((height, width), name, side) for height, width in sizes.tolist()]
            arena.shape[:, s] = np.array(shapes, np.int64).reshape(-1, 2)
            lengths[:, s] = 3 * arena.shape[:, s].prod(axis=1)
        ends = lengths.cumsum().reshape(lengths.shape)
        arena.start[:] = ends - lengths
        if len(ends) and ends[-1, -1] != description.num_bytes:
            raise PyramidsMismatchError(
                f"{folder} is damaged: its sizes add up to {ends[-1, -1]:,} bytes, its description "
                f"says {description.num_bytes:,}; delete it and run `glimpse pyramids` again"
            )
        self.arena = arena

    def _map(self, name: str, dtype: Any, shape: tuple[int, ...], mode: str) -> np.ndarray:
        path = self.folder / name
        # In Python's numbers: numpy's may overflow to a size that fits.
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        size = path.stat().st_size if path.exists() else -1
        if size != expected:
            raise PyramidsMismatchError(
                f"{path} should have {expected:,} bytes and "
                + (f"has {size:,}" if size >= 0 else "is not there")
                + ": delete the folder and run `glimpse pyramids` again"
            )
        if expected == 0:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, mode=mode, shape=shape)  # type: ignore[call-overload]

    @classmethod
    def create(
        cls,
        folder: Path,
        dataset: ImageDataset,
        resolutions: Sequence[str] = RESOLUTIONS,
        *,
        chunk: int = 64,
        patch_side: int = PATCH_SIDE,
    ) -> MappedPyramids:
        """Lay out a folder for a data set, or go on with the one that is there.

        Raises:
            PyramidsMismatchError: If the folder holds other pyramids.
        """
        names, side = check_resolutions(resolutions), check_patch_side(patch_side)
        if (folder / _DESCRIPTION).exists():
            found = cls(folder, _read_description(folder), "r+")
            _check(found, dataset, names, side, exactly=True)
            return found
        folder.mkdir(parents=True, exist_ok=True)
        sizes = np.array([size_of(dataset, i)[::-1] for i in range(len(dataset))], np.int32)
        sizes = sizes.reshape(-1, 2)
        description = MappedDescription(
            split=dataset.split,
            dataset=dataset.fingerprint,
            num_images=len(dataset),
            resolutions=names,
            num_bytes=int(pyramid_bytes(sizes, names, side).sum()),
            chunk=chunk,
            patch_side=side,
        )
        sizes.tofile(folder / "sizes.i32")
        lengths = {"levels.u8": description.num_bytes, "done.u8": description.num_chunks}
        lay_out(folder, lengths, _DESCRIPTION, json.dumps(description.record(), indent=1) + "\n")
        return cls(folder, description, "r+")

    def build(self, dataset: ImageDataset, workers: int) -> Iterator[int]:
        """Build the chunks that are not done, and yield how many images each was.

        Threads do it: decoding and resizing release the GIL. A chunk is marked done once its bytes
        are on the disk, so that a killed build goes on where it was.

        Args:
            dataset: The images.
            workers: Threads.
        """
        left = np.flatnonzero(self.done == 0).tolist()
        if workers == 1:
            yield from map(self._builder(dataset), left)
            return
        pool = ThreadPoolExecutor(workers)
        try:
            for future in as_completed([pool.submit(self._builder(dataset), c) for c in left]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _builder(self, dataset: ImageDataset) -> Callable[[int], int]:
        arena, size = self.arena, self.description.chunk

        def build(chunk: int) -> int:
            images = range(chunk * size, min((chunk + 1) * size, len(arena)))
            content = bytearray()
            for image in images:
                pyramid = dataset_pyramid(dataset, image, arena.resolutions, arena.patch_side)
                if list(pyramid.image_shape) != arena.image_shape[image].tolist():
                    raise PyramidsMismatchError(
                        f"{dataset.name(image)} changed while its pyramid was built: delete "
                        f"{self.folder} and run `glimpse pyramids` again"
                    )
                for name in arena.resolutions:
                    content += pyramid.levels[name].tobytes()
            # Written rather than mapped: flushing a map would wait for everybody's chunks.
            with open(self.folder / "levels.u8", "r+b") as file:
                file.seek(int(arena.start[images[0], 0]))
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.done[chunk] = 1
            self.done.flush()
            return len(images)

        return build


def open_mapped(
    folder: Path,
    dataset: ImageDataset,
    resolutions: Sequence[str],
    patch_side: int = PATCH_SIDE,
) -> PyramidArena:
    """Open a finished folder of pyramids, read-only.

    Args:
        folder: Folder that `glimpse pyramids` wrote.
        dataset: Images that it must hold.
        resolutions: Levels that it must hold.
        patch_side: P, of the patches that are to be cut.

    Returns:
        The mapped arena.

    Raises:
        FileNotFoundError: If the folder holds no pyramids.
        PyramidsMismatchError: If they are of other images, for patches of another side, or lack a
            resolution.
        PyramidsIncompleteError: If they are not finished.
    """
    found = MappedPyramids(folder, _read_description(folder), "r")
    _check(found, dataset, check_resolutions(resolutions), patch_side, exactly=False)
    missing = int((found.done == 0).sum())
    if missing:
        raise PyramidsIncompleteError(
            f"{missing} of {len(found.done)} chunks of {folder} are not built: run "
            "`glimpse pyramids` again, it goes on where it was"
        )
    return found.arena


def _check(
    found: MappedPyramids,
    dataset: ImageDataset,
    resolutions: tuple[str, ...],
    patch_side: int,
    *,
    exactly: bool,
) -> None:
    held = found.description
    if held.dataset != dataset.fingerprint or held.split != dataset.split:
        raise PyramidsMismatchError(
            f"{found.folder} holds pyramids of {held.num_images:,} images of split "
            f"{held.split!r} (fingerprint {held.dataset[:12]}), not of the {len(dataset):,} of "
            f"{dataset.split!r} asked for here ({dataset.fingerprint[:12]}): make them with "
            "`glimpse pyramids` in another folder, or open the data set that they were made of"
        )
    if held.patch_side != patch_side:
        raise PyramidsMismatchError(
            f"{found.folder} holds pyramids for patches of {held.patch_side} pixels, not of "
            f"{patch_side}: make them with `glimpse pyramids --patch-side {patch_side}` in another "
            "folder"
        )
    absent = [name for name in resolutions if name not in held.resolutions]
    if absent or (exactly and held.resolutions != resolutions):
        raise PyramidsMismatchError(
            f"{found.folder} holds the levels {', '.join(held.resolutions)}, not "
            f"{', '.join(resolutions)}: make them with `glimpse pyramids` in another folder"
        )


def _read_description(folder: Path) -> MappedDescription:
    path = folder / _DESCRIPTION
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no pyramids ({_DESCRIPTION} is not there): give one split's folder of "
            "`glimpse pyramids`, or storage='auto', 'device', 'host' or 'demand'"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError("no JSON object")
        record["resolutions"] = check_resolutions(record["resolutions"])
        description = MappedDescription(**record)
        check_patch_side(description.patch_side)
        numbers = (description.num_images, description.num_bytes, description.chunk)
        if min(numbers[:2]) < 0 or numbers[2] < 1 or not all(type(n) is int for n in numbers):
            raise ValueError(f"numbers out of range: {numbers}")
        if not isinstance(description.dataset, str) or not isinstance(description.split, str):
            raise TypeError("split and dataset are texts")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PyramidsMismatchError(
            f"{path} is no description of pyramids ({error}): delete the folder and run `glimpse "
            "pyramids` again"
        ) from error
    if description.format != FORMAT:
        raise PyramidsMismatchError(
            f"{folder} has format {description.format}, this version reads {FORMAT}: delete it and "
            "run `glimpse pyramids` again"
        )
    return description
