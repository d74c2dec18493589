"""The location l on its way into the classifier, and the gradient that comes back through it.

A location has A coordinates: x and y, and with `choose_scale` a third, the scale. What it is drawn
from is in `agents.densities`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from agents.configs import ReinforceConfig, TwoDeckConfig


def told_location(
    location: Float[Tensor, "B A"], fixation: Float[Tensor, "B 2"], how: str
) -> Float[Tensor, "B A"]:
    """Return what W_loc reads of a glimpse's location; see `TwoDeckConfig.location_input`.

    Args:
        location: As chosen, before the retina clipped it and a bank snapped it.
        fixation: Where the glimpse was taken, as the environment says.
        how: `intended`, `observed` or `none`.
    """
    if how == "none":
        return torch.zeros_like(location)
    if how == "intended":
        return location
    seen = torch.cat((fixation.to(location), location[:, 2:].clamp(-1.0, 1.0)), 1).detach()
    if not location.requires_grad:
        return seen
    # Clipping and snapping have no gradient of use: it passes them as if they were not there.
    return seen + (location - location.detach())


def at_ordinary_scale(
    fixations: Float[Tensor, "*N 2"], network: TwoDeckConfig
) -> Float[Tensor, "*N A"]:
    """Fixations as the network's locations: with scale 0 where it chooses the scale too."""
    if not network.choose_scale:
        return fixations
    return torch.cat((fixations, torch.zeros_like(fixations[..., :1])), -1)


class LocationPath:
    """Takes l into W_loc, with the gradient that `location_gradient` lets back to lhat.

    In the log-density every sample is a constant, also those that lead to a later lhat, yet both
    losses share one graph. So under `mix` a first pass, through no weights, finds what the classes
    alone send back to each l; in the second, that is what passes through l.
    """

    def __init__(self, learning: ReinforceConfig) -> None:
        """Take the setting."""
        self.mode = learning.location_gradient
        self._first_pass = False

    def enter(self, location: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
        """The location as W_loc receives it."""
        if self.mode == "policy":
            return location.detach()
        location = location.view_as(location)
        if location.requires_grad and self.mode == "mix":
            kept: list[Tensor] = []

            def only_from_classes(grad: Tensor) -> Tensor:
                if self._first_pass:
                    kept.append(grad)
                return kept.pop() if kept and not self._first_pass else grad

            location.register_hook(only_from_classes)
        return location

    def keep_class_gradient(
        self, classification: Float[Tensor, ""], locations: Sequence[Float[Tensor, "B A"]]
    ) -> None:
        """Run the first pass of `mix`; with one glimpse no later lhat needs it."""
        if self.mode != "mix" or len(locations) < 2:
            return
        self._first_pass = True
        try:
            torch.autograd.grad(classification, locations, retain_graph=True)
        finally:
            self._first_pass = False
