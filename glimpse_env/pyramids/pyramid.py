"""Decoded images as multi-level pyramids, on which every retina patch is a plain copy.

The sides of the paper's patches are fractions of an image's short side (paper section 2: high is a
quarter, medium a half, low all of it) and each is resized to P x P, 96 unless asked otherwise. So
one resize of the whole image to short side 4 P, 2 P or P serves every fixation at that resolution.

Shape key: H W image height and width, h w the same of a level, P patch side.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

PATCH_SIDE = 96
"""Side of a patch where none is asked for, in level pixels (paper section 2)."""

PATCH_BYTES = 3 * PATCH_SIDE**2
"""Of such a patch, in RGB."""

PATCH_SIDES = (64, 224)
"""Smallest and largest side of a patch that can be asked for."""

RESOLUTIONS: tuple[str, ...] = ("low", "medium", "high")
"""All resolutions, coarsest first."""

_PATCHES_ACROSS: dict[str, int] = {"low": 1, "medium": 2, "high": 4}

LEVEL_SHORT_SIDE: dict[str, int] = {name: PATCH_SIDE * n for name, n in _PATCHES_ACROSS.items()}
"""Short side of each level in pixels, for patches of the ordinary side; see `short_side`."""

MAX_ASPECT = 1024
"""Longest accepted long side over short side; a high level of it takes 450 MB at P = 96."""


def check_patch_side(patch_side: int) -> int:
    """Returns the side of patches as a plain integer.

    Raises:
        ValueError: If it is no whole number from 64 to 224.
    """
    least, most = PATCH_SIDES
    try:
        side = operator.index(patch_side)
    except TypeError:
        side = 0
    if isinstance(patch_side, bool) or not least <= side <= most:
        raise ValueError(f"patch_side is a whole number from {least} to {most}, not {patch_side!r}")
    return side


def short_side(resolution: str, patch_side: int = PATCH_SIDE) -> int:
    """Short side of a level in pixels: the patch side over the patch's share of the short side.

    Args:
        resolution: One of `RESOLUTIONS`.
        patch_side: P.

    Example:
        >>> short_side("high"), short_side("high", 128)
        (384, 512)
    """
    return patch_side * _PATCHES_ACROSS[resolution]


def check_resolutions(resolutions: Sequence[str]) -> tuple[str, ...]:
    """Returns the resolutions as a tuple.

    Raises:
        ValueError: If there is none, one is unknown, or one comes twice.
    """
    names = (resolutions,) if isinstance(resolutions, str) else tuple(resolutions)
    unknown = [name for name in names if name not in LEVEL_SHORT_SIDE]
    if not names or unknown or len(set(names)) != len(names):
        raise ValueError(
            f"resolutions must be a non-empty subset of {RESOLUTIONS}, each at most once; "
            f"got {names}"
        )
    return names


def level_shape(
    image_shape: tuple[int, int], resolution: str, patch_side: int = PATCH_SIDE
) -> tuple[int, int]:
    """Height and width of a level: the short side is exact, the long one rounded.

    Args:
        image_shape: Height and width of the image in pixels.
        resolution: One of `RESOLUTIONS`.
        patch_side: P.
    """
    side, short = short_side(resolution, patch_side), min(image_shape)
    # Integer arithmetic (round half up) so that every machine agrees.
    height, width = ((2 * side * length + short) // (2 * short) for length in image_shape)
    return height, width


@dataclass(frozen=True, eq=False)
class Pyramid:
    """One image at the resolutions asked for.

    Attributes:
        levels: By resolution, the image resized to short side P, 2 P or 4 P (RGB).
        image_shape: Height and width of the original in pixels.
        patch_side: P, of the patches that are cut from it.

    Example:
        >>> pyramid = build_pyramid(np.zeros((100, 200, 3), np.uint8), ("low",))
        >>> pyramid.image_shape, pyramid.nbytes
        ((100, 200), 55296)
    """

    levels: dict[str, UInt8[np.ndarray, "_ _ 3"]]
    image_shape: tuple[int, int]
    patch_side: int = PATCH_SIDE

    @property
    def nbytes(self) -> int:
        """Memory taken by the levels, in bytes."""
        return sum(level.nbytes for level in self.levels.values())


def build_pyramid(
    image: UInt8[np.ndarray, "H W 3"],
    resolutions: Sequence[str] = RESOLUTIONS,
    patch_side: int = PATCH_SIDE,
) -> Pyramid:
    """Resizes an image once per resolution, anti-aliased.

    Each level comes straight from the original by a triangle filter as wide as two of its pixels,
    never from another level or a pre-reduced copy, so that the filter is the same for an image and
    its mirror image. torch's filter for bytes is Pillow's in integers, to one grey level in few
    values, at several times the speed.

    Args:
        image: RGB image of any size.
        resolutions: The levels to build; leave out those never looked at.
        patch_side: P, of the patches to be cut; the bytes of a level grow with its square.

    Returns:
        The levels asked for.

    Raises:
        ValueError: On an unknown resolution, an empty image, one more elongated than
            `MAX_ASPECT`, an array that is no RGB image, or a side out of `PATCH_SIDES`.

    Example:
        >>> pyramid = build_pyramid(np.zeros((100, 200, 3), np.uint8))
        >>> pyramid.levels["low"].shape, pyramid.levels["high"].shape
        ((96, 192, 3), (384, 768, 3))
    """
    names, side = check_resolutions(resolutions), check_patch_side(patch_side)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"an image is uint8 [height, width, 3], this one is {image.dtype} {list(image.shape)}"
        )
    shape = (image.shape[0], image.shape[1])
    if min(shape) == 0:
        raise ValueError(f"the image has no pixels: its shape is {image.shape}")
    if max(shape) > MAX_ASPECT * min(shape):
        raise ValueError(
            f"an image of {shape[1]}x{shape[0]} is more elongated than {MAX_ASPECT}:1; crop it"
        )
    # torch refuses negative strides, and warns of memory that it may not write to.
    usable = image.flags.c_contiguous and image.flags.writeable and min(image.strides) > 0
    # A batch of one, in the layout that torch knows as channels-last: levels come out in it too.
    pixels = torch.from_numpy(image if usable else image.copy(order="C"))[None]
    levels = {}
    for name in names:
        level = F.interpolate(
            pixels.permute(0, 3, 1, 2),
            level_shape(shape, name, side),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        levels[name] = level[0].permute(1, 2, 0).contiguous().numpy()
    return Pyramid(levels, shape, side)


def dataset_pyramid(
    dataset: SupportsImages,
    index: int,
    resolutions: Sequence[str] = RESOLUTIONS,
    patch_side: int = PATCH_SIDE,
) -> Pyramid:
    """Build the pyramid of a data set's image, and name the image where that cannot be done.

    Args:
        dataset: Where the image is from; its `path(index)` or `name(index)` is what errors say.
        index: Which image.
        resolutions: The levels to build.
        patch_side: P, of the patches to be cut.

    Raises:
        ValueError: As `build_pyramid`.
    """
    image = dataset.image(index)
    try:
        return build_pyramid(image, resolutions, patch_side)
    except ValueError as error:
        called = getattr(dataset, "path", None) or getattr(dataset, "name", None)
        name = f"image {index}" if called is None else called(index)
        raise ValueError(f"{name}: {error}") from error


@runtime_checkable
class SupportsImages(Protocol):
    """A data set that pyramids can be built from."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> np.ndarray:
        """The RGB image at an index, [H, W, 3] uint8."""
        ...
