"""Pyramids: exact sizes, an exact filter, and a store that forgets in time."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
from PIL import Image

from glimpse_env.pyramids.pyramid import (
    MAX_ASPECT,
    RESOLUTIONS,
    PyramidStore,
    build_pyramid,
    check_resolutions,
    level_shape,
)
from tests.glimpse_env.retina.slow_retina import slow_resize


class Images:
    """A data set of random images that counts how often it is asked for one."""

    def __init__(self, shapes):
        self.shapes = shapes
        self.decoded = []

    def __len__(self):
        return len(self.shapes)

    def image(self, index):
        self.decoded.append(index)
        shape = (*self.shapes[index], 3)
        return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


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


# One pyramid of low levels of a 50x50 image takes 96 * 96 * 3 bytes.
LOW = 96 * 96 * 3


def test_the_store_decodes_once_while_the_image_fits():
    images = Images([(50, 50)] * 4)
    store = PyramidStore(images, ("low",), capacity_bytes=2 * LOW)
    first = store[0]
    assert store[0] is first
    assert images.decoded == [0]
    np.testing.assert_array_equal(
        first.levels["low"], build_pyramid(images.image(0), ("low",)).levels["low"]
    )


def test_the_store_drops_the_least_recently_used():
    images = Images([(50, 50)] * 4)
    store = PyramidStore(images, ("low",), capacity_bytes=2 * LOW)
    store.gather([0, 1, 0, 2])
    assert store.cached_indices == (0, 2)
    assert store.cached_bytes == 2 * LOW
    store.gather([0, 1])
    assert images.decoded == [0, 1, 2, 1]


def test_the_store_never_exceeds_its_bound():
    images = Images([(50, 50), (50, 150), (50, 50), (50, 500), (70, 50)])
    store = PyramidStore(images, ("low",), capacity_bytes=4 * LOW)
    for index in np.random.default_rng(0).integers(0, 5, 60):
        kept = store[index]
        assert kept.levels["low"].shape[0] >= 96
        assert store.cached_bytes <= 4 * LOW
        assert store.cached_bytes == sum(store[i].nbytes for i in store.cached_indices)


def test_an_image_too_big_to_keep_is_served_and_others_stay():
    images = Images([(50, 50), (50, 5000)])
    store = PyramidStore(images, ("low",), capacity_bytes=LOW)
    assert store[0].nbytes == LOW
    assert store[1].nbytes > LOW
    assert store.cached_indices == (0,)


def test_preload_says_whether_all_fits():
    images = Images([(50, 50)] * 5)
    roomy = PyramidStore(images, ("low",), capacity_bytes=5 * LOW)
    assert roomy.preload()
    images.decoded.clear()
    roomy.gather(range(5))
    assert images.decoded == []
    tight = PyramidStore(images, ("low",), capacity_bytes=3 * LOW)
    assert not tight.preload()
    assert len(tight.cached_indices) == 3
    assert len(images.decoded) == 4
    assert tight.preload([3])


def test_wrong_indices_and_capacities_are_refused():
    images = Images([(50, 50)] * 2)
    store = PyramidStore(images, ("low",))
    assert len(store) == 2
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"image {index} of 2"):
            store[index]
    with pytest.raises(ValueError, match="capacity_bytes"):
        PyramidStore(images, capacity_bytes=-1)


def test_a_pickled_store_leaves_the_images_behind():
    store = PyramidStore(Images([(50, 50)] * 3), ("low",))
    store.preload()
    packed = pickle.dumps(store)
    assert len(packed) < LOW
    copy = pickle.loads(packed)
    assert copy.cached_indices == ()
    np.testing.assert_array_equal(copy[2].levels["low"], store[2].levels["low"])


def _sum_of_low_level(store, index, answers):
    answers.put(int(store[index].levels["low"].sum()))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_can_use_the_store():
    context = multiprocessing.get_context("fork")
    store = PyramidStore(Images([(50, 50)] * 3), ("low",))
    answers = context.SimpleQueue()
    store[0]
    worker = context.Process(target=_sum_of_low_level, args=(store, 1, answers))
    worker.start()
    assert answers.get() == int(store[1].levels["low"].sum())
    worker.join(10)
    assert worker.exitcode == 0


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
