"""The CPU kernel of the retina: all patches of a batch in one call, compiled by numba.

Patches come out of one flat array of bytes (`pyramids/arena.py`), so that no Python object is
touched per image. `tests/glimpse_env/pyramids/test_arena.py` compares it, byte for byte, with
`cut_patches`, the plain path.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from encoders.inference.kernels import compiled
from encoders.threads import in_parts

# A glimpse is some microseconds of copying, a thread's call some tens of them.
_FEWEST_PATCHES = 32


def _at(context, builder, array_type, array, index):
    """Pointer to a byte of an array, unchecked."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _emit_copy(typing_context, target, target_at, source, source_at, count):
    """Bytes from one array into another, as memcpy does it."""

    def generate(context, builder, signature, arguments):
        to = _at(context, builder, signature.args[0], *arguments[0:2])
        origin = _at(context, builder, signature.args[2], *arguments[2:4])
        cgutils.raw_memcpy(builder, to, origin, arguments[4], 1)
        return context.get_dummy_value()

    at = types.int64
    return types.void(target, at, source, at, at), generate


def _emit_reverse_five(typing_context, target, target_at, source, source_at):
    """Five pixels from one array into another, last pixel first; a sixteenth byte is undefined."""

    def generate(context, builder, signature, arguments):
        byte = ir.IntType(8)
        vector = ir.VectorType(byte, 16).as_pointer()
        to = _at(context, builder, signature.args[0], *arguments[0:2])
        origin = _at(context, builder, signature.args[2], *arguments[2:4])
        value = builder.load(builder.bitcast(origin, vector), align=1)
        order = [3 * pixel + c for pixel in (4, 3, 2, 1, 0) for c in range(3)] + [15]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 16), order)
        turned = builder.shuffle_vector(value, value, mask)
        builder.store(turned, builder.bitcast(to, vector), align=1)
        return context.get_dummy_value()

    at = types.int64
    return types.void(target, at, source, at), generate


# numba's decorator hides that the first argument is its own.
_copy: Any = intrinsic(_emit_copy)
_reverse_five: Any = intrinsic(_emit_reverse_five)


@cache
def _kernel(side: int) -> Callable[..., None]:
    """Compile the kernel for patches of one side, which it knows as a constant."""
    row_bytes = 3 * side

    def work(flat, table, start, shape, origin, mirror, offset, out, begin, end):
        """Patches begin to end of `cut`, each row by row."""
        target = out.reshape(-1)
        for patch in range(begin, end):
            height, width = shape[patch, 0], shape[patch, 1]
            top, left = origin[patch, 0], origin[patch, 1]
            # Columns of the patch that lie inside, as stored; seen mirrored, the others.
            first, last = max(-left, 0), min(width - left, side)
            if last < first:
                first = last = 0
            before, after = (side - last, first) if mirror[patch] else (first, side - last)
            for row in range(side):
                line = (patch * side + row) * row_bytes
                noise = offset[patch] + row * row_bytes
                y = top + row
                if y < 0 or y >= height or last == first:
                    _copy(target, line, table, noise, row_bytes)
                    continue
                if before:
                    _copy(target, line, table, noise, 3 * before)
                seen = start[patch] + (y * width + left + first) * 3
                if last - first == side and not mirror[patch]:
                    # A length known to the compiler is copied without a call.
                    _copy(target, line, flat, seen, row_bytes)
                elif not mirror[patch]:
                    _copy(target, line + 3 * before, flat, seen, 3 * (last - first))
                else:
                    here, left_over = line + 3 * before, last - first
                    # Groups move sixteen bytes, one more than they mean: the pixel before the first
                    # group was there to be read, the pixel after the last will overwrite it.
                    left_over -= 1
                    _copy(target, here, flat, seen + 3 * left_over, 3)
                    here += 3
                    while left_over > 5:
                        left_over -= 5
                        _reverse_five(target, here, flat, seen + 3 * left_over)
                        here += 15
                    while left_over > 0:
                        left_over -= 1
                        _copy(target, here, flat, seen + 3 * left_over, 3)
                        here += 3
                if after:
                    edge = row_bytes - 3 * after
                    _copy(target, line + edge, table, noise + edge, 3 * after)

    return compiled(work)


def cut(
    flat: np.ndarray,
    table: np.ndarray,
    start: np.ndarray,
    shape: np.ndarray,
    origin: np.ndarray,
    mirror: np.ndarray,
    offset: np.ndarray,
    out: np.ndarray,
) -> None:
    """Copy N patches out of their levels, noise where they leave the image.

    Args:
        flat: uint8, levels of many images one after the other.
        table: uint8, the noise.
        start: int64 [N], where each patch's level begins in `flat`.
        shape: int64 [N, 2], height and width of that level.
        origin: int64 [N, 2], top left corner of the patch in the level as stored.
        mirror: bool [N], whether the patch is seen mirrored.
        offset: int64 [N], where its noise begins in `table`.
        out: uint8 [N, P, P, 3], written.
    """
    kernel = _kernel(out.shape[2])

    def work(begin: int, end: int) -> None:
        kernel(flat, table, start, shape, origin, mirror, offset, out, begin, end)

    in_parts(work, len(out), least=_FEWEST_PATCHES)
