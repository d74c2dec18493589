"""Recurrent modules as encoders: the features of a glimpse depend on what was seen before it.

Such a module has `initial_state(batch)` and `forward(patches, fixation, scale, state)`, which
returns class logits and the next state, and perhaps `features(state)`. `agents.recurrent` plays
with the same modules; `docs/recurrent.md` says what they are handed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from encoders.inference.devices import resolve_device
from encoders.inference.modules import module_fingerprint, said

_FORM = (
    "a recurrent encoder's forward(patches, fixation, scale, state) must return (logits [B, K], "
    "state), the state of tensors [B, ...]"
)


def is_recurrent(encoder: object) -> bool:
    """Return whether something given as an encoder is a recurrent module."""
    return isinstance(encoder, nn.Module) and callable(getattr(encoder, "initial_state", None))


class RecurrentEncoder:
    """A frozen copy of a recurrent module, on a device: patches in, features out, rows apart.

    Attributes:
        feature_size: D, features of a glimpse.
        device: Where it computes.
        fingerprint: Hash of the module.
    """

    def __init__(
        self,
        module: nn.Module,
        patches: Sequence[int],
        patch_side: int,
        device: str,
        precision: str,
    ) -> None:
        """Copy a module and try the copy.

        Args:
            module: The module; it is not changed.
            patches: Numbers of patches that a glimpse may have.
            patch_side: P.
            device: `auto`, `cpu` or `cuda[:i]`.
            precision: `auto` or `fp32`.

        Raises:
            ValueError: Another precision, a module that cannot be copied, fails, or returns
                something else than it must.
        """
        if precision not in ("auto", "fp32"):
            raise ValueError(
                f"a recurrent encoder computes in fp32, not {precision!r}: give precision='auto'"
            )
        self.device = resolve_device(device)
        self.fingerprint = module_fingerprint(module)
        try:
            self._module = copy.deepcopy(module).to(self.device).eval().requires_grad_(False)
        except Exception as error:
            raise ValueError(f"the recurrent encoder cannot be copied ({said(error)})") from error
        sizes = set()
        for count in dict.fromkeys(patches):
            blank = torch.zeros(2, count, patch_side, patch_side, 3, dtype=torch.uint8)
            where, scale = torch.zeros(2, 2), torch.ones(2, count)
            try:
                features, states = self.take_in(blank, where, scale, [None, None])
                self.take_in(blank, where, scale, states)
            except Exception as error:
                if str(error).startswith(_FORM):
                    raise
                raise ValueError(
                    f"the recurrent encoder, tried on glimpses of {count} patches of {patch_side} "
                    f"x {patch_side} pixels, fails with {said(error)}"
                ) from error
            sizes.add(features.shape[1])
        if len(sizes) > 1:
            raise ValueError(f"{_FORM}; it gives {sorted(sizes)} features, by the patches shown")
        self.feature_size = sizes.pop()

    @torch.inference_mode()
    def take_in(
        self,
        pixels: UInt8[Tensor, "n S P P 3"],
        fixation: Float[Tensor, "n 2"],
        scale: Float[Tensor, "n S"],
        states: list[Any],
    ) -> tuple[Float[Tensor, "n D"], list[Any]]:
        """Show a glimpse to each row.

        Args:
            pixels: RGB patches.
            fixation: Middle of each glimpse, in units of half of the short side.
            scale: Half of each patch's side, in the same units.
            states: Each row's state; None before its first glimpse.

        Returns:
            Features and the next states, row by row.

        Raises:
            ValueError: The module returned something else than it must.
        """
        count, use = len(pixels), self.device
        known = [
            self._split(self._module.initial_state(1), 1)[0] if state is None else state  # pyright: ignore[reportCallIssue]
            for state in states
        ]
        patches = pixels.to(use).movedim(-1, 2).float() / 255.0
        found = self._module(patches, fixation.to(use), scale.to(use), _joined(known))
        if not isinstance(found, tuple) or len(found) != 2:
            raise ValueError(f"{_FORM}; got {type(found).__name__}")
        own = getattr(self._module, "features", None)
        features = own(found[1]) if callable(own) else found[0]
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            what = "features(state)" if callable(own) else "logits"
            raise ValueError(f"{_FORM}; for B = {count} {what} are {got}")
        return features.float(), self._split(found[1], count)

    def _split(self, state: Any, count: int) -> list[Any]:
        """States of single rows."""
        return [_row(state, row, count) for row in range(count)]


def _row(state: Any, row: int, count: int) -> Any:
    """One row of a state of tensors in tuples, lists, dicts and dataclasses."""
    if isinstance(state, Tensor):
        if state.ndim == 0 or len(state) != count:
            raise ValueError(f"{_FORM}; for B = {count} it holds a tensor {tuple(state.shape)}")
        return state[row : row + 1]
    return _mapped(lambda part: _row(part, row, count), state)


def _joined(states: list[Any]) -> Any:
    """Several states of single rows as one."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(states)
    if isinstance(first, dict):
        return {key: _joined([each[key] for each in states]) for key in first}
    if isinstance(first, (tuple, list)):
        parts = [_joined(list(each)) for each in zip(*states, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first) if field.init]
        return replace(
            first, **{name: _joined([getattr(each, name) for each in states]) for name in names}
        )
    return first


def _mapped(function: Any, state: Any) -> Any:
    """Apply a function to the parts of a container; anything else stays."""
    if isinstance(state, dict):
        return {key: function(part) for key, part in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [function(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if is_dataclass(state) and not isinstance(state, type):
        names = [field.name for field in fields(state) if field.init]
        return replace(state, **{name: function(getattr(state, name)) for name in names})
    return state
