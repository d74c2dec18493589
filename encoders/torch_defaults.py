"""What a program around this one has set for its own purposes, and must not change features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def torch_defaults(device: str = "cpu") -> Iterator[None]:
    """Compute with torch's original defaults meanwhile, whatever the program has chosen for itself.

    Set aside are a default dtype other than float32, a default device other than the CPU, autocast
    and matrix products of less than full precision; on CUDA also TF32 in convolutions, which is
    torch's own default there: features in fp32 are those of a CPU. Where nothing was changed,
    nothing is done.

    Args:
        device: Type of the device that computes, whose autocast is switched off.

    Example:
        >>> torch.set_default_dtype(torch.float64)
        >>> with torch_defaults():
        ...     torch.zeros(1).dtype
        torch.float32
        >>> torch.zeros(1).dtype
        torch.float64
        >>> torch.set_default_dtype(torch.float32)
    """
    with ExitStack() as stack:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        precision = _matmul_precision()
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, precision)
        if device == "cuda" and _convolutions_in_tf32():
            torch.backends.cudnn.allow_tf32 = False
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", True)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set by names of newer versions, which do not mix with this one
        return "highest"


def _convolutions_in_tf32() -> bool:
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # set by names of newer versions, which do not mix with this one
        return False
