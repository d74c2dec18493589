"""An exact, slow retina, straight from the definition and sharing no code with the fast one.

A patch is a square box of the original image, of side short / k (k = 1, 2, 4 for low, medium,
high), divided into 96x96 cells (or as many as asked for). Each cell shows the average of the
original pixels, weighted by a triangle as wide as two cells (or two pixels, where a cell is
smaller than a pixel) around the cell's centre; weights beyond the image count as nothing and the
rest are scaled to sum to one. A cell whose centre lies outside the image shows no image. The
centre of the box is the corner of the cell grid of the whole image nearest to the fixation; on a
tie, the one further right or down. With an odd number of cells a side, a patch has a middle cell:
its centre then is the centre of the nearest cell of that grid.
"""

from __future__ import annotations

import numpy as np

SHARE = {"low": 1, "medium": 2, "high": 4}
CELLS = 96


def nearest_corner(
    coordinate: float, length: int, short: int, share: int, side: int = CELLS
) -> float:
    """The grid corner nearest to a fixation's coordinate, in original pixels."""
    cells = int(np.floor(length * side * share / short + 0.5))
    corners = np.arange(cells, -1, -1) + (side % 2) / 2  # of an odd side, the cells' centres
    wanted = (coordinate + 1) / 2 * cells
    return float(corners[np.argmin(np.abs(corners - wanted))]) * length / cells


def triangle_weights(centres: np.ndarray, cell: float, length: int) -> np.ndarray:
    """Weight of each original pixel for cells at `centres` (all in pixels), [cells, length]."""
    half_width = max(cell, 1.0)
    pixel_centres = np.arange(length) + 0.5
    distance = np.abs(pixel_centres[None, :] - centres[:, None])
    weights = np.maximum(0.0, 1.0 - distance / half_width)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


def slow_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole image resized with the triangle filter, float64."""
    rows, columns = (
        triangle_weights((np.arange(n) + 0.5) * length / n, length / n, length)
        for n, length in ((height, image.shape[0]), (width, image.shape[1]))
    )
    return apply_weights(rows, columns, image)


def apply_weights(rows: np.ndarray, columns: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Weighted averages along both axes, [rows, columns, 3]."""
    used_rows, used_columns = (np.flatnonzero(weights.any(axis=0)) for weights in (rows, columns))
    if not (used_rows.size and used_columns.size):
        return np.zeros((len(rows), len(columns), 3))
    rows, columns = rows[:, used_rows], columns[:, used_columns]
    image = image[np.ix_(used_rows, used_columns)]
    across = np.tensordot(columns, image.astype(np.float64), axes=(1, 1))
    return np.tensordot(rows, across, axes=(1, 1))


def slow_patch(
    image: np.ndarray, fixation: tuple[float, float], resolution: str, cells: int = CELLS
) -> tuple[np.ndarray, np.ndarray]:
    """One patch [96, 96, 3] in float64, and which of its cells show the image [96, 96]."""
    height, width = image.shape[:2]
    short, share = min(height, width), SHARE[resolution]
    side = short / share
    cell = side / cells
    axes = []
    for coordinate, length in ((fixation[1], height), (fixation[0], width)):
        middle = nearest_corner(coordinate, length, short, share, cells)
        centres = middle - side / 2 + (np.arange(cells) + 0.5) * cell
        inside = (centres > 0) & (centres < length)
        axes.append((triangle_weights(centres, cell, length), inside))
    (rows, rows_inside), (columns, columns_inside) = axes
    return apply_weights(rows, columns, image), rows_inside[:, None] & columns_inside[None, :]
