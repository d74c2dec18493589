"""Where points fall against boxes: pure functions.

Convention:
    Points are (x, y) and boxes (xmin, ymin, xmax, ymax) as edges, all in pixels of one image. A
    point on an edge is inside. Lengths handed out are in pixels too.

Shape key: N points, M boxes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int64


def to_pixels(
    fixations: Float[np.ndarray, "*N 2"], size: tuple[int, int]
) -> Float[np.ndarray, "*N 2"]:
    """Fixations in [-1, 1] as points of an image of this width and height."""
    clipped = np.clip(np.asarray(fixations, np.float64), -1.0, 1.0)
    return (clipped + 1.0) / 2.0 * np.array(size, np.float64)


def grid(size: tuple[int, int], side: int) -> Float[np.ndarray, "N 2"]:
    """Midpoints of side x side equal cells of an image: a mean over them is one over the area."""
    axis = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(axis * size[0], axis * size[1])
    return np.stack([x.ravel(), y.ravel()], 1)


def box_offsets(
    points: Float[np.ndarray, "N 2"], boxes: Float[np.ndarray, "M 4"]
) -> Float[np.ndarray, "N M 2"]:
    """Measure how far a point lies outside each box along x and y; 0 where it does not."""
    p, b = np.asarray(points, np.float64)[:, None], np.asarray(boxes, np.float64)[None]
    return np.maximum(0.0, np.maximum(b[..., :2] - p, p - b[..., 2:]))


def box_distance(
    points: Float[np.ndarray, "N 2"], boxes: Float[np.ndarray, "M 4"]
) -> Float[np.ndarray, "N M"]:
    """Distance of each point to each box; 0 inside."""
    return np.linalg.norm(box_offsets(points, boxes), axis=-1)


def inside(
    points: Float[np.ndarray, "N 2"], boxes: Float[np.ndarray, "M 4"]
) -> Bool[np.ndarray, "N M"]:
    """Return whether each point lies in each box."""
    return (box_offsets(points, boxes) == 0.0).all(axis=-1)


def centres(boxes: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "M 2"]:
    """Middle of each box."""
    b = np.asarray(boxes, np.float64)
    return (b[:, :2] + b[:, 2:]) / 2.0


def areas(boxes: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, " M"]:
    """Area of each box."""
    b = np.asarray(boxes, np.float64)
    return np.prod(np.maximum(0.0, b[:, 2:] - b[:, :2]), axis=1)


def nearest_box(
    points: Float[np.ndarray, "N 2"], boxes: Float[np.ndarray, "M 4"]
) -> Int64[np.ndarray, " N"]:
    """Index of the box nearest to each point; among those it lies in, the one of nearest middle."""
    distance = box_distance(points, boxes)
    to_middle = np.linalg.norm(points[:, None] - centres(boxes)[None], axis=-1)
    tied = distance <= distance.min(axis=1, keepdims=True)
    return np.where(tied, to_middle, np.inf).argmin(axis=1)


def relative_to_box(
    points: Float[np.ndarray, "N 2"], boxes: Float[np.ndarray, "M 4"]
) -> Float[np.ndarray, "N 2"]:
    """Each point in the frame of its nearest box: within [-1, 1] inside it, 0 in its middle."""
    chosen = np.asarray(boxes, np.float64)[nearest_box(points, boxes)]
    half = np.maximum((chosen[:, 2:] - chosen[:, :2]) / 2.0, 1e-9)
    return (points - centres(chosen)) / half


def coverage(boxes: Float[np.ndarray, "M 4"], size: tuple[int, int]) -> tuple[float, float, float]:
    """Shares of an image's area that lie in no box, in exactly one, and in two or more.

    Exact: the edges cut the image into cells, and each cell lies in a box or not. The first is
    what a fixation drawn evenly over the image misses by.

    Args:
        boxes: Clipped to the image.
        size: Its width and height.
    """
    limit = np.array([size[0], size[1]] * 2, np.float64)
    b = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0.0, limit)
    x = np.unique(np.concatenate([b[:, 0], b[:, 2], [0.0, size[0]]]))
    y = np.unique(np.concatenate([b[:, 1], b[:, 3], [0.0, size[1]]]))
    middle_x, middle_y = (x[:-1] + x[1:]) / 2, (y[:-1] + y[1:]) / 2
    in_x = (b[:, 0, None] <= middle_x) & (middle_x <= b[:, 2, None])
    in_y = (b[:, 1, None] <= middle_y) & (middle_y <= b[:, 3, None])
    count = np.einsum("mx,my->yx", in_x.astype(np.int64), in_y.astype(np.int64))
    cell = np.diff(y)[:, None] * np.diff(x)[None] / (size[0] * size[1])
    none, one, more = (float(cell[mask].sum()) for mask in (count == 0, count == 1, count >= 2))
    return none, one, more


def overlap(boxes: Float[np.ndarray, "M 4"]) -> bool:
    """Return whether any two of the boxes share more than an edge."""
    b = np.asarray(boxes, np.float64)
    low = np.maximum(b[:, None, :2], b[None, :, :2])
    high = np.minimum(b[:, None, 2:], b[None, :, 2:])
    shared = np.all(high > low, axis=-1) & ~np.eye(len(b), dtype=bool)
    return bool(shared.any())


def two_largest(boxes: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "2 4"]:
    """The two boxes of greatest area, in the order given."""
    kept = np.sort(np.argsort(-areas(boxes), kind="stable")[:2])
    return np.asarray(boxes, np.float64)[kept]


def in_hull(
    points: Float[np.ndarray, "N 2"], pair: Float[np.ndarray, "2 4"]
) -> Bool[np.ndarray, " N"]:
    """Return whether each point lies in the convex hull of two boxes.

    The hull is what one box sweeps while its edges move evenly to the other's: a point is in it if
    at some moment t in [0, 1] it is in the moving box, and each edge allows an interval of t.
    """
    p, (a, b) = np.asarray(points, np.float64), np.asarray(pair, np.float64)
    # Each edge asks for offset + slope * t <= 0.
    offset = np.concatenate([a[:2] - p, p - a[2:]], axis=1)
    slope = np.broadcast_to(np.concatenate([b[:2] - a[:2], a[2:] - b[2:]]), offset.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = -offset / slope
    first = np.where(slope < 0, bound, 0.0).max(axis=1)
    last = np.where(slope > 0, bound, 1.0).min(axis=1)
    possible = ((slope != 0) | (offset <= 0)).all(axis=1)
    return possible & (np.maximum(first, 0.0) <= np.minimum(last, 1.0))


def segment_distance(
    points: Float[np.ndarray, "N 2"],
    start: Float[np.ndarray, " 2"],
    end: Float[np.ndarray, " 2"],
) -> Float[np.ndarray, " N"]:
    """Distance of each point to the segment from `start` to `end`."""
    p, a, b = (np.asarray(v, np.float64) for v in (points, start, end))
    along, length = b - a, float(np.sum((b - a) ** 2))
    share = np.zeros(len(p)) if length == 0 else np.clip((p - a) @ along / length, 0.0, 1.0)
    return np.linalg.norm(p - (a + share[:, None] * along), axis=1)
