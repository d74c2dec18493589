"""Lattices of fixations: their points, which of them is nearest, and the noise around each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt64


def lattice(side: int, extent: float | None = None) -> Float[np.ndarray, "L 2"]:
    """Square lattice of `side * side` fixations (x, y), row by row from the top left.

    Args:
        side: points a side, at least 1.
        extent: outermost coordinate; by default 1 - 1 / side, the centres of equal cells.

    Returns:
        Fixations (x, y), float32 [side * side, 2].

    Raises:
        ValueError: for a side below 1 or an extent outside (0, 1].

    Example:
        >>> lattice(2).tolist()
        [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    """
    if side < 1:
        raise ValueError(f"a lattice has at least one point a side, not {side}")
    if extent is not None and not 0 < extent <= 1:
        raise ValueError(f"the extent of a lattice lies in (0, 1], not {extent}")
    reach = 1 - 1 / side if extent is None else extent
    line = np.linspace(-reach, reach, side) if side > 1 else np.zeros(1)
    if side % 2:
        line[side // 2] = 0.0  # not what is left of it by rounding: the centre is looked for
    x, y = np.meshgrid(line, line)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def noise_keys(
    seed: int,
    image: Integer[np.ndarray, " B"],
    mirror: Shaped[np.ndarray, " B"],
    point: Integer[np.ndarray, " B"],
) -> UInt64[np.ndarray, " B"]:
    """Key of the noise that each (image, mirror, point) has outside the image.

    An injective packing (39 bits image, 1 mirror, 24 point), shifted by the seed; the retina
    hashes it.

    Args:
        seed: Seed of a bank's noise.
        image: Index of each image.
        mirror: Whether each image is mirrored.
        point: Index of each lattice point.

    Returns:
        One key for each row.

    Example:
        >>> noise_keys(0, np.array([0, 1]), np.array([False, False]), np.array([5, 5])).tolist()
        [5, 33554437]
    """
    packed = (
        (np.asarray(image).astype(np.uint64) << np.uint64(25))
        | (np.asarray(mirror).astype(np.uint64) << np.uint64(24))
        | np.asarray(point).astype(np.uint64)
    )
    return packed ^ np.uint64((seed * 0x9E3779B97F4A7C15) % (1 << 64))


def coinciding(places: np.ndarray, points: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Index of the point that equals each place, or what is given for those without one."""
    same = np.all(places[:, None] == points[None], axis=2)
    return np.where(same.any(axis=1), same.argmax(axis=1), otherwise)


def nearest(points: np.ndarray, lattice_points: np.ndarray) -> np.ndarray:
    """Index of the nearest lattice point (squared distance without the constant |p|^2)."""
    points = np.asarray(points, np.float32)
    score = points @ lattice_points.T - 0.5 * (lattice_points**2).sum(axis=1)
    return score.argmax(axis=1)
