"""The retina: fixations to boxes to patches (paper section 2, Figure 3). Pure functions.

Convention:
    A fixation (x, y) is the centre of a patch: -1 is the left or top edge of the image, +1 the
    right or bottom edge. Beyond that it is clipped. On a level of w pixels a patch of P pixels
    starts at floor((x + 1) / 2 * w - P / 2 + 1/2), so its centre is within half a patch pixel of
    the fixation. Pixels outside the image are uniform noise, a function of a key, the resolution
    and P alone. Looking at the mirrored image is, to the byte, looking at image[:, ::-1].

Shape key: B batch, S resolutions, P patch side (96 by default).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, UInt8, UInt64
from PIL import Image

from glimpse_env.pyramids.pyramid import (
    LEVEL_SHORT_SIDE,
    PATCH_SIDE,
    RESOLUTIONS,
    Pyramid,
    check_patch_side,
    check_resolutions,
    level_shape,
)

__all__ = [
    "LEVEL_SHORT_SIDE",
    "PATCH_SIDE",
    "RESOLUTIONS",
    "cut_patches",
    "cut_scaled_patches",
    "noise_offsets",
    "noise_patches",
    "noise_table",
    "patch_boxes",
    "patch_origins",
    "prepare_out",
    "splitmix64",
]

_NOISE_TABLE_BYTES = 2**20
_NOISE_SEED = 20141222
_GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Hash 64-bit integers, each on its own (the SplitMix64 finaliser; Steele et al. 2014).

    Successive outputs of the generator started at x are splitmix64(x), splitmix64(x + golden), ...
    so that a key and a counter give as many independent draws as wanted, the same one by one as in
    a batch.

    Args:
        x: Integers to hash, of any shape.

    Returns:
        Hashes of the same shape.

    Example:
        >>> hex(int(splitmix64(np.zeros(1, np.uint64))[0]))
        '0xe220a8397b1dcdaf'
    """
    z = np.atleast_1d(x) + np.uint64(_GOLDEN)  # arrays wrap in silence, scalars would warn
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).reshape(np.shape(x))


def _clip_fixation(fixation: np.ndarray) -> np.ndarray:
    """Float64 fixations in [-1, 1]."""
    if np.isnan(fixation).any():
        raise ValueError("a fixation is NaN; it must be (x, y) with -1 left/top, +1 right/bottom")
    return np.clip(fixation.astype(np.float64), -1.0, 1.0)


def _snap(fixation: np.ndarray, size: np.ndarray, patch_side: int) -> np.ndarray:
    """First pixel of the patch nearest to a fixation, on an axis of `size` patch pixels."""
    return np.floor((fixation + 1.0) / 2.0 * size - patch_side / 2 + 0.5)


def patch_origins(
    fixation: Float[np.ndarray, "B 2"],
    level_shape: Int[np.ndarray, "B 2"],
    mirror: Bool[np.ndarray, " B"],
    patch_side: int = PATCH_SIDE,
) -> Int64[np.ndarray, "B 2"]:
    """Top left corner of the patch at each fixation, in pixels of the level as stored.

    Args:
        fixation: (x, y), in the mirrored image where `mirror` is set.
        level_shape: Height and width of each level.
        mirror: Whether the image is seen mirrored. The corner is found in the mirrored level and
            then reflected, so that ties snap as they would on an image mirrored beforehand.
        patch_side: P.

    Returns:
        (top, left); negative where the patch starts outside.

    Raises:
        ValueError: If a fixation is NaN.

    Example:
        >>> patch_origins(np.zeros((1, 2)), np.array([[384, 768]]), np.zeros(1, bool)).tolist()
        [[144, 336]]
    """
    size = np.asarray(level_shape, dtype=np.int64)
    origin = _snap(_clip_fixation(fixation)[:, ::-1], size, patch_side).astype(np.int64)
    origin[:, 1] = np.where(mirror, size[:, 1] - patch_side - origin[:, 1], origin[:, 1])
    return origin


@cache
def noise_table() -> np.ndarray:
    """Uniform bytes from which every patch of noise is a slice."""
    table = np.random.Generator(np.random.PCG64(_NOISE_SEED)).bytes(_NOISE_TABLE_BYTES)
    return np.frombuffer(table, np.uint8)


def noise_offsets(
    noise_key: np.ndarray, resolutions: Sequence[str], patch_side: int = PATCH_SIDE
) -> np.ndarray:
    """Find where each patch's noise starts in the table, [B, S]. The same whichever else is cut."""
    salts = np.array([LEVEL_SHORT_SIDE[name] for name in resolutions], np.uint64)
    hashed = splitmix64(splitmix64(noise_key)[:, None] + salts)
    return (hashed % np.uint64(_NOISE_TABLE_BYTES - 3 * patch_side**2 + 1)).astype(np.int64)


def noise_patches(
    noise_key: UInt64[np.ndarray, " B"],
    resolutions: Sequence[str] = RESOLUTIONS,
    patch_side: int = PATCH_SIDE,
) -> UInt8[np.ndarray, "B S P P 3"]:
    """The noise that each patch shows where it leaves the image (paper section 2)."""
    table, names = noise_table(), check_resolutions(resolutions)
    shape, size = (len(noise_key), len(names), patch_side, patch_side, 3), 3 * patch_side**2
    noise = np.empty(shape, np.uint8)
    offsets = noise_offsets(noise_key, names, patch_side)
    for patch, offset in zip(noise.reshape(-1, size), offsets.ravel(), strict=True):
        patch[:] = table[offset : offset + size]
    return noise


def prepare_out(out: np.ndarray | None, batch: int, count: int, patch_side: int) -> np.ndarray:
    """Return `out`, or a fresh array of B glimpses of S patches.

    Raises:
        ValueError: If `out` does not fit.
    """
    shape = (batch, count, patch_side, patch_side, 3)
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be a C-contiguous uint8 array of shape {shape}; got {out.dtype} {out.shape}"
        )
    return out


def cut_patches(
    pyramids: Sequence[Pyramid],
    fixation: Float[np.ndarray, "B 2"],
    mirror: Bool[np.ndarray, " B"],
    noise_key: UInt64[np.ndarray, " B"],
    resolutions: Sequence[str] = RESOLUTIONS,
    out: UInt8[np.ndarray, "B S P P 3"] | None = None,
) -> UInt8[np.ndarray, "B S P P 3"]:
    """Cut one glimpse from each image: its patches at every resolution asked for.

    Args:
        pyramids: B images, of any sizes, with at least the levels asked for; the side of the
            patches is that which they were built for.
        fixation: (x, y) in [-1, 1], clipped; in the mirrored image where `mirror` is set.
        mirror: Whether to see the mirrored image.
        noise_key: Decides the noise outside the image.
        resolutions: Order of axis S.
        out: Where to write; a fresh array by default.

    Returns:
        RGB patches; `out` if it was given.

    Raises:
        ValueError: If a fixation is NaN, the batch sizes differ, a resolution is unknown, pyramids
            are for patches of several sides or `out` does not fit.
        KeyError: If a pyramid lacks a level.

    Example:
        >>> from glimpse_env.pyramids import build_pyramid
        >>> pyramid = build_pyramid(np.zeros((100, 200, 3), np.uint8))
        >>> flags, keys = np.zeros(1, bool), np.zeros(1, np.uint64)
        >>> cut_patches([pyramid], np.zeros((1, 2)), flags, keys).shape
        (1, 3, 96, 96, 3)
    """
    names = check_resolutions(resolutions)
    batch, count = len(pyramids), len(names)
    if not batch == len(fixation) == len(mirror) == len(noise_key):
        raise ValueError(
            f"{batch} pyramids, {len(fixation)} fixations, {len(mirror)} mirror flags and "
            f"{len(noise_key)} noise keys: one of each per image is needed"
        )
    sides = {pyramid.patch_side for pyramid in pyramids} or {PATCH_SIDE}
    if len(sides) > 1:
        raise ValueError(f"the pyramids are for patches of several sides: {sorted(sides)}")
    (side,) = sides
    out = prepare_out(out, batch, count, side)
    try:
        levels = [pyramid.levels[name] for pyramid in pyramids for name in names]
    except KeyError as error:
        raise KeyError(f"a pyramid lacks the level {error}: build it with all of {names}") from None
    shapes = np.array([level.shape[:2] for level in levels], np.int64).reshape(-1, 2)
    origins = patch_origins(
        np.repeat(np.asarray(fixation), count, axis=0), shapes, np.repeat(mirror, count), side
    )
    offsets = noise_offsets(noise_key, names, side)
    _copy_patches(levels, shapes, origins, np.repeat(mirror, count), offsets.ravel(), out)
    return out


def _copy_patches(
    levels: list[np.ndarray],
    shapes: np.ndarray,
    origins: np.ndarray,
    mirror: np.ndarray,
    offsets: np.ndarray,
    out: np.ndarray,
) -> None:
    """Copy N = B * S patches out of their levels; everything that needs thought is done."""
    table, side = noise_table(), out.shape[-2]
    patches = out.reshape(-1, side, side, 3)
    first = np.maximum(-origins, 0)
    last = np.minimum(shapes - origins, side)
    whole = ((first == 0) & (last == side)).all(axis=1)
    rows = zip(
        levels,
        patches,
        origins.tolist(),
        first.tolist(),
        last.tolist(),
        whole.tolist(),
        mirror.tolist(),
        offsets.tolist(),
        strict=True,
    )
    flip, straight, flipped = _flip_index(side), *np.zeros((2, side, side, 3), np.uint8)
    for level, patch, (top, left), (y0, x0), (y1, x1), is_whole, is_mirrored, offset in rows:
        if not is_whole:
            # As seen: the noise belongs to the patch, so a mirrored look does not turn it.
            patch.reshape(-1)[:] = table[offset : offset + 3 * side**2]
            if y1 <= y0 or x1 <= x0:
                continue
        part = level[top + y0 : top + y1, left + x0 : left + x1]
        if not is_mirrored:
            patch[y0:y1, x0:x1] = part
            continue
        straight[y0:y1, x0:x1] = part
        turned = patch if is_whole else flipped
        np.take(straight.reshape(-1), flip, out=turned.reshape(-1), mode="clip")
        if not is_whole:
            seen = slice(y0, y1), slice(side - x1, side - x0)
            patch[seen] = flipped[seen]


@cache
def _flip_index(side: int) -> np.ndarray:
    """Find where each byte of a mirrored patch comes from; faster than patch[:, ::-1]."""
    order = np.arange(3 * side**2).reshape(side, side, 3)
    return np.ascontiguousarray(order[:, ::-1]).reshape(-1)


def _virtual_shape(
    image_shape: tuple[int, int], resolutions: Sequence[str], scale: np.ndarray, patch_side: int
) -> np.ndarray:
    """Height and width of the image in patch pixels, [B, S, 2]; a fraction unless scale is 0."""
    levels = [level_shape(image_shape, name, patch_side) for name in resolutions]
    shapes = np.array(levels, np.float64)
    return shapes / np.exp2(scale.astype(np.float64))[:, None, None]


def patch_boxes(
    image_shape: tuple[int, int],
    fixation: Float[np.ndarray, "B 2"],
    resolutions: Sequence[str] = RESOLUTIONS,
    scale: Float[np.ndarray, " B"] | None = None,
    patch_side: int = PATCH_SIDE,
) -> Float[np.ndarray, "B S 4"]:
    """Return the area of each patch, snapped as `cut_patches` and `cut_scaled_patches` snap it.

    Args:
        image_shape: Height and width of the one image, in pixels.
        fixation: (x, y) in [-1, 1], clipped.
        resolutions: Order of axis S.
        scale: Zoom of each glimpse: every side is multiplied by 2 ** scale. None is 0.
        patch_side: P, to whose pixels places snap; the size of an area does not depend on it.

    Returns:
        (xmin, ymin, xmax, ymax) in pixels of the image, float64, beyond it where the patch is.
        For a mirrored look these are pixels of the mirrored image.

    Raises:
        ValueError: If a fixation or a scale is NaN or a resolution unknown.

    Example:
        >>> patch_boxes((100, 200), np.zeros((1, 2)), ("high",)).round(3).tolist()
        [[[87.5, 37.5, 112.5, 62.5]]]
    """
    names = check_resolutions(resolutions)
    fixation = _clip_fixation(np.asarray(fixation))
    zoom = np.zeros(len(fixation)) if scale is None else _clip_scale(scale)
    shapes = _virtual_shape(image_shape, names, zoom, patch_side)
    pixel = np.array(image_shape, np.float64) / shapes
    low = _snap(fixation[:, None, ::-1], shapes, patch_side)
    corners = np.concatenate([low * pixel, (low + patch_side) * pixel], axis=-1)
    return corners[..., [1, 0, 3, 2]]


def _clip_scale(scale: np.ndarray) -> np.ndarray:
    if np.isnan(scale).any():
        raise ValueError("a scale is NaN; it must be in [-1, 1], 0 for the ordinary patch sides")
    return np.clip(scale.astype(np.float64), -1.0, 1.0)


def cut_scaled_patches(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    fixation: Float[np.ndarray, "B 2"],
    scale: Float[np.ndarray, " B"],
    mirror: Bool[np.ndarray, " B"],
    noise_key: UInt64[np.ndarray, " B"],
    resolutions: Sequence[str] = RESOLUTIONS,
    patch_side: int = PATCH_SIDE,
) -> UInt8[np.ndarray, "B S P P 3"]:
    """Cut glimpses whose zoom is chosen too (paper section 1, future work).

    A free zoom has no level to copy from, so each patch is resampled from its image, with the
    same filter and the same snapping: at scale 0 this is `cut_patches` up to rounding. A patch
    pixel shows the image if it lies wholly inside, else noise.

    Args:
        images: B images of any sizes.
        fixation: (x, y) in [-1, 1], clipped; in the mirrored image where `mirror` is set.
        scale: In [-1, 1], clipped; multiplies every patch side by 2 ** scale.
        mirror: Whether to see the mirrored image.
        noise_key: Decides the noise outside the image.
        resolutions: Order of axis S.
        patch_side: P.

    Returns:
        RGB patches.

    Raises:
        ValueError: If a fixation or scale is NaN, the batch sizes differ, a resolution is
            unknown or the side out of range.

    Example:
        >>> image = np.zeros((100, 200, 3), np.uint8)
        >>> flags, keys = np.zeros(1, bool), np.zeros(1, np.uint64)
        >>> cut_scaled_patches([image], np.zeros((1, 2)), np.full(1, 0.5), flags, keys).shape
        (1, 3, 96, 96, 3)
    """
    names = check_resolutions(resolutions)
    if not len(images) == len(fixation) == len(scale) == len(mirror) == len(noise_key):
        raise ValueError(
            f"{len(images)} images, {len(fixation)} fixations, {len(scale)} scales, "
            f"{len(mirror)} mirror flags and {len(noise_key)} noise keys: "
            "one of each per image is needed"
        )
    fixation, scale = _clip_fixation(np.asarray(fixation)), _clip_scale(np.asarray(scale))
    side = check_patch_side(patch_side)
    out = noise_patches(noise_key, names, side)
    for b, image in enumerate(images):
        size = (image.shape[0], image.shape[1])
        shapes = _virtual_shape(size, names, scale[b : b + 1], side)[0]
        origins = _snap(fixation[b, ::-1], shapes, side).astype(np.int64)
        if mirror[b]:
            image = image[:, ::-1]
        for s in range(len(names)):
            _resample_patch(image, origins[s], shapes[s], out[b, s])
    return out


def _resample_patch(
    image: np.ndarray, origin: np.ndarray, shape: np.ndarray, patch: np.ndarray
) -> None:
    """Write the part of one patch that lies inside the image.

    Args:
        image: [H, W, 3].
        origin: (top, left) of the patch in patch pixels.
        shape: (height, width) of the image in patch pixels.
        patch: [P, P, 3], written in place.
    """
    size = np.array(image.shape[:2], np.float64)
    pixel = size / shape
    first = np.maximum(-origin, 0)
    # The tolerance keeps a pixel that ends on the border inside in spite of rounding.
    last = np.minimum(np.floor(shape - origin + 1e-6).astype(np.int64), len(patch))
    if (last <= first).any():
        return
    low = (origin + first) * pixel
    high = np.minimum((origin + last) * pixel, size)
    # Only what the filter reaches (one patch pixel, or one of the image) need be handed over.
    reach = np.ceil(np.maximum(pixel, 1.0)) + 1
    y0, x0 = np.maximum(np.floor(low - reach), 0).astype(int)
    y1, x1 = np.minimum(np.ceil(high + reach), size).astype(int)
    box = (low[1] - x0, low[0] - y0, min(high[1] - x0, x1 - x0), min(high[0] - y0, y1 - y0))
    height, width = (last - first).tolist()
    part = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    patch[first[0] : last[0], first[1] : last[1]] = np.asarray(
        part.resize((width, height), Image.Resampling.BILINEAR, box=box)
    )
