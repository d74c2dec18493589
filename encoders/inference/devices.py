"""Devices and arithmetic that an encoder may compute with, chosen by name."""

from __future__ import annotations

import torch


class DeviceNotAvailableError(RuntimeError):
    """A device was asked for by name that this machine does not have."""


def native_bf16() -> bool:
    """Say whether oneDNN computes in bf16 on this CPU; no, where torch cannot tell."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError, TypeError):  # it is private to torch, and may be gone
        return False


def resolve_device(device: str | torch.device) -> torch.device:
    """Choose a device: for `auto` CUDA where there is one, else the device named.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:i`.

    Returns:
        The device.

    Raises:
        ValueError: If torch knows no device of that name.
        DeviceNotAvailableError: If CUDA is asked for and absent.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"no device is called {str(device)!r}: give 'auto', 'cpu', 'cuda' or 'cuda:1' etc."
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise DeviceNotAvailableError(f"device {device!r}: torch sees no CUDA device here")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Choose an arithmetic: for `auto` bf16 where the device computes it natively, else fp32.

    Args:
        precision: `auto`, `fp32` or `bf16`.
        device: Where the encoder computes.

    Returns:
        The dtype of the arithmetic.

    Raises:
        ValueError: For an unknown precision.

    Example:
        >>> resolve_precision("fp32", torch.device("cpu"))
        torch.float32
    """
    if precision == "auto":
        if device.type == "cuda":
            with torch.cuda.device(device):
                native = torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if native else torch.float32
        return torch.bfloat16 if native_bf16() else torch.float32
    if precision not in ("fp32", "bf16"):
        raise ValueError(
            f"precision is 'auto', 'fp32' or 'bf16' (of a frozen GoogLeNet 'int8' too), not "
            f"{precision!r}"
        )
    return torch.bfloat16 if precision == "bf16" else torch.float32
