"""The Triton kernel of `retina_device`, in a module of its own since it needs Triton to load."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def cut_block(flat, table, plan, out, count, side: tl.constexpr, block: tl.constexpr):
    """Write `block` bytes of one patch: program (patch, block of it).

    Arguments are those of `retina_device.cut_by_torch`, `out` beside them. The last block of a
    patch whose bytes are no multiple of `block` is cut short.
    """
    patch = tl.program_id(0)
    start = tl.load(plan + patch)
    height = tl.load(plan + count + patch)
    width = tl.load(plan + 2 * count + patch)
    top = tl.load(plan + 3 * count + patch)
    left = tl.load(plan + 4 * count + patch)
    mirror = tl.load(plan + 5 * count + patch)
    offset = tl.load(plan + 6 * count + patch)
    byte = tl.program_id(1) * block + tl.arange(0, block)
    row, column, channel = byte // (3 * side), (byte // 3) % side, byte % 3
    y = top + row
    x = left + tl.where(mirror != 0, side - 1 - column, column)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    place = patch.to(tl.int64) * (3 * side * side) + byte
    if (3 * side * side) % block == 0:
        seen = tl.load(flat + start + (y * width + x) * 3 + channel, mask=inside, other=0)
        noise = tl.load(table + offset + byte, mask=inside == 0, other=0)
        tl.store(out + place, tl.where(inside, seen, noise))
    else:
        there = byte < 3 * side * side
        inside = inside & there
        seen = tl.load(flat + start + (y * width + x) * 3 + channel, mask=inside, other=0)
        noise = tl.load(table + offset + byte, mask=there & (inside == 0), other=0)
        tl.store(out + place, tl.where(inside, seen, noise), mask=there)
