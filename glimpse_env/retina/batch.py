"""The retina on an arena: a whole batch of glimpses in one call of a kernel.

`plan_patches` decides where every patch comes from, by the rules of `rules.py`; a kernel copies.
`cut_patches`, image by image, is the plain path that the tests compare this with.

Shape key: B batch, S resolutions, P patch side, N = B * S patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64
from torch import Tensor

from encoders.inference.fused import kernels_available
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.pyramid import RESOLUTIONS, check_resolutions
from glimpse_env.retina.rules import (
    cut_patches,
    noise_offsets,
    noise_table,
    patch_origins,
    prepare_out,
)


def cut_from_arena(
    arena: PyramidArena,
    image: Int[np.ndarray, " B"],
    fixation: Float[np.ndarray, "B 2"],
    mirror: Bool[np.ndarray, " B"],
    noise_key: UInt64[np.ndarray, " B"],
    resolutions: Sequence[str] = RESOLUTIONS,
    out: UInt8[np.ndarray, "B S P P 3"] | None = None,
) -> UInt8[np.ndarray, "B S P P 3"] | UInt8[Tensor, "B S P P 3"]:
    """Cut what `cut_patches` cuts, from an arena: the fast path.

    Args:
        arena: Holds the images, and says of which side the patches are.
        image: Index of each image.
        fixation: As for `cut_patches`, like all that follow.
        mirror: Whether to see the mirrored image.
        noise_key: Decides the noise outside the image.
        resolutions: Order of axis S.
        out: Where to write, for an arena in host memory; a fresh array by default.

    Returns:
        RGB patches: an array, or a tensor on the arena's device where its bytes are a tensor.

    Raises:
        ValueError: As `cut_patches` does.
        KeyError: If a level or an image is not in the arena.

    Example:
        >>> from glimpse_env.pyramids import PyramidArena, build_pyramid
        >>> arena = PyramidArena.in_memory(1, ("low",), capacity=1_000_000)
        >>> kept = arena.add(0, build_pyramid(np.zeros((100, 200, 3), np.uint8), ("low",)))
        >>> image, flags, keys = np.array([0]), np.zeros(1, bool), np.zeros(1, np.uint64)
        >>> cut_from_arena(arena, image, np.zeros((1, 2)), flags, keys, ("low",)).shape
        (1, 1, 96, 96, 3)
    """
    names, side = check_resolutions(resolutions), arena.patch_side
    plan = plan_patches(arena, image, fixation, mirror, noise_key, names)
    if isinstance(arena.flat, Tensor):
        from glimpse_env.retina import kernel_torch as retina_device

        patches = retina_device.cut(arena.flat, plan, side)
        return patches.unflatten(0, (len(image), len(names)))
    out = prepare_out(out, len(image), len(names), side)
    if not kernels_available():
        return cut_patches(
            [arena.pyramid(index) for index in image.tolist()],
            fixation,
            mirror,
            noise_key,
            names,
            out,
        )
    from glimpse_env.retina.kernel_numba import cut

    patches = out.reshape(-1, side, side, 3)
    cut(arena.flat, noise_table(), *plan, patches)
    return out


def plan_patches(
    arena: PyramidArena,
    image: Int[np.ndarray, " B"],
    fixation: Float[np.ndarray, "B 2"],
    mirror: Bool[np.ndarray, " B"],
    noise_key: UInt64[np.ndarray, " B"],
    resolutions: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Plan where each of N = B * S patches comes from: all that needs thought, for any kernel.

    Returns:
        Of each patch: where its level begins in the arena, int64 [N]; that level's height and
        width, [N, 2]; the patch's corner (top, left) in it as stored, [N, 2]; whether it is seen
        mirrored, bool [N]; where its noise begins in the table, [N].

    Raises:
        ValueError, KeyError: As `cut_from_arena` does.
    """
    if not len(image) == len(fixation) == len(mirror) == len(noise_key):
        raise ValueError(
            f"{len(image)} images, {len(fixation)} fixations, {len(mirror)} mirror flags and "
            f"{len(noise_key)} noise keys: one of each per image is needed"
        )
    columns = arena.columns(resolutions)
    start = arena.start[image][:, columns].reshape(-1)
    if len(start) and start.min() < 0:
        raise KeyError("an image is not in the arena: add it first")
    count = len(columns)
    shape = arena.shape[image][:, columns].reshape(-1, 2)
    flipped = np.repeat(np.asarray(mirror, bool), count)
    side = arena.patch_side
    origin = patch_origins(np.repeat(np.asarray(fixation), count, axis=0), shape, flipped, side)
    offset = noise_offsets(noise_key, resolutions, side).reshape(-1)
    return start, shape, origin, flipped, offset
