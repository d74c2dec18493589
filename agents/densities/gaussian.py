"""One Gaussian around lhat: the paper's density of a location (Ba et al. 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from agents.densities.base import Head, Sigmas, register_density, squared_excess
from agents.lattice import Lattice
from agents.losses import LOG_TWO_PI, gaussian_log_prob


@register_density("gaussian")
@dataclass(frozen=True)
class GaussianDensity:
    """p(l | r2) = N(l; lhat, sigma^2 I), sigma not learned."""

    mean: Float[Tensor, "B A"]
    sigmas: Sigmas

    @classmethod
    def heads(cls, size: int, components: int) -> Mapping[str, Head]:
        """Return the layer that gives lhat, the middle of the image at first."""
        return {"means": Head(torch.zeros(size))}

    @classmethod
    def build(
        cls,
        outputs: Mapping[str, Float[Tensor, "B O"]],
        sigmas: Sigmas,
        squash: Callable[[Tensor], Tensor],
    ) -> GaussianDensity:
        """Take E's output as lhat."""
        return cls(squash(outputs["means"]), sigmas)

    def mode(self) -> Float[Tensor, "B A"]:
        """Return lhat, the mean."""
        return self.mean

    def sample(self, generator: torch.Generator) -> Float[Tensor, "B A"]:
        """Draw l = lhat + sigma * eps, with the gradient of lhat."""
        return self.mean + gaussian_noise(self.mean, self.sigmas, generator)

    def log_prob(self, location: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        """Log-density at a location, in nats."""
        return gaussian_log_prob(location, self.mean, *self.sigmas)

    def entropy(self) -> Float[Tensor, " B"]:
        """Entropy in nats: the same for every mean."""
        return self.mean.new_full(self.mean.shape[:1], gaussian_entropy(self.sigmas))

    def border_excess(self) -> Float[Tensor, " B"]:
        """Squared distance of lhat beyond [-1, 1]."""
        return squared_excess(self.mean)

    def cell_masses(self, lattice: Lattice) -> Float[Tensor, "B L"]:
        """Probability that a sample is snapped to each point of a lattice."""
        return gaussian_cell_masses(self.mean, self.sigmas.plane, lattice)


def gaussian_noise(
    like: Float[Tensor, "B A"], sigmas: Sigmas, generator: torch.Generator
) -> Float[Tensor, "B A"]:
    """Draw sigma * eps on the CPU, whatever the device, so that a run replays on any."""
    noise = torch.randn(like.shape[0], like.shape[-1], generator=generator).to(like)
    if sigmas.scale is None:
        return sigmas.plane * noise
    return noise * noise.new_tensor((sigmas.plane, sigmas.plane, sigmas.scale))


def gaussian_entropy(sigmas: Sigmas) -> float:
    """Entropy of one Gaussian, in nats."""
    each = [sigmas.plane, sigmas.plane] + ([] if sigmas.scale is None else [sigmas.scale])
    return sum(0.5 * (LOG_TWO_PI + 1.0) + math.log(sigma) for sigma in each)


def gaussian_cell_masses(
    mean: Float[Tensor, "*N A"], sigma: float, lattice: Lattice
) -> Float[Tensor, "*N L"]:
    """Mass of a Gaussian in the cell of each lattice point; outer cells reach to infinity.

    A sample is snapped to the nearest point, so the masses are the probabilities of the points.
    """
    parts = []
    for axis, (edges, index) in enumerate(lattice.cells(mean.device)):
        below = torch.special.ndtr((edges.to(mean) - mean[..., axis, None]) / sigma)
        nothing = torch.zeros_like(mean[..., :1])
        mass = torch.cat((below, nothing + 1.0), -1) - torch.cat((nothing, below), -1)
        parts.append(mass[..., index])
    return parts[0] * parts[1]
