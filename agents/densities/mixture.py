"""A mixture of Gaussians, so that a fixation can choose between targets.

One Gaussian's mean averages its targets: with two dogs it looks between them (Sermanet et al.
2014, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from agents.densities.base import Head, Sigmas, register_density, squared_excess
from agents.densities.gaussian import gaussian_cell_masses, gaussian_entropy, gaussian_noise
from agents.lattice import Lattice
from agents.losses import mixture_log_prob

RING = 0.4
"""Radius on which the means start: alike, they would receive the same gradient."""


@register_density("mixture")
@dataclass(frozen=True)
class MixtureDensity:
    """p(l | r2): Gaussians of one sigma over the plane, weighted by softmax(logits)."""

    logits: Float[Tensor, "B C"]
    means: Float[Tensor, "B C A"]
    sigmas: Sigmas

    @classmethod
    def heads(cls, size: int, components: int) -> Mapping[str, Head]:
        """Return the layers of means and logits; the means start on a ring, at scale 0."""
        angle = torch.arange(components) * (2.0 * math.pi / components)
        means = torch.zeros(components, size)
        means[:, :2] = RING * torch.stack((angle.cos(), angle.sin()), 1)
        return {"means": Head(means.flatten()), "logits": Head(torch.zeros(components))}

    @classmethod
    def build(
        cls,
        outputs: Mapping[str, Float[Tensor, "B O"]],
        sigmas: Sigmas,
        squash: Callable[[Tensor], Tensor],
    ) -> MixtureDensity:
        """Take E's outputs as means and logits."""
        logits = outputs["logits"]
        means = outputs["means"].unflatten(1, (logits.shape[1], -1))
        return cls(logits, squash(means), sigmas)

    def mode(self) -> Float[Tensor, "B A"]:
        """Mean of the likeliest component."""
        return self._component(self.logits.argmax(-1))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "B A"]:
        """Draw a component, then a location with the gradient of the component's mean."""
        noise = gaussian_noise(self.means[:, 0], self.sigmas, generator)
        components = self.means.shape[1]
        threshold = torch.rand(len(self.means), 1, generator=generator).to(self.means)
        # Of a handful of components, and on CUDA a running sum is not deterministic.
        reached = self.logits.detach().softmax(-1).cpu().cumsum(-1).to(threshold)
        index = (reached < threshold).sum(-1).clamp(max=components - 1)
        return self._component(index) + noise

    def log_prob(self, location: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        """Log-density at a location, in nats."""
        return mixture_log_prob(location, self.logits, self.means, *self.sigmas)

    def entropy(self) -> Float[Tensor, " B"]:
        """Entropy of component and location together: an upper bound of the location's own.

        Its gradient is that of the weights' entropy, which keeps components alive.
        """
        log_weights = functional.log_softmax(self.logits, -1)
        return gaussian_entropy(self.sigmas) - (log_weights.exp() * log_weights).sum(-1)

    def border_excess(self) -> Float[Tensor, " B"]:
        """Squared distance of the means beyond [-1, 1], summed over the components."""
        return squared_excess(self.means).sum(-1)

    def cell_masses(self, lattice: Lattice) -> Float[Tensor, "B L"]:
        """Probability that a sample is snapped to each point of a lattice."""
        masses = gaussian_cell_masses(self.means, self.sigmas.plane, lattice)
        return (self.logits.softmax(-1)[..., None] * masses).sum(1)

    def _component(self, index: Int[Tensor, " B"]) -> Float[Tensor, "B A"]:
        size = self.means.shape[-1]
        return self.means.gather(1, index[:, None, None].expand(-1, 1, size)).squeeze(1)
