"""What a builder of an encoder may return beside a plain module: the module, and facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encoders.spec import UNIT_NORMALISATION, UNKNOWN_IMAGES, Normalisation


@dataclass(frozen=True)
class ModuleSource:
    """A module with what cannot be read off it, from a function of `register_encoder`.

    Example:
        >>> source = ModuleSource(nn.AdaptiveAvgPool2d(6), weights="none, there are none")
        >>> source.normalisation.std
        (255.0, 255.0, 255.0)
    """

    module: nn.Module
    """Maps normalised patches [N, 3, P, P] to features [N, D], to a map [N, C, h, w] whose mean is
    the features, or to a pair of both."""
    normalisation: Normalisation = UNIT_NORMALISATION
    """Scale of its input; by default pixels are in 0..1."""
    seen: str = UNKNOWN_IMAGES
    """Images its weights were trained on, as a sentence for reports."""
    weights: str | None = None
    """Where its weights are from, for records."""
    sha256: str | None = None
    """Hash (hex) of what it computes; by default that of its class, structure and state."""
    feature_size: int | None = None
    """D; by default it is tried."""


def update_digest(digest: Any, state: Mapping[str, Any]) -> None:
    """Take a module's state into a hash: names, types, shapes and bytes."""
    for name, value in state.items():
        if not isinstance(value, Tensor):  # a module's extra state may be anything
            digest.update(f"\n{name} {value!r}".encode())
            continue
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(_bytes(value))


def _bytes(value: Tensor) -> bytes:
    value = value.detach().cpu()
    if value.is_quantized:
        value = value.dequantize()
    if value.layout != torch.strided:
        value = value.to_dense()
    return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
