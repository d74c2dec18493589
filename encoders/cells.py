"""Cells of a feature map: its average over a coarse grid, which keeps where things are.

A network reads a patch into one vector of D features. Its last map, averaged to G x G cells of C
channels, says in which part of the patch they were found. Networks that give both compute them from
the same map in one pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def average_cells(feature_map: Float[Tensor, "N C h w"], grid: int) -> Float[Tensor, "N G G C"]:
    """Average a map over `grid * grid` equal cells, in float32.

    Args:
        feature_map: In any arithmetic and memory layout.
        grid: G, which divides both sides of the map.

    Returns:
        Cells row by row from the top left; their mean is the mean of the map.

    Example:
        >>> average_cells(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """
    height, width = feature_map.shape[-2:]
    # A mean over views of the map takes ten times as long.
    cells = F.avg_pool2d(feature_map.float(), (height // grid, width // grid))
    return cells.permute(0, 2, 3, 1)


def read_out(feature_map: Float[Tensor, "N C h w"], grid: int) -> Float[Tensor, "N W"]:
    """Give the mean of a map, followed by its cells if there are several, in float32.

    Args:
        feature_map: As in `average_cells`.
        grid: G; 1 for the mean alone.

    Returns:
        W = C numbers for a grid of 1, else W = C + G * G * C: the cells are flattened.
    """
    if grid == 1:
        return feature_map.float().mean((2, 3))
    cells = average_cells(feature_map, grid)
    return torch.cat([cells.mean((1, 2)), cells.flatten(1)], 1)
