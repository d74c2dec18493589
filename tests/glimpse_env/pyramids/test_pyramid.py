"""Pyramids: exact sizes and an exact filter."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glimpse_env.pyramids.pyramid import (
    MAX_ASPECT,
    RESOLUTIONS,
    build_pyramid,
    check_resolutions,
    level_shape,
)
from tests.glimpse_env.retina.slow_retina import slow_resize


@pytest.mark.parametrize(
    ("image_shape", "low", "high"),
    [
        ((96, 96), (96, 96), (384, 384)),
        ((375, 500), (96, 128), (384, 512)),
        ((500, 375), (128, 96), (512, 384)),
        ((100, 300), (96, 288), (384, 1152)),
        ((1, 1), (96, 96), (384, 384)),
        ((288, 483), (96, 161), (384, 644)),
        ((101, 150), (96, 143), (384, 570)),  # 142.6 and 570.3
        ((64, 65), (96, 98), (384, 390)),  # 97.5 goes up
        ((20, 4000), (96, 19200), (384, 76800)),
    ],
)
def test_levels_have_an_exact_short_side_and_a_rounded_long_one(image_shape, low, high):
    assert level_shape(image_shape, "low") == low
    assert level_shape(image_shape, "high") == high


@pytest.mark.parametrize("image_shape", [(1, 1), (1, 7), (20, 4000), (4000, 20), (60, 181)])
def test_every_level_is_built_at_its_shape(image_shape):
    image = np.random.default_rng(0).integers(0, 256, (*image_shape, 3), dtype=np.uint8)
    pyramid = build_pyramid(image)
    assert pyramid.image_shape == image_shape
    assert tuple(pyramid.levels) == RESOLUTIONS
    for name, level in pyramid.levels.items():
        assert level.shape == (*level_shape(image_shape, name), 3)
        assert level.dtype == np.uint8
    assert pyramid.nbytes == sum(level.size for level in pyramid.levels.values())


@pytest.mark.parametrize("image_shape", [(1, 1), (50, 33), (300, 450), (700, 1000)])
def test_levels_agree_with_the_exact_filter(image_shape):
    # Noise is the hardest image: every wrong weight shows.
    image = np.random.default_rng(1).integers(0, 256, (*image_shape, 3), dtype=np.uint8)
    for level in build_pyramid(image).levels.values():
        exact = slow_resize(image, *level.shape[:2])
        assert np.abs(level - exact).mean() < 1.0
        assert np.abs(level - exact).max() < 2.0


def test_a_big_image_agrees_with_the_exact_filter():
    image = np.random.default_rng(2).integers(0, 256, (1500, 4000, 3), dtype=np.uint8)
    level = build_pyramid(image, ("medium",)).levels["medium"]
    assert np.abs(level - slow_resize(image, *level.shape[:2])).mean() < 1.0


def test_only_the_levels_asked_for_are_built():
    image = np.zeros((40, 40, 3), np.uint8)
    assert list(build_pyramid(image, ("high", "low")).levels) == ["high", "low"]


def test_views_with_strides_are_read_right():
    image = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    turned = build_pyramid(image[:, ::-1]).levels["low"]
    np.testing.assert_array_equal(turned, build_pyramid(image).levels["low"][:, ::-1])
    transposed = build_pyramid(image.transpose(1, 0, 2)).levels["low"]
    np.testing.assert_array_equal(
        transposed, build_pyramid(np.ascontiguousarray(image.transpose(1, 0, 2))).levels["low"]
    )


@pytest.mark.parametrize("wrong", [(), ("hihg",), ("low", "low"), "lo", ("low", "High")])
def test_wrong_resolutions_are_named(wrong):
    with pytest.raises(ValueError, match="non-empty subset of .*'low', 'medium', 'high'"):
        check_resolutions(wrong)


def test_an_empty_or_extremely_elongated_image_is_refused():
    with pytest.raises(ValueError, match="no pixels"):
        build_pyramid(np.zeros((0, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="crop it"):
        build_pyramid(np.zeros((1, MAX_ASPECT + 1, 3), np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (20, 60), (288, 483), (1500, 1100), (97, 384)])
def test_levels_are_pillows_to_a_grey_level(shape):
    """Banks and features made with Pillow's levels stay good: same filter, other rounding."""
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for name, level in build_pyramid(noise).levels.items():
        height, width = level_shape(shape, name)
        pillow = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
        difference = np.abs(level.astype(int) - np.asarray(pillow))
        assert difference.max() <= 1
        assert difference.mean() < 0.06
        assert level.flags.c_contiguous and not np.shares_memory(level, noise)
