"""What a density of locations offers, and the registry that finds one by its name.

A new density is one class in one file:

    @register_density("ring")
    class RingDensity:
        @classmethod
        def heads(cls, size, components):          # outputs of E, and where they start
            return {"means": Head(torch.zeros(size)), "radius": Head(torch.ones(1))}

        @classmethod
        def build(cls, outputs, sigmas, squash):   # from those outputs to p(l | r2)
            ...

and the five methods of `LocationDensity`. `TwoDeckConfig(location_density="ring")` then takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


class Sigmas(NamedTuple):
    """Standard deviations of a sampled location."""

    plane: float
    """Standard deviation of x and y, in units of [-1, 1]."""
    scale: float | None = None
    """Standard deviation of the scale; None where a location is x and y alone."""


@dataclass(frozen=True)
class Head:
    """One output layer of the location network."""

    bias: Float[Tensor, " O"]
    """Outputs before anything is learned; their number is the layer's width."""


@runtime_checkable
class LocationDensity(Protocol):
    """p(l | r2) for a batch: B rows, A coordinates of a location."""

    def sample(self, generator: torch.Generator) -> Float[Tensor, "B A"]:
        """Draw a location a row, with the gradient of its mean; draws are made on the CPU."""
        ...

    def log_prob(self, location: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
        """Log-density at a location, in nats."""
        ...

    def mode(self) -> Float[Tensor, "B A"]:
        """Location that evaluation fixates."""
        ...

    def entropy(self) -> Float[Tensor, " B"]:
        """Entropy in nats, or an upper bound of it with a gradient of use."""
        ...

    def border_excess(self) -> Float[Tensor, " B"]:
        """Squared distance of the means beyond [-1, 1]."""
        ...


@runtime_checkable
class LatticeDensity(LocationDensity, Protocol):
    """A density that also tells its mass in the cell of every point of a lattice.

    The exact policy gradient (`ReinforceConfig.policy_gradient`) needs it.
    """

    def cell_masses(self, lattice: Any) -> Float[Tensor, "B L"]:
        """Probability that a sample is snapped to each point of an `agents.lattice.Lattice`."""
        ...


@runtime_checkable
class DensityFamily(Protocol):
    """Interface of a registered class, as the location network uses it."""

    @classmethod
    def heads(cls, size: int, components: int) -> Mapping[str, Head]:
        """Return the output layers of E, for locations of `size` coordinates."""
        ...

    @classmethod
    def build(
        cls,
        outputs: Mapping[str, Float[Tensor, "B O"]],
        sigmas: Sigmas,
        squash: Callable[[Tensor], Tensor],
    ) -> LocationDensity:
        """Make the density of a batch from the outputs of E."""
        ...


Family = TypeVar("Family", bound=type)

GROUP = "glimpse.densities"
"""Entry points that add densities. An agent's record names its density, and a record may be a
stranger's: so no `module:Class` is imported, unlike for a policy."""

_FAMILIES: dict[str, Any] = {}


def register_density(name: str) -> Callable[[Family], Family]:
    """Register a class under the name that `TwoDeckConfig.location_density` takes.

    Raises:
        ValueError: Another class has the name.
    """

    def register(family: Family) -> Family:
        if _FAMILIES.get(name, family) is not family:
            raise ValueError(f"There is a location density {name!r} already: take another name.")
        _FAMILIES[name] = family
        return family

    return register


def density_names() -> tuple[str, ...]:
    """Names of the registered densities."""
    return tuple(_FAMILIES)


def find_density(name: str) -> DensityFamily:
    """Find a density by name, registered or of an installed package.

    Raises:
        ValueError: No density has the name, or it cannot be imported.
    """
    if name not in _FAMILIES:
        for entry in entry_points(group=GROUP):
            if entry.name == name:
                try:
                    return entry.load()
                except (ImportError, AttributeError) as error:
                    raise ValueError(f"location_density {name!r}: {error}") from error
        raise ValueError(
            f"location_density must be one of {', '.join(_FAMILIES)}; got {name!r}. Another is "
            "registered with agents.densities.register_density."
        )
    return _FAMILIES[name]


def squared_excess(means: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
    """Squared distance by which locations lie beyond [-1, 1], summed over the coordinates."""
    return (means.abs() - 1.0).clamp_min(0.0).square().sum(-1)
