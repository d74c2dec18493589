"""Geometry of points and boxes against closed forms and independent ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.spatial import Delaunay

from experiments import geometry

SIZE = (100, 60)


@st.composite
def some_boxes(draw: st.DrawFn, least: int = 1, most: int = 4) -> np.ndarray:
    """Boxes inside an image of `SIZE`, of whole pixels."""
    found = []
    for _ in range(draw(st.integers(least, most))):
        x = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True)))
        y = sorted(draw(st.lists(st.integers(0, 60), min_size=2, max_size=2, unique=True)))
        found.append([x[0], y[0], x[1], y[1]])
    return np.array(found, float)


def test_pixels_of_fixations() -> None:
    points = geometry.to_pixels(np.array([[-1, -1], [0, 0], [1, 1], [7, -7]]), SIZE)
    np.testing.assert_array_equal(points, [[0, 0], [50, 30], [100, 60], [100, 0]])


def test_distances_to_a_box() -> None:
    box = np.array([[10.0, 10.0, 20.0, 30.0]])
    points = np.array([[15.0, 20.0], [10.0, 10.0], [7.0, 6.0], [25.0, 20.0], [15.0, 42.0]])
    np.testing.assert_allclose(geometry.box_distance(points, box)[:, 0], [0, 0, 5, 5, 12])
    assert geometry.inside(points, box)[:, 0].tolist() == [True, True, False, False, False]


@given(some_boxes(most=1))
def test_an_even_fixation_hits_one_box_by_its_area(boxes: np.ndarray) -> None:
    none, one, more = geometry.coverage(boxes, SIZE)
    assert one == pytest.approx(geometry.areas(boxes)[0] / 6000)
    assert none == pytest.approx(1 - one) and more == 0


@given(some_boxes())
def test_coverage_counts_every_pixel_once(boxes: np.ndarray) -> None:
    """Boxes of whole pixels: counting the middles of all pixels is exact too."""
    x, y = np.meshgrid(np.arange(100) + 0.5, np.arange(60) + 0.5)
    middles = np.stack([x.ravel(), y.ravel()], 1)
    count = geometry.inside(middles, boxes).sum(axis=1)
    expected = [(count == 0).mean(), (count == 1).mean(), (count >= 2).mean()]
    np.testing.assert_allclose(geometry.coverage(boxes, SIZE), expected, atol=1e-12)
    assert geometry.overlap(boxes) == (expected[2] > 0)


def test_coverage_of_no_box_and_of_one_that_leaves_the_image() -> None:
    assert geometry.coverage(np.zeros((0, 4)), SIZE) == (1.0, 0.0, 0.0)
    none, one, _ = geometry.coverage(np.array([[-50.0, 0.0, 50.0, 200.0]]), SIZE)
    assert (none, one) == (pytest.approx(0.5), pytest.approx(0.5))


def test_boxes_that_share_an_edge_do_not_overlap() -> None:
    assert not geometry.overlap(np.array([[0, 0, 10, 10], [10, 0, 20, 10.0]]))
    assert geometry.overlap(np.array([[0, 0, 10, 10], [9, 9, 20, 20.0]]))
    assert not geometry.overlap(np.array([[0, 0, 10, 10.0]]))


@given(some_boxes(least=2, most=2), st.integers(0, 2**32 - 1))
def test_the_hull_is_the_convex_hull_of_the_corners(pair: np.ndarray, seed: int) -> None:
    corners = np.concatenate([pair[:, [0, 1]], pair[:, [0, 3]], pair[:, [2, 1]], pair[:, [2, 3]]])
    points = np.random.default_rng(seed).uniform((-10, -10), (110, 70), (200, 2))
    expected = Delaunay(corners).find_simplex(points) >= 0
    np.testing.assert_array_equal(geometry.in_hull(points, pair), expected)


@given(some_boxes(least=2, most=2), st.floats(0, 1))
def test_middles_of_boxes_and_what_lies_between_are_in_the_hull(
    pair: np.ndarray, share: float
) -> None:
    a, b = geometry.centres(pair)
    point = (a + share * (b - a))[None]
    assert geometry.in_hull(np.concatenate([a[None], b[None]]), pair).all()
    assert geometry.in_hull(point, pair).all()
    np.testing.assert_allclose(geometry.segment_distance(point, a, b), 0, atol=1e-9)


def test_distance_to_a_segment() -> None:
    points = np.array([[5.0, 3.0], [-3.0, 4.0], [13.0, -4.0]])
    start, end = np.array([0.0, 0.0]), np.array([10.0, 0.0])
    np.testing.assert_allclose(geometry.segment_distance(points, start, end), [3, 5, 5])
    np.testing.assert_allclose(
        geometry.segment_distance(points, start, start), np.linalg.norm(points, axis=1)
    )


def test_the_frame_of_the_nearest_box() -> None:
    boxes = np.array([[0.0, 0.0, 10.0, 10.0], [40.0, 0.0, 60.0, 40.0]])
    points = np.array([[10.0, 0.0], [50.0, 40.0], [70.0, 20.0], [5.0, 5.0]])
    expected = [[1, -1], [0, 1], [2, 0], [0, 0]]
    np.testing.assert_allclose(geometry.relative_to_box(points, boxes), expected)
    # In both of two nested boxes, the one whose middle is nearer counts.
    nested = np.array([[0.0, 0.0, 100.0, 60.0], [10.0, 10.0, 20.0, 20.0]])
    assert geometry.nearest_box(np.array([[14.0, 14.0]]), nested).tolist() == [1]


def test_the_two_largest_boxes() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 5, 5], [0, 0, 2, 2], [9, 9, 12, 12.0]])
    np.testing.assert_array_equal(geometry.two_largest(boxes), boxes[[1, 3]])
