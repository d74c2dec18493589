"""The arrays of a batch: numpy or tensors, on the host or on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


class Arrays:
    """Keeps the state of a batch, and makes the arrays or tensors that are handed out.

    The state is on the device that tensors go to. On the CPU it is numpy in either case, since a
    tensor there is a numpy array under another name.
    """

    def __init__(self, kind: str, device: torch.device) -> None:
        """Choose what is handed out, `numpy` or `torch`, and the device of tensors."""
        self.device = device
        self.tensors = kind == "torch"
        self._numpy = not self.tensors or device.type == "cpu"

    def own(self, value: np.ndarray | Tensor) -> Any:
        """Return `value` as the state keeps it; memory is shared where possible."""
        if self._numpy:
            return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        tensor = torch.as_tensor(value, device=self.device)
        # Encoders run in inference mode; an agent must be able to save what it sees for its
        # backward pass.
        return tensor.clone() if tensor.is_inference() else tensor

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros as the state keeps them."""
        if self._numpy:
            return np.zeros(shape, dtype)
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=self.device)

    def copy(self, value: Any) -> Any:
        """Return a copy of something kept."""
        return value.copy() if self._numpy else value.clone()

    def out(self, value: np.ndarray | Tensor) -> Any:
        """Return `value`, fresh, as it is handed out."""
        return torch.as_tensor(value, device=self.device) if self.tensors else value

    def items(self, value: Any) -> list[Any]:
        """Split what is handed out along the first axis."""
        return list(value.unbind()) if self.tensors else list(value)
