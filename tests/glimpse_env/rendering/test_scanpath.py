"""Drawings: right sizes, marks where they belong, and a composite that shows what was seen."""

from __future__ import annotations

import numpy as np
import pytest

from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.rendering.scanpath import (
    GLIMPSE_COLORS,
    RIGHT_COLOR,
    WRONG_COLOR,
    composite,
    draw_scanpath,
    glimpse_strip,
    scanpath_panel,
)
from glimpse_env.retina.rules import cut_patches, patch_boxes


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def noise_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def patches_of(image, fixations, resolutions=("low", "medium", "high")):
    looks = len(fixations)
    return cut_patches(
        [build_pyramid(image)] * looks,
        fixations,
        np.zeros(looks, bool),
        np.arange(looks, dtype=np.uint64),
        resolutions,
    )


def near(image, color, tolerance=12) -> np.ndarray:
    """Where an image has about a colour."""
    return (np.abs(image.astype(int) - color) <= tolerance).all(axis=-1)


def place_of(mask) -> tuple[float, float]:
    """Mean (x, y) of the pixels of a mask."""
    y, x = np.nonzero(mask)
    return float(x.mean()) + 0.5, float(y.mean()) + 0.5


# --- Scanpath ---


def test_a_disc_of_its_own_colour_lies_on_each_fixation():
    fixations = np.array([[-0.5, -0.5], [0.5, 0.0], [0.0, 0.6]])
    drawn = draw_scanpath(grey(300, 400), fixations)
    assert drawn.shape == (300, 400, 3)
    for fixation, color in zip(fixations, GLIMPSE_COLORS, strict=False):
        wanted = (fixation + 1) / 2 * [400, 300]
        assert place_of(near(drawn, color)) == pytest.approx(wanted, abs=1.5)


def test_the_line_joins_the_fixations_in_order():
    fixations = np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8]])
    drawn = draw_scanpath(grey(300, 300), fixations)
    assert (drawn[30, 150] == 255).all()  # between the first and the second
    assert (drawn[150, 270] == 255).all()  # between the second and the third
    assert (drawn[150, 150] == 90).all()  # not between the first and the third


def test_nothing_is_drawn_on_without_fixations():
    image = noise_image(60, 80)
    drawn = draw_scanpath(image, np.zeros((0, 2)))
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_the_image_given_is_left_alone():
    image = noise_image(60, 80)
    before = image.copy()
    draw_scanpath(image, np.zeros((1, 2)), correct=True)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("correct", "color"), [(True, RIGHT_COLOR), (False, WRONG_COLOR)])
def test_the_border_tells_right_from_wrong(correct, color):
    drawn = draw_scanpath(grey(200, 300), np.zeros((1, 2)), correct=correct)
    border = np.ones((200, 300), bool)
    border[2:-2, 2:-2] = False
    assert near(drawn, color, 1)[border].all()
    assert not near(drawn, color, 1)[20:-20, 20:-20].any()


def test_boxes_are_drawn_where_the_patches_were_cut():
    fixations = np.array([[0.1, -0.1]])
    boxes = patch_boxes((400, 400), fixations, ("high", "medium"))
    drawn = draw_scanpath(grey(400, 400), fixations, boxes)
    plain = draw_scanpath(grey(400, 400), fixations)
    changed = (drawn != plain).any(axis=-1)
    for xmin, ymin, xmax, ymax in boxes[0].round().astype(int):
        for y, x in [(ymin, xmin), (ymin, xmax), (ymax, xmin), (ymax, xmax)]:
            assert changed[y, x]
        assert changed[ymin, xmin:xmax].all() and changed[ymin:ymax, xmax].all()
    assert not changed[:76].any()  # the medium box starts at 0.9 / 2 * 400 - 100 = 80


def test_a_fixation_on_the_border_stays_visible():
    drawn = draw_scanpath(grey(300, 300), np.array([[1.0, 1.0], [-1.0, 3.0]]))
    for color in GLIMPSE_COLORS[:2]:
        assert near(drawn, color).sum() > 80


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (20, 20), (20, 400), (2500, 1200)])
def test_any_size_can_be_drawn_on(size):
    fixations = np.array([[-0.2, 0.3], [1.0, -1.0]], np.float32)
    drawn = draw_scanpath(grey(*size), fixations, patch_boxes(size, fixations), correct=False)
    assert drawn.shape == (*size, 3)
    assert (drawn != 90).any()


def test_a_gigantic_image_is_refused():
    with pytest.raises(ValueError, match="scale it down"):
        draw_scanpath(grey(1, 8001), np.zeros((1, 2)))


# --- Strip ---


def test_the_strip_shows_every_patch_in_its_place():
    patches = patches_of(noise_image(120, 160), np.array([[0.0, 0.0], [0.4, -0.3]]))
    strip = glimpse_strip(patches)
    gap = 4
    height = 2 * 96 + gap
    assert strip.shape[0] == height
    left = strip.shape[1] - (3 * 96 + 2 * gap)
    assert left > 0
    for t in range(2):
        for s in range(3):
            top, start = t * (96 + gap), left + s * (96 + gap)
            shown = strip[top : top + 96, start : start + 96]
            np.testing.assert_array_equal(shown, patches[t, s])
    for t in range(2):  # the number beside each row has the glimpse's colour
        margin = near(strip[:, :left], GLIMPSE_COLORS[t])
        assert place_of(margin)[1] == pytest.approx(t * 100 + 48, abs=1.5)


def test_named_columns_add_a_line_of_names():
    patches = patches_of(noise_image(120, 160), np.zeros((2, 2)), ("high", "low"))
    named, plain = glimpse_strip(patches, ("high", "low")), glimpse_strip(patches)
    added = named.shape[0] - plain.shape[0]
    assert 10 < added < 40
    np.testing.assert_array_equal(named[added:], plain)
    assert (named[:added] < 200).any()
    with pytest.raises(ValueError, match="1 resolutions for 2 patches"):
        glimpse_strip(patches, ("high",))


def test_a_strip_can_be_scaled_and_empty():
    patches = patches_of(noise_image(120, 160), np.zeros((1, 2)))
    assert glimpse_strip(patches, side=48).shape[0] == 48
    assert glimpse_strip(patches[:0]).shape[0] == 1


# --- Composite ---


def test_the_composite_shows_the_sharpest_pixel_seen():
    image = noise_image(384, 384)  # its high level is itself, so a block is 4x4 or 2x2 pixels
    levels = build_pyramid(image).levels
    shown = composite(image, np.array([[0.0, 0.0]]))
    high = np.s_[144:240, 144:240]
    expected = np.repeat(np.repeat(levels["low"], 4, axis=0), 4, axis=1)
    expected[96:288, 96:288] = np.repeat(np.repeat(levels["medium"], 2, 0), 2, 1)[96:288, 96:288]
    expected[high] = image[high]
    np.testing.assert_array_equal(shown, expected)


def test_what_no_glimpse_saw_is_noise_in_the_composite():
    image = np.full((384, 512, 3), 131, np.uint8)
    fixations = np.array([[-0.5, -0.5], [0.5, 0.25]])
    shown = composite(image, fixations, ("high",))
    seen = np.zeros((384, 512), bool)
    for xmin, ymin, xmax, ymax in patch_boxes((384, 512), fixations, ("high",))[:, 0].astype(int):
        seen[ymin:ymax, xmin:xmax] = True
    np.testing.assert_array_equal((shown == 131).all(axis=-1), seen)
    assert 120 < shown[~seen].mean() < 135
    assert (shown != composite(image, fixations, ("high",), noise_key=1)).any()


def test_a_later_coarse_glimpse_does_not_hide_an_earlier_fine_one():
    image = noise_image(384, 384)
    one = composite(image, np.array([[0.0, 0.0]]))
    two = composite(image, np.array([[0.0, 0.0], [0.05, 0.6]]))
    np.testing.assert_array_equal(two[144:240, 144:240], one[144:240, 144:240])
    orders = [composite(image, np.array(p)) for p in ([[0, 0], [0.3, 0.1]], [[0.3, 0.1], [0, 0]])]
    np.testing.assert_array_equal(*orders)


def test_the_composite_can_have_any_size():
    image, fixations = noise_image(50, 70), np.array([[0.0, 0.0]])
    assert composite(image, fixations).shape == (50, 70, 3)
    assert composite(image, fixations, size=(320, 448)).shape == (320, 448, 3)
    assert composite(image, np.zeros((0, 2))).shape == (50, 70, 3)


def test_a_zoomed_glimpse_shows_as_its_neighbour_would():
    image, fixations = noise_image(384, 384), np.array([[0.0, 0.0], [0.25, -0.5]])
    for zoom, stand_in in ((0.0, "medium"), (1.0, "low"), (-1.0, "high")):
        shown = composite(image, fixations, ("medium",), scales=np.full(2, zoom))
        expected = composite(image, fixations, (stand_in,))
        boxes = patch_boxes((384, 384), fixations, (stand_in,))[:, 0].clip(0, 384).astype(int)
        for xmin, ymin, xmax, ymax in boxes:
            part = np.s_[ymin + 4 : ymax - 4, xmin + 4 : xmax - 4]
            off = np.abs(shown[part].astype(int) - expected[part].astype(int))
            assert off.max() <= 2, zoom


# --- Panel ---


@pytest.mark.parametrize("size", [(288, 384), (20, 60), (300, 100), (1, 1)])
@pytest.mark.parametrize("looks", [1, 3, 7])
def test_a_panel_holds_all_parts_without_overlap(size, looks):
    image = noise_image(*size)
    fixations = np.random.default_rng(1).uniform(-1, 1, (looks, 2))
    patches = patches_of(image, fixations)
    panel = scanpath_panel(image, fixations, patches, correct=True, title="A dog")
    without = scanpath_panel(image, fixations, correct=True)
    assert panel.dtype == np.uint8 and panel.shape[1] > without.shape[1]
    assert 200 < panel.shape[0] < 700
    assert near(panel, RIGHT_COLOR, 1).any()
    for edge in (panel[:5], panel[-5:], panel[:, :5], panel[:, -5:]):
        assert (edge == 255).all()


def test_a_panel_without_a_verdict_has_no_border():
    panel = scanpath_panel(grey(100, 100), np.zeros((1, 2)), resolutions=("high",))
    assert not near(panel, RIGHT_COLOR, 1).any() and not near(panel, WRONG_COLOR, 1).any()
