"""Pyramids of many images in one flat array of bytes, from which whole batches are cut at once.

Shape key: N images of the data set, S resolutions kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from glimpse_env.pyramids.pyramid import PATCH_SIDE, Pyramid, check_resolutions, level_shape

_LEAST_ROOM = 2**20
"""Bytes below which keeping images is given up."""
_on_host: weakref.WeakSet[PyramidArena] = weakref.WeakSet()


class PyramidArena:
    """Room for the pyramids of a data set's images, filled as they come and never emptied.

    A training split is walked over and over, each image once an epoch, so that dropping the least
    recently used image would drop the one needed next: what has no room is simply not kept.

    Attributes:
        flat: uint8 [capacity]: memory of this process (a page costs nothing until it is written),
            a memory-mapped file, or a tensor on a device.
        resolutions: The levels kept, S of them.
        start: int64 [N, S], where each level begins in `flat`; -1 if the image is not there.
        shape: int64 [N, S, 2], height and width of each level.
        image_shape: int64 [N, 2], height and width of the image.
        used: Bytes taken.
        patch_side: P, of the patches that are cut from it.

    Example:
        >>> from glimpse_env.pyramids import build_pyramid
        >>> arena = PyramidArena.in_memory(10, ("low",), capacity=1_000_000)
        >>> arena.add(3, build_pyramid(np.zeros((100, 200, 3), np.uint8), ("low",)))
        True
        >>> arena.num_kept
        1
    """

    def __init__(
        self,
        count: int,
        resolutions: Sequence[str],
        flat: np.ndarray | Tensor,
        used: int = 0,
        patch_side: int = PATCH_SIDE,
    ) -> None:
        """Lay out an empty arena.

        Args:
            count: N.
            resolutions: The levels to keep.
            flat: Where to keep them.
            used: Bytes taken already, at the beginning.
            patch_side: P.
        """
        self.patch_side = patch_side
        self.resolutions = check_resolutions(resolutions)
        self.flat = flat
        self.used = used
        self.start = np.full((count, len(self.resolutions)), -1, np.int64)
        self.shape = np.zeros((count, len(self.resolutions), 2), np.int64)
        self.image_shape = np.zeros((count, 2), np.int64)

    @classmethod
    def in_memory(
        cls,
        count: int,
        resolutions: Sequence[str],
        capacity: int,
        device: torch.device | None = None,
        patch_side: int = PATCH_SIDE,
    ) -> PyramidArena:
        """Make an empty arena of `capacity` bytes, in this process's memory or on a device."""
        if device is None or device.type == "cpu":
            arena = cls(count, resolutions, _reserve(capacity), patch_side=patch_side)
            _on_host.add(arena)
            return arena
        flat = torch.empty(capacity, dtype=torch.uint8, device=device)
        return cls(count, resolutions, flat, patch_side=patch_side)

    @staticmethod
    def promised() -> int:
        """Bytes of this process's memory that arenas may still fill."""
        return sum(arena.capacity - arena.used for arena in _on_host)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the images; see the class."""
        state = self.__dict__.copy()
        if isinstance(self.flat, np.memmap):
            state["flat"] = (str(self.flat.filename), self.flat.shape)
            return state
        device = self.flat.device if isinstance(self.flat, Tensor) else None
        made = (len(self), self.resolutions, self.capacity, device, self.patch_side)
        return {"in_memory": made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start empty, or map the file again.

        Raises:
            FileNotFoundError: If there was a mapped file, and it is gone.
        """
        if "in_memory" in state:
            state = PyramidArena.in_memory(*state["in_memory"]).__dict__
        else:
            path, shape = state["flat"]
            state = state | {"flat": np.memmap(path, np.uint8, mode="r", shape=shape)}
        self.__dict__.update(state)

    def __len__(self) -> int:
        """Number of images there are, kept or not."""
        return len(self.start)

    @property
    def capacity(self) -> int:
        """Size of the arena in bytes."""
        return len(self.flat)

    @property
    def num_kept(self) -> int:
        """Number of images kept."""
        return int((self.start[:, 0] >= 0).sum())

    def holds(self, image: Int64[np.ndarray, " B"]) -> Bool[np.ndarray, " B"]:
        """Say for each of these images whether the arena holds it."""
        return self.start[image, 0] >= 0

    def add(self, index: int, pyramid: Pyramid) -> bool:
        """Keep an image; False if there is no room for it.

        Raises:
            KeyError: If the pyramid lacks a level.
            ValueError: If it is for patches of another side.
        """
        if self.start[index, 0] >= 0:
            return True
        if pyramid.patch_side != self.patch_side:
            raise ValueError(
                f"a pyramid for patches of {pyramid.patch_side} pixels does not go into an arena "
                f"for patches of {self.patch_side}"
            )
        levels = [pyramid.levels[name] for name in self.resolutions]
        size = sum(level.nbytes for level in levels)
        if self.used + size > self.capacity:
            return False
        at = self.used
        for s, level in enumerate(levels):
            content = np.ascontiguousarray(level).reshape(-1)
            if isinstance(self.flat, Tensor):
                self.flat[at : at + level.nbytes] = torch.from_numpy(content.copy())
            else:
                self.flat[at : at + level.nbytes] = content
            self.shape[index, s] = level.shape[:2]
            self.start[index, s] = at
            at += level.nbytes
        self.image_shape[index] = pyramid.image_shape
        self.used = at
        return True

    def pyramid(self, index: int) -> Pyramid:
        """A kept image's levels: views of an array, copies of what lies on a device.

        Raises:
            KeyError: If the image is not kept.
        """
        if self.start[index, 0] < 0:
            raise KeyError(f"image {index} is not kept")
        levels = {}
        for s, name in enumerate(self.resolutions):
            height, width = self.shape[index, s].tolist()
            at = int(self.start[index, s])
            part = self.flat[at : at + 3 * height * width]
            array = part.cpu().numpy() if isinstance(part, Tensor) else part
            levels[name] = array.reshape(height, width, 3)
        height, width = self.image_shape[index].tolist()
        return Pyramid(levels, (height, width), self.patch_side)

    def columns(self, resolutions: Sequence[str]) -> list[int]:
        """Return the positions of these resolutions along axis S.

        Raises:
            KeyError: If one is not kept.
        """
        names = check_resolutions(resolutions)
        absent = [name for name in names if name not in self.resolutions]
        if absent:
            raise KeyError(f"the level {absent[0]!r} is not kept, only {self.resolutions}")
        return [self.resolutions.index(name) for name in names]


def _reserve(capacity: int) -> np.ndarray:
    """Memory for `capacity` bytes, or for less where the system refuses: then less is kept."""
    while True:
        try:
            return np.empty(capacity, np.uint8)
        except MemoryError:
            capacity //= 2
            if capacity < _LEAST_ROOM:
                return np.empty(0, np.uint8)


def pyramid_bytes(
    image_shape: Int64[np.ndarray, "N 2"],
    resolutions: Sequence[str],
    patch_side: int = PATCH_SIDE,
) -> Int64[np.ndarray, " N"]:
    """Bytes that the pyramid of each image takes."""
    names = check_resolutions(resolutions)
    sizes = [
        sum(3 * np.prod(level_shape((height, width), name, patch_side)) for name in names)
        for height, width in np.asarray(image_shape).tolist()
    ]
    return np.array(sizes, np.int64)
