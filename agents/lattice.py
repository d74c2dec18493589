"""A lattice of fixations, and what an image shows at every point of it.

A feature bank looks only at its lattice. So the expectation over the next location is a sum that
can be computed: the exact policy gradient does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Lattice:
    """Points on the crossings of lines of constant x and constant y.

    A location is snapped to the nearest point, so the cell of a point ends half-way to its
    neighbours; the outer cells have no outer end.
    """

    points: Float[Tensor, "L 2"]
    """In any order."""

    def __post_init__(self) -> None:
        """Check that the points fill the crossings.

        Raises:
            ValueError: They do not.
        """
        x, y = (self.points[:, axis].unique() for axis in (0, 1))
        if len(x) * len(y) != len(self.points) or len(self.points.unique(dim=0)) != len(
            self.points
        ):
            raise ValueError(
                f"The exact policy gradient needs fixations on a rectangular lattice; these "
                f"{len(self.points)} points are not all crossings of {len(x)} columns and "
                f"{len(y)} rows. Use policy_gradient='sampled'."
            )

    @cached_property
    def _cells(self) -> tuple[tuple[Tensor, Tensor], ...]:
        found = []
        for axis in (0, 1):
            values, index = self.points[:, axis].unique(return_inverse=True)
            found.append(((values[1:] + values[:-1]) / 2.0, index))
        return tuple(found)

    def cells(
        self, device: torch.device | str = "cpu"
    ) -> tuple[tuple[Float[Tensor, " n"], Int[Tensor, " L"]], ...]:
        """Find, along x and y, the edges between neighbouring lines and each point's line."""
        return tuple((edges.to(device), index.to(device)) for edges, index in self._cells)


@dataclass(frozen=True)
class Everywhere:
    """The glimpses of a batch's images at all points of a lattice."""

    lattice: Lattice
    glimpses: Float[Tensor, "L B S D"]
    """Features, in the order of the lattice's points."""
