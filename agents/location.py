"""The location l: what it is drawn from, and which gradient reaches the upper deck through it.

A location has A coordinates: x and y, and with `choose_scale` a third, the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.losses import mixture_log_prob


@dataclass(frozen=True)
class LocationDensity:
    """p(l | r2): Gaussians of one sigma over the plane, weighted by softmax(logits)."""

    logits: Float[Tensor, "B C"]
    means: Float[Tensor, "B C A"]
    sigma: float
    scale_sigma: float | None = None
    """Standard deviation of the scale; None where a location is x and y alone."""

    def mode(self) -> Float[Tensor, "B A"]:
        """Mean of the likeliest component: for one Gaussian lhat itself."""
        return self._component(self.logits.argmax(-1))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "B A"]:
        """Draw l = lhat + sigma * eps, with the gradient of lhat (of the component drawn).

        The draws come from a CPU generator whatever the device, so that a run replays on any.
        """
        batch, components, size = self.means.shape
        noise = torch.randn(batch, size, generator=generator).to(self.means)
        if self.scale_sigma is None:
            noise = self.sigma * noise
        else:
            noise = noise * noise.new_tensor((self.sigma, self.sigma, self.scale_sigma))
        index = torch.zeros(batch, dtype=torch.long, device=self.means.device)
        if components > 1:
            threshold = torch.rand(batch, 1, generator=generator).to(self.means)
            # Of a handful of components, and on CUDA a running sum is not deterministic.
            reached = self.logits.detach().softmax(-1).cpu().cumsum(-1).to(threshold)
            below = reached < threshold
            index = below.sum(-1).clamp(max=components - 1)
        return self._component(index) + noise

    def log_prob(self, location: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        """Log-density at a location, in nats."""
        return mixture_log_prob(location, self.logits, self.means, self.sigma, self.scale_sigma)

    def _component(self, index: Int[Tensor, " B"]) -> Float[Tensor, "B A"]:
        size = self.means.shape[-1]
        return self.means.gather(1, index[:, None, None].expand(-1, 1, size)).squeeze(1)


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
