"""The retina on a device: a batch of patches from an arena of tensors, in one kernel.

`cut_by_torch` works on any device and is what the tests hold the Triton kernel to;
`cut_by_triton` launches one program a block of bytes, for all patches together.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from glimpse_env.pyramids.pyramid import PATCH_SIDE
from glimpse_env.retina.rules import noise_table

_BLOCK = 1024
# Indices of the torch path take 24 bytes a byte of patch.
_TORCH_PORTION = 256


@cache
def device_noise(device: torch.device) -> Tensor:
    """The table of noise on a device."""
    return torch.from_numpy(noise_table().copy()).to(device)


def cut(
    flat: Tensor, plan: tuple[np.ndarray, ...], side: int = PATCH_SIDE
) -> UInt8[Tensor, "N P P 3"]:
    """Cut N patches by whichever kernel the device has.

    Args:
        flat: uint8, the levels.
        plan: Of `batch_retina.plan_patches`.
        side: P.
    """
    table, packed = device_noise(flat.device), pack(plan, flat.device)
    if kernel_name(flat.device) == "triton":
        return cut_by_triton(flat, table, packed, side)
    return cut_by_torch(flat, table, packed, side)


def pack(plan: tuple[np.ndarray, ...], device: torch.device) -> Int64[Tensor, "7 N"]:
    """Bring a plan to a device: one small copy for the whole batch, 7 numbers a patch."""
    start, shape, origin, mirror, offset = plan
    columns = (start, shape[:, 0], shape[:, 1], origin[:, 0], origin[:, 1], mirror, offset)
    # Column by column: among signed and unsigned numbers numpy would stack floats.
    packed = np.empty((len(columns), len(start)), np.int64)
    for row, column in zip(packed, columns, strict=True):
        row[:] = column
    return torch.from_numpy(packed).to(device, non_blocking=True)


@cache
def kernel_name(device: torch.device) -> Literal["triton", "torch"]:
    """Return which kernel `cut` uses on a device."""
    found = device.type == "cuda" and find_spec("triton") is not None
    return "triton" if found else "torch"


def cut_by_torch(
    flat: Tensor, table: Tensor, plan: Tensor, side: int = PATCH_SIDE
) -> UInt8[Tensor, "N P P 3"]:
    """Cut patches by torch's own indexing.

    Args:
        flat: uint8, the levels.
        table: uint8, the noise.
        plan: int64 [7, N]: start, height, width, top, left, mirror and noise offset of each patch.
        side: P.
    """
    line = torch.arange(side, device=flat.device)
    channel = torch.arange(3, device=flat.device)
    place = torch.arange(3 * side**2, device=flat.device).view(side, side, 3)
    parts = []
    for part in plan.split(_TORCH_PORTION, dim=1):
        start, height, width, top, left, mirror, offset = part.view(7, -1, 1)
        y = top + line
        x = left + torch.where(mirror != 0, side - 1 - line, line)
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        pixel = start[:, :, None] + (y * width)[:, :, None] * 3 + (x * 3)[:, None, :]
        seen = flat[torch.where(inside, pixel, 0)[..., None] + channel]
        noise = table[offset[:, :, None, None] + place]
        parts.append(torch.where(inside[..., None], seen, noise))
    return torch.cat(parts) if parts else flat.new_empty((0, side, side, 3))


def cut_by_triton(
    flat: Tensor,
    table: Tensor,
    plan: Tensor,
    side: int = PATCH_SIDE,
    *,
    block: int = _BLOCK,
    num_warps: int = 4,
) -> UInt8[Tensor, "N P P 3"]:
    """Cut patches by one Triton kernel; arguments as for `cut_by_torch`.

    Args:
        flat: The levels.
        table: The noise.
        plan: Of `pack`.
        side: P.
        block: Bytes of a program: a power of two, 1,024 at most.
        num_warps: Warps of a program.
    """
    count = plan.shape[1]
    out = flat.new_empty((count, side, side, 3))
    if count:
        grid = (count, -(-3 * side**2 // block))
        # Triton launches on the current device, whatever the tensors'.
        with torch.cuda.device(flat.device) if flat.is_cuda else nullcontext():
            _triton_kernel()[grid](flat, table, plan, out, count, side, block, num_warps=num_warps)
    return out


@cache
def _triton_kernel() -> Any:
    """Define the kernel; Triton is there only where torch computes on CUDA."""
    from glimpse_env.retina.kernel_triton import cut_block

    return cut_block
