"""What a recurrent module of glimpses is, and the one place that calls it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

FORM = (
    "forward(patches, fixation, scale, state) of a recurrent module must return (logits [B, K], "
    "state)"
)


@runtime_checkable
class GlimpseModel(Protocol):
    """A `torch.nn.Module` that sees an image glimpse by glimpse and keeps a state.

    Places and sizes are in units of half of the image's short side, from its middle: a patch shows
    the square `fixation - scale` to `fixation + scale`. The short side reaches from -1 to 1.

    It may also have `look(state)`, which returns where to look next, `[B, 2]` in the same units, or
    `[B, 3]` with the zoom within [-1, 1] behind them (which counts where the environment asks for a
    scale); and `features(state)`, `[B, D]`, which is
    what it gives as an encoder (the environment's option `encoder`), else its logits are.

    Example:
        >>> class Brightness(nn.Module):
        ...     def initial_state(self, batch):
        ...         return torch.zeros(batch, 3)
        ...     def forward(self, patches, fixation, scale, state):
        ...         state = state + patches.mean((1, 3, 4))
        ...         return state, state
        >>> isinstance(Brightness(), GlimpseModel)
        True
    """

    def initial_state(self, batch: int) -> Any:
        """State before the first glimpse: anything at all."""
        ...

    def forward(
        self,
        patches: Float[Tensor, "B S 3 P P"],
        fixation: Float[Tensor, "B 2"],
        scale: Float[Tensor, "B S"],
        state: Any,
    ) -> tuple[Float[Tensor, "B K"], Any]:
        """Take in one glimpse of S patches in 0..1; returns class logits and the next state."""
        ...


def check_model(model: object, who: str) -> nn.Module:
    """Return the module if it has what a recurrent one needs.

    Args:
        model: What somebody gave as one.
        who: Its name, to begin the sentence with.

    Raises:
        TypeError: It is no module, or lacks a method.
    """
    if isinstance(model, type):
        raise TypeError(f"{who} is the class {model.__name__} itself: make one.")
    if not isinstance(model, nn.Module) or not callable(getattr(model, "initial_state", None)):
        raise TypeError(
            f"{who} is a {type(model).__name__}: a recurrent module is a torch.nn.Module with "
            "initial_state(batch) and forward(patches, fixation, scale, state) -> (logits, state)."
        )
    return model


def take_in(
    model: nn.Module,
    pixels: UInt8[Tensor, "B S P P 3"],
    fixation: Float[Tensor, "B 2"],
    scale: Float[Tensor, "B S"],
    state: Any,
    num_classes: int,
) -> tuple[Float[Tensor, "B K"], Any]:
    """Hand one glimpse to a recurrent module.

    Args:
        model: The module.
        pixels: RGB patches.
        fixation: Where they were cut, in units of half of the short side.
        scale: Half of each patch's side, in the same units.
        state: What the last call returned.
        num_classes: K.

    Returns:
        Logits and the next state.

    Raises:
        ValueError: It returned something else.
    """
    patches = pixels.movedim(-1, 2).float() / 255.0
    found = model(patches, fixation, scale, state)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"{FORM}; got {type(found).__name__}.")
    logits, state = found
    shape = (len(pixels), num_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != shape:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{FORM}, here logits of shape {shape}; got {got}.")
    if not logits.is_floating_point() or bool(logits.detach().isnan().any()):
        raise ValueError(f"{FORM}, floats without NaN; got {logits.dtype} with NaN or integers.")
    return logits, state


def try_out(model: nn.Module, patches: int, side: int, num_classes: int) -> None:
    """Show a blank glimpse of two images to a module, so that its mistakes surface at once.

    Args:
        model: The module, on its device.
        patches: S.
        side: P.
        num_classes: K.

    Raises:
        ValueError: It fails, or returns something else than it must.
    """
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    with torch.no_grad():
        blank = torch.zeros(2, patches, side, side, 3, dtype=torch.uint8, device=device)
        where = torch.zeros(2, 2, device=device)
        try:
            scale = torch.ones(2, patches, device=device)
            take_in(model, blank, where, scale, model.initial_state(2), num_classes)  # pyright: ignore[reportCallIssue]
        except Exception as error:
            if str(error).startswith(FORM):
                raise
            lines = str(error).strip().splitlines() or ["no message"]
            raise ValueError(
                f"the recurrent module, tried on a glimpse of {patches} patches of {side} x {side} "
                f"pixels, fails with {type(error).__name__}: {lines[0].rstrip('.')}."
            ) from error
        finally:
            model.train(training)
