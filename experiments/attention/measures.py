"""From fixations and boxes to the numbers of `glimpse attention`, image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from experiments import geometry
from experiments.metrics import Estimate, mean_estimate, share_estimate
from glimpse_env.datasets.base import ImageDataset, size_of

SHARES = ("inside", "none", "one", "overlap", "hull", "line")
"""Measures that are true or false of one fixation."""
LENGTHS = ("distance", "middle_distance")
"""Measures in short sides of the image."""
NEAR_LINE = 0.15
"""How near the line between two dogs counts as between them, in short sides."""

_GRID_SIDE = 24
_SNAP_SIDE = 512

Measures = Mapping[str, Float[np.ndarray, "*R"]]
"""One array a name of `SHARES` and `LENGTHS`."""


@dataclass(frozen=True)
class Scenery:
    """The boxes of a split's images."""

    images: Int64[np.ndarray, " N"]
    """Indices in the split, of all images watched."""
    sizes: list[tuple[int, int]]
    """Width and height of each."""
    boxes: list[np.ndarray]
    """Boxes of each, `[M, 4]` in pixels; M may be 0."""

    @property
    def counts(self) -> Int64[np.ndarray, " N"]:
        """Boxes in each image."""
        return np.array([len(each) for each in self.boxes], np.int64)

    @property
    def apart(self) -> Bool[np.ndarray, " N"]:
        """Whether an image has several boxes and no two of them overlap."""
        return np.array([len(b) > 1 and not geometry.overlap(b) for b in self.boxes], bool)


def survey(dataset: ImageDataset, images: Int64[np.ndarray, " N"]) -> Scenery:
    """Read sizes and boxes."""
    sizes = [size_of(dataset, index) for index in images.tolist()]
    found = [np.asarray(dataset.boxes(index), np.float64) for index in images.tolist()]
    return Scenery(np.asarray(images), sizes, found)


def measure(
    points: Float[np.ndarray, "R 2"], boxes: Float[np.ndarray, "M 4"], size: tuple[int, int]
) -> dict[str, Float[np.ndarray, " R"]]:
    """All measures of some points of one image that has boxes.

    `inside` any box; in `none`, in exactly `one`, in the `overlap` of several; `distance` to the
    nearest box (0 inside) and `middle_distance` to the nearest box's middle, in short sides; and
    between the two largest boxes, in no box: within their convex `hull`, or at most `NEAR_LINE`
    short sides from the `line` between their middles.
    """
    short = float(min(size))
    count = geometry.inside(points, boxes).sum(axis=1)
    middles = geometry.centres(boxes)
    to_middle = np.linalg.norm(points[:, None] - middles[None], axis=-1).min(axis=1)
    found = {
        "inside": count >= 1,
        "none": count == 0,
        "one": count == 1,
        "overlap": count >= 2,
        "distance": geometry.box_distance(points, boxes).min(axis=1) / short,
        "middle_distance": to_middle / short,
        "hull": np.zeros(len(points), bool),
        "line": np.zeros(len(points), bool),
    }
    if len(boxes) > 1:
        pair = geometry.two_largest(boxes)
        first, second = geometry.centres(pair)
        found["hull"] = (count == 0) & geometry.in_hull(points, pair)
        near = geometry.segment_distance(points, first, second) <= NEAR_LINE * short
        found["line"] = (count == 0) & near
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def expect_uniform(boxes: Float[np.ndarray, "M 4"], size: tuple[int, int]) -> dict[str, float]:
    """The measures of a fixation drawn evenly over an image, in expectation.

    What boxes cover is exact; distances and what lies between are means over a fine grid.
    """
    found = measure(geometry.grid(size, _GRID_SIDE), boxes, size)
    expected = {name: float(values.mean()) for name, values in found.items()}
    none, one, more = geometry.coverage(boxes, size)
    return expected | {"inside": one + more, "none": none, "one": one, "overlap": more}


def lattice_shares(
    snap: Callable[[np.ndarray], np.ndarray], points: int
) -> Float[np.ndarray, " L"]:
    """Compute how often a fixation drawn evenly ends on each point of a lattice."""
    even = geometry.grid((2, 2), _SNAP_SIDE) - 1.0
    parts = [snap(part.astype(np.float32)) for part in np.array_split(even, 64)]
    return np.bincount(np.concatenate(parts), minlength=points) / len(even)


def measure_all(
    scenery: Scenery, fixations: Float[np.ndarray, "R N 2"]
) -> dict[str, Float[np.ndarray, "R N"]]:
    """The measures of R fixations in each image; NaN where an image has no box."""
    rows, count = fixations.shape[:2]
    found = {name: np.full((rows, count), np.nan) for name in (*SHARES, *LENGTHS)}
    for i, (boxes, size) in enumerate(zip(scenery.boxes, scenery.sizes, strict=True)):
        if len(boxes):
            each = measure(geometry.to_pixels(fixations[:, i], size), boxes, size)
            for name, values in each.items():
                found[name][:, i] = values
    return found


def measure_uniform(scenery: Scenery) -> dict[str, Float[np.ndarray, " N"]]:
    """`expect_uniform` of each image; NaN where an image has no box."""
    found = {name: np.full(len(scenery.sizes), np.nan) for name in (*SHARES, *LENGTHS)}
    for i, (boxes, size) in enumerate(zip(scenery.boxes, scenery.sizes, strict=True)):
        if len(boxes):
            for name, value in expect_uniform(boxes, size).items():
                found[name][i] = value
    return found


def measure_lattice(
    scenery: Scenery, lattice: Float[np.ndarray, "L 2"], shares: Float[np.ndarray, " L"]
) -> dict[str, Float[np.ndarray, " N"]]:
    """The measures of an even draw that a lattice then moves, in expectation."""
    count = len(scenery.sizes)
    every = np.broadcast_to(lattice[:, None], (len(lattice), count, 2))
    return {name: shares @ values for name, values in measure_all(scenery, every).items()}


def summarise(
    measures: Measures,
    chosen: Bool[np.ndarray, " N"],
    names: Sequence[str],
    *,
    expected: bool = False,
) -> dict[str, Estimate]:
    """Mean of each measure over the images chosen, with its interval.

    Args:
        measures: Of one fixation an image, or its expectation.
        chosen: Which images.
        names: Which measures.
        expected: Whether these are expectations, between yes and no. Shares of yes and no get
            Wilson's interval, all else that of a mean.
    """
    found = {}
    for name in names:
        values = measures[name][chosen]
        binary = name in SHARES and not expected
        found[name] = share_estimate(values > 0.5) if binary else mean_estimate(values)
    return found


def follows(
    scenery: Scenery, fixations: Float[np.ndarray, "N 2"]
) -> tuple[float | None, float | None]:
    """Correlation of fixation and dog, along x and y, over the images with one box.

    1 is a fixation that moves with the dog, 0 one that knows nothing of it. None where one of the
    two never varies, or where fewer than three images have one box.
    """
    single = np.flatnonzero(scenery.counts == 1)
    if len(single) < 3:
        return None, None
    dog = np.stack(
        [2 * geometry.centres(scenery.boxes[i])[0] / scenery.sizes[i] - 1 for i in single.tolist()]
    )
    looked = np.asarray(fixations, np.float64)[single]
    correlations = []
    for axis in (0, 1):
        a, b = looked[:, axis], dog[:, axis]
        constant = a.std() < 1e-9 or b.std() < 1e-9
        correlations.append(None if constant else float(np.corrcoef(a, b)[0, 1]))
    return correlations[0], correlations[1]


def in_dogs_frame(
    scenery: Scenery, fixations: Float[np.ndarray, "N 2"]
) -> Float[np.ndarray, "n 2"]:
    """Fixations in the frame of the nearest box ([-1, 1] is inside), where there is one."""
    found = [
        geometry.relative_to_box(geometry.to_pixels(fixations[i : i + 1], size), boxes)
        for i, (boxes, size) in enumerate(zip(scenery.boxes, scenery.sizes, strict=True))
        if len(boxes)
    ]
    return np.concatenate(found) if found else np.zeros((0, 2))


def as_record(estimate: Estimate) -> dict[str, float]:
    """An estimate as JSON holds it, to four places."""
    return {name: round(value, 6) for name, value in asdict(estimate).items()}
