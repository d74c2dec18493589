"""Where a policy looks whose module does not say: fixed and random places, and a quadtree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

SIDES = {"low": 1.0, "medium": 0.5, "high": 0.25}
"""Side of each resolution's patch as a share of the image's short side."""

LOOKS = ("auto", "own", "center", "random", "scan", "coarse-to-fine")
"""Names of the ways to choose places."""


def quadtree(count: int) -> Float[Tensor, "T 3"]:
    """The whole, its quarters, their quarters: row, by row, each as (x, y, half side).

    Args:
        count: T, places wanted.

    Returns:
        The first T, in units of half of the short side.

    Example:
        >>> quadtree(3).tolist()
        [[0.0, 0.0, 1.0], [-0.5, -0.5, 0.5], [0.5, -0.5, 0.5]]
    """
    places, level = [], 0
    while len(places) < count:
        side = 2**level
        middles = [(2 * i + 1) / side - 1 for i in range(side)]
        places += [(x, y, 1 / side) for y in middles for x in middles]
        level += 1
    return torch.tensor(places[:count])


def quadtree_zooms(places: Float[Tensor, "T 3"], resolutions: Sequence[str]) -> Float[Tensor, " T"]:
    """Zooms at which a patch shows the places of a quadtree.

    Raises:
        ValueError: Several patches a glimpse, or sides out of a zoom's reach.
    """
    if len(resolutions) != 1:
        raise ValueError(
            f"look 'coarse-to-fine' needs one patch a glimpse, and there are {len(resolutions)}: "
            "give one resolution, such as 'medium'."
        )
    zooms = torch.log2(places[:, 2] / SIDES[resolutions[0]])
    if bool((zooms.abs() > 1).any()):
        sides = ", ".join(f"1/{round(1 / side)}" for side in places[:, 2].unique().tolist()[::-1])
        raise ValueError(
            f"look 'coarse-to-fine' needs patches of {sides} of the short side, which a zoom of "
            f"{resolutions[0]!r} does not reach: take 'medium', or fewer glimpses (21 at most)."
        )
    return zooms


def scan_points(count: int) -> Float[Tensor, "T 2"]:
    """The first T points of the smallest square lattice that has as many, row by row."""
    side = math.isqrt(max(count, 1) - 1) + 1
    axis = torch.linspace(-0.5, 0.5, side) if side > 1 else torch.zeros(1)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)[:count]
