"""The retina against an independent slow reference, closed forms and its own symmetries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from PIL import Image

from glimpse_env.pyramids.pyramid import LEVEL_SHORT_SIDE, RESOLUTIONS, Pyramid, build_pyramid
from glimpse_env.retina.rules import (
    PATCH_SIDE,
    cut_patches,
    cut_scaled_patches,
    noise_patches,
    patch_boxes,
    patch_origins,
    splitmix64,
)
from tests.glimpse_env.retina.slow_retina import slow_patch

coordinates = st.floats(-1, 1, width=32)
sizes = st.tuples(st.integers(1, 220), st.integers(1, 220)).filter(
    lambda size: max(size) <= 8 * min(size)
)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=30, deadline=None)


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def natural_image(seed: int, height: int, width: int) -> np.ndarray:
    """A random field with a natural image's spectrum: octaves whose strength falls as 1/f."""
    generator = np.random.default_rng(seed)
    field = np.full((height, width, 3), 128, np.float32)
    waves = 2
    while waves < max(height, width):
        rows, columns = (max(2, round(waves * n / max(height, width))) for n in (height, width))
        for channel in range(3):
            grid = generator.normal(0, 60 * 2 / waves, (rows, columns)).astype(np.float32)
            octave = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
            field[..., channel] += np.asarray(octave)
        waves *= 2
    return np.clip(np.rint(field), 0, 255).astype(np.uint8)


def look(image, fixation, mirror=False, key=0, resolutions=RESOLUTIONS, side=PATCH_SIDE):
    """One glimpse [S, P, P, 3] of one image."""
    return cut_patches(
        [build_pyramid(image, resolutions, side)],
        np.array([fixation], np.float64),
        np.array([mirror]),
        np.array([key], np.uint64),
        resolutions,
    )[0]


# --- Against the slow reference ---


def assert_agrees_with_reference(image, fixation, resolution, key=7, side=PATCH_SIDE):
    patch = look(image, fixation, key=key, resolutions=(resolution,), side=side)[0]
    exact, inside = slow_patch(image, fixation, resolution, side)
    noise = noise_patches(np.array([key], np.uint64), (resolution,), side)[0, 0]
    np.testing.assert_array_equal(patch[~inside], noise[~inside])
    assert inside.any()
    assert np.abs(patch[inside] - exact[inside]).mean() < 2.0


SHAPES = [(20, 20), (20, 60), (60, 20), (25, 67), (96, 96), (101, 303), (333, 111), (288, 483)]
BIG_SHAPES = [(4000, 2500), (1334, 4000), (4000, 1334), (2999, 2000)]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_patches_agree_with_the_slow_reference(shape, resolution):
    image = natural_image(0, *shape)
    for fixation in [(0, 0), (-1, -1), (1, 1), (-1, 0.93), (0.31, -0.77), (1, -0.2)]:
        assert_agrees_with_reference(image, fixation, resolution)


@pytest.mark.parametrize("side", [64, 97, 128, 224])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_patches_of_any_side_agree_with_the_slow_reference(side, resolution):
    for seed, shape in enumerate([(60, 20), (101, 303), (288, 483)]):
        image = natural_image(seed, *shape)
        for fixation in [(0, 0), (-1, -1), (0.31, -0.77)]:
            assert_agrees_with_reference(image, fixation, resolution, side=side)


@pytest.mark.parametrize("side", [64, 97, 128, 224])
def test_a_mirrored_look_of_any_side_is_a_look_at_the_mirrored_image(side):
    image = random_image(4, 50, 81)
    for fixation in [(0, 0), (-0.97, 0.4), (1, 1)]:
        turned = look(np.ascontiguousarray(image[:, ::-1]), fixation, side=side)
        np.testing.assert_array_equal(look(image, fixation, mirror=True, side=side), turned)


@pytest.mark.parametrize("side", [64, 128, 224])
def test_the_area_of_a_patch_does_not_depend_on_its_side(side):
    fixation = np.array([[0.2, -0.3]])
    small, usual = (patch_boxes((300, 480), fixation, patch_side=p)[0] for p in (side, PATCH_SIDE))
    sizes = [box[:, 2:] - box[:, :2] for box in (small, usual)]
    np.testing.assert_allclose(*sizes, rtol=0.01)
    half = (sizes[0] / side + sizes[1] / PATCH_SIDE) / 2
    assert (np.abs(small - usual).reshape(-1, 2, 2) <= half[:, None] * 1.01 + 0.5).all()


@pytest.mark.parametrize("side", [64, 128, 224])
def test_a_zoom_of_nothing_is_the_plain_patch_at_any_side(side):
    image, key = natural_image(3, 200, 260), np.array([3], np.uint64)
    plain = look(image, (0.4, -0.9), key=3, side=side)
    zoomed = cut_scaled_patches(
        [image],
        np.array([[0.4, -0.9]]),
        np.zeros(1),
        np.zeros(1, bool),
        key,
        patch_side=side,
    )[0]
    assert np.abs(plain.astype(int) - zoomed).mean() < 1.5


def test_pyramids_for_patches_of_several_sides_are_refused():
    image, nothing = random_image(0, 30, 40), np.zeros(2, bool)
    pyramids = [build_pyramid(image, patch_side=side) for side in (64, 96)]
    with pytest.raises(ValueError, match=r"several sides: \[64, 96\]"):
        cut_patches(pyramids, np.zeros((2, 2)), nothing, np.zeros(2, np.uint64))


@pytest.mark.parametrize("shape", BIG_SHAPES)
def test_patches_of_big_images_agree_with_the_slow_reference(shape):
    image = natural_image(1, *shape)
    for resolution, fixation in zip(RESOLUTIONS, [(-0.3, 0.4), (1, -1), (0.62, 0.97)], strict=True):
        assert_agrees_with_reference(image, fixation, resolution)


@few
@given(
    short=st.integers(20, 200),
    aspect=st.floats(1, 3),
    upright=st.booleans(),
    fixation=st.tuples(coordinates, coordinates),
    resolution=st.sampled_from(RESOLUTIONS),
)
def test_patches_agree_with_the_slow_reference_anywhere(
    short, aspect, upright, fixation, resolution
):
    shape = (short, round(short * aspect))
    image = natural_image(short, *(shape[::-1] if upright else shape))
    assert_agrees_with_reference(image, fixation, resolution)


def test_patches_of_real_images_agree_with_the_slow_reference(dogs_dir: Path):
    files = sorted((dogs_dir / "Images").rglob("*.jpg"))[:: max(1, 3000 // 6)]
    assert len(files) >= 3
    for number, file in enumerate(files):
        with Image.open(file) as opened:
            image = np.asarray(opened.convert("RGB"))
        for resolution in RESOLUTIONS:
            fixation = tuple(np.random.default_rng(number).uniform(-1, 1, 2))
            assert_agrees_with_reference(image, fixation, resolution)


# --- Geometry in closed form ---


def test_a_patch_inside_is_a_copy_of_the_level():
    image = random_image(0, 384, 512)  # the high level is the image itself
    patch = look(image, (0.25, -0.5), resolutions=("high",))[0]
    # x = 1.25 / 2 * 512 = 320, y = 0.5 / 2 * 384 = 96: from 320 - 48 and 96 - 48 on.
    np.testing.assert_array_equal(patch, image[48:144, 272:368])


@pytest.mark.parametrize(
    ("fixation", "patch_part", "level_part"),
    [
        ((-1, -1), np.s_[48:, 48:], np.s_[:48, :48]),
        ((1, -1), np.s_[48:, :48], np.s_[:48, -48:]),
        ((-1, 1), np.s_[:48, 48:], np.s_[-48:, :48]),
        ((1, 1), np.s_[:48, :48], np.s_[-48:, -48:]),
    ],
)
def test_at_a_corner_one_quarter_is_image_and_the_rest_noise(fixation, patch_part, level_part):
    image = random_image(1, 384, 500)
    expected = noise_patches(np.array([5], np.uint64), ("high",))[0, 0]
    expected[patch_part] = image[level_part]
    patch = look(image, fixation, key=5, resolutions=("high",))[0]
    np.testing.assert_array_equal(patch, expected)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (97, 50), (20, 4000)])
def test_the_sides_of_a_patch_are_fractions_of_the_short_side(size, resolution):
    share = {"low": 1, "medium": 1 / 2, "high": 1 / 4}[resolution]
    box = patch_boxes(size, np.array([[0.2, -0.3]]), (resolution,))[0, 0]
    long_pixels = round(max(size) * LEVEL_SHORT_SIDE[resolution] / min(size))
    # The long side of a level is rounded to whole pixels, hence the tolerance.
    assert box[2:] - box[:2] == pytest.approx([share * min(size)] * 2, rel=1 / long_pixels)


@few
@given(size=sizes, fixation=st.tuples(coordinates, coordinates))
def test_snapping_moves_a_fixation_by_at_most_half_a_patch_pixel(size, fixation):
    boxes = patch_boxes(size, np.array([fixation], np.float64))[0]
    wanted = (np.array(fixation) + 1) / 2 * np.array(size[::-1])
    for box in boxes:
        centre, patch_pixel = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / PATCH_SIDE
        assert (np.abs(centre - wanted) <= patch_pixel / 2 + 1e-9).all()


@few
@given(size=sizes, fixation=st.tuples(coordinates, coordinates))
def test_boxes_say_exactly_which_pixels_are_image(size, fixation):
    # Noise equals this grey at a pixel with probability 2 ** -24.
    image = np.full((*size, 3), 131, np.uint8)
    seen = (look(image, fixation, key=99) == 131).all(axis=-1)
    height, width = size
    for shown, (xmin, ymin, xmax, ymax) in zip(
        seen, patch_boxes(size, np.array([fixation], np.float64))[0], strict=True
    ):
        cells = (np.arange(PATCH_SIDE) + 0.5) / PATCH_SIDE
        x, y = xmin + cells * (xmax - xmin), ymin + cells * (ymax - ymin)
        inside = ((y > 0) & (y < height))[:, None] & ((x > 0) & (x < width))[None, :]
        np.testing.assert_array_equal(shown, inside)


def test_a_fixation_beyond_the_edge_is_clipped():
    image = random_image(2, 60, 80)
    np.testing.assert_array_equal(look(image, (1.7, -np.inf)), look(image, (1.0, -1.0)))


def test_a_nan_fixation_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        look(random_image(3, 60, 80), (0.0, np.nan))
    with pytest.raises(ValueError, match="NaN"):
        patch_boxes((60, 80), np.array([[np.nan, 0.0]]))


@few
@given(size=sizes, fixation=st.tuples(coordinates, coordinates), key=seeds)
def test_origins_and_patches_tell_the_same_story(size, fixation, key):
    image = random_image(key, *size)
    level = build_pyramid(image, ("medium",)).levels["medium"]
    origin = patch_origins(
        np.array([fixation], np.float64), np.array([level.shape[:2]]), np.array([False])
    )
    assert origin.dtype == np.int64
    top, left = origin[0]
    padded = np.pad(level, ((96, 96), (96, 96), (0, 0)))[top + 96 : top + 192, left + 96 :][:, :96]
    ones = np.pad(np.ones(level.shape[:2], bool), 96)[top + 96 : top + 192, left + 96 :][:, :96]
    patch = look(image, fixation, key=key, resolutions=("medium",))[0]
    np.testing.assert_array_equal(patch[ones], padded[ones])


# --- Mirroring ---


@few
@given(size=sizes, fixation=st.tuples(coordinates, coordinates), key=seeds)
def test_a_mirrored_look_is_a_look_at_the_mirrored_image(size, fixation, key):
    image = random_image(key, *size)
    np.testing.assert_array_equal(
        look(image, fixation, mirror=True, key=key), look(image[:, ::-1], fixation, key=key)
    )


def test_ties_snap_alike_in_the_mirrored_image():
    # Every half pixel of a level of odd width: x = (k + 1/2) / 97.
    image = random_image(4, 96, 97)
    for k in range(0, 97, 8):
        fixation = ((2 * k + 1) / 97 - 1, 0.0)
        np.testing.assert_array_equal(
            look(image, fixation, mirror=True, resolutions=("low",)),
            look(image[:, ::-1], fixation, resolutions=("low",)),
        )


def test_a_mirrored_real_image_is_looked_at_alike(dogs_dir: Path):
    file = sorted((dogs_dir / "Images").rglob("*.jpg"))[17]
    with Image.open(file) as opened:
        image = np.asarray(opened.convert("RGB"))
    for fixation in [(-0.9, 0.3), (0.21, -0.34), (0.0, 0.0)]:
        np.testing.assert_array_equal(
            look(image, fixation, mirror=True), look(image[:, ::-1], fixation)
        )


# --- Noise ---


def test_noise_is_uniform():
    noise = noise_patches(np.arange(8, dtype=np.uint64), ("high",))
    counts = np.bincount(noise.ravel(), minlength=256)
    expected = noise.size / 256
    # Chi-square with 255 degrees of freedom: mean 255, deviation 23.
    assert 140 < ((counts - expected) ** 2 / expected).sum() < 370


def test_noise_has_no_structure():
    for patch in noise_patches(np.array([11], np.uint64))[0].astype(np.float64):
        centred = (patch - 127.5) / 73.9  # the deviation of a uniform byte
        for one, other in [
            (centred[1:], centred[:-1]),
            (centred[:, 1:], centred[:, :-1]),
            (centred[..., 0], centred[..., 1]),
        ]:
            assert abs((one * other).mean()) < 0.04  # five deviations of 9,216 products are 0.05


def test_noise_depends_on_the_key_and_the_resolution_alone():
    keys = np.array([0, 1, 2, 2**63, 2**64 - 1], np.uint64)
    noise = noise_patches(keys)
    np.testing.assert_array_equal(noise, noise_patches(keys))
    flat = noise.reshape(15, -1)
    for i in range(15):
        for j in range(i):
            assert (flat[i] != flat[j]).mean() > 0.98  # 255/256 of the bytes of independent noise
    for s, name in enumerate(RESOLUTIONS):
        np.testing.assert_array_equal(noise_patches(keys, (name,))[:, 0], noise[:, s])


def test_noise_of_many_keys_is_distinct():
    starts = noise_patches(np.arange(2000, dtype=np.uint64), ("low",))[:, 0, 0, :4].reshape(
        2000, -1
    )
    assert len(np.unique(starts, axis=0)) > 1990


def test_the_same_key_shows_the_same_noise_around_any_image():
    one = look(np.zeros((50, 80, 3), np.uint8), (-1, -1), key=3)
    other = look(np.zeros((90, 70, 3), np.uint8), (-1, -1), key=3)
    np.testing.assert_array_equal(one, other)


def test_splitmix64_gives_the_published_sequence():
    # The first outputs of the reference generator seeded with 0 (Vigna's splitmix64.c).
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, 2 * golden % 2**64], np.uint64)
    assert [hex(value) for value in splitmix64(states).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_splitmix64_takes_any_shape(shape):
    hashed = splitmix64(np.full(shape, 2**64 - 1, np.uint64))
    assert hashed.shape == shape and hashed.dtype == np.uint64


# --- Batches ---


def batch_of(count: int):
    generator = np.random.default_rng(8)
    shapes = generator.integers(30, 200, (count, 2))
    pyramids = [build_pyramid(random_image(i, *shape)) for i, shape in enumerate(shapes.tolist())]
    return (
        pyramids,
        generator.uniform(-1, 1, (count, 2)).astype(np.float32),
        np.arange(count) % 2 == 1,
        generator.integers(0, 2**64, count, dtype=np.uint64),
    )


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("resolutions", [RESOLUTIONS, ("high",), ("medium", "low")])
def test_a_batch_is_its_images_one_by_one(count, resolutions):
    batch = batch_of(count)
    patches = cut_patches(*batch, resolutions)
    assert patches.shape == (count, len(resolutions), PATCH_SIDE, PATCH_SIDE, 3)
    assert patches.dtype == np.uint8
    for b in range(count):
        pyramids, fixation, mirror, key = (part[b : b + 1] for part in batch)
        np.testing.assert_array_equal(
            cut_patches(pyramids, fixation, mirror, key, resolutions)[0], patches[b]
        )


def test_the_order_of_resolutions_is_the_order_of_patches():
    batch = batch_of(3)
    np.testing.assert_array_equal(
        cut_patches(*batch, ("high", "low")), cut_patches(*batch)[:, [2, 0]]
    )


def test_out_is_written_and_returned():
    batch = batch_of(3)
    out = np.empty((3, 3, PATCH_SIDE, PATCH_SIDE, 3), np.uint8)
    assert cut_patches(*batch, out=out) is out
    np.testing.assert_array_equal(out, cut_patches(*batch))


def test_results_do_not_share_memory_with_the_pyramid_or_one_another():
    batch = batch_of(2)
    first, second = cut_patches(*batch), cut_patches(*batch)
    assert not np.shares_memory(first, second)
    assert not any(np.shares_memory(first, pyramid.levels["low"]) for pyramid in batch[0])


def test_wrong_calls_say_what_is_wrong():
    pyramids, fixation, mirror, key = batch_of(3)
    with pytest.raises(ValueError, match="2 pyramids, 3 fixations"):
        cut_patches(pyramids[:2], fixation, mirror, key)
    with pytest.raises(ValueError, match="C-contiguous"):
        out = np.empty((3, 3, PATCH_SIDE, PATCH_SIDE, 3), np.uint8)[:, ::-1]
        cut_patches(pyramids, fixation, mirror, key, out=out)
    with pytest.raises(ValueError, match="resolutions must be"):
        cut_patches(pyramids, fixation, mirror, key, ("hgih",))
    low = Pyramid({"low": pyramids[0].levels["low"]}, pyramids[0].image_shape)
    with pytest.raises(KeyError, match="lacks the level 'medium'"):
        cut_patches([low] * 3, fixation, mirror, key)


# --- A chosen scale ---


def look_scaled(image, fixation, scale, mirror=False, key=0, resolutions=RESOLUTIONS):
    return cut_scaled_patches(
        [image],
        np.array([fixation], np.float64),
        np.array([scale], np.float64),
        np.array([mirror]),
        np.array([key], np.uint64),
        resolutions,
    )[0]


@few
@given(size=sizes, fixation=st.tuples(coordinates, coordinates), mirror=st.booleans(), key=seeds)
@example(size=(97, 91), fixation=(0.0, 0.0), mirror=False, key=0)
def test_scale_zero_is_the_ordinary_retina(size, fixation, mirror, key):
    image = random_image(key, *size)
    plain = look(image, fixation, mirror, key).astype(np.int64)
    scaled = look_scaled(image, fixation, 0.0, mirror, key)
    # Pillow rounds after each axis and takes first whichever is cheaper, which for a patch need not
    # be the one that it was for the level (97x91: 97 rows make 102 of the level, but 96 of the
    # patch). Then two averages of rounding errors (deviation <= sqrt(1/12) each) lie between the
    # two, so |difference| <= sqrt(2/12) = 0.41 on average. Even a tenth of a pixel's shift of this
    # image would be several grey levels.
    difference = plain - scaled
    assert np.abs(difference).max() <= 2
    assert np.abs(difference).mean() < 0.41
    assert abs(difference.mean()) < 0.1  # an image of few pixels has few errors to average


def test_scale_multiplies_the_sides():
    fixation = np.zeros((3, 2))
    boxes = patch_boxes((120, 200), fixation, scale=np.array([-1.0, 0.0, 1.0]))
    sides = boxes[..., 2] - boxes[..., 0]
    np.testing.assert_allclose(sides, [[60, 30, 15], [120, 60, 30], [240, 120, 60]])


@few
@given(
    fixation=st.tuples(coordinates, coordinates),
    scale=st.floats(-1, 1),
    resolution=st.sampled_from(RESOLUTIONS),
)
@example(fixation=(0.0, 0.0), scale=5.960464477539063e-08, resolution="low")
def test_every_scaled_pixel_shows_what_its_box_says(fixation, scale, resolution):
    # Red rises with x and green with y, so that a pixel's value tells where it looks; blue is set.
    height, width = 150, 210
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    image = np.rint(np.stack([x, y, np.full_like(x, 131)], axis=-1)).astype(np.uint8)
    patch = look_scaled(image, fixation, scale, key=1, resolutions=(resolution,))[0]
    box = patch_boxes(
        (height, width), np.array([fixation], np.float64), (resolution,), np.array([scale])
    )[0, 0]
    pixel = (box[2:] - box[:2]) / PATCH_SIDE
    edges = box[:2] + np.arange(PATCH_SIDE + 1)[:, None] * pixel
    # How far a pixel reaches beyond the image, in pixels of the patch; near 1e-6 either is right.
    beyond = np.maximum(-edges[:-1], edges[1:] - np.array([width, height])) / pixel
    beyond = np.maximum(beyond[:, 1][:, None], beyond[:, 0][None, :])
    shown, hidden = beyond <= 1e-7, beyond > 1e-4
    assert shown.any()
    # The image's values are near the border averages of what lies inside only.
    centres = np.clip((edges[:-1] + edges[1:]) / 2, pixel / 2, [width, height] - pixel / 2)
    reach = max(1.5, pixel.max())
    expected = np.broadcast_arrays(centres[None, :, 0], centres[:, 1][:, None])
    for channel in range(2):
        error = np.abs(patch[..., channel] - expected[channel])[shown]
        assert error.max() < reach
        assert error.mean() < 1.0
    assert (patch[shown][:, 2] == 131).all()
    noise = noise_patches(np.array([1], np.uint64), (resolution,))[0, 0]
    np.testing.assert_array_equal(patch[hidden], noise[hidden])


@few
@given(size=sizes, fixation=st.tuples(coordinates, coordinates), scale=st.floats(-1, 1), key=seeds)
def test_a_mirrored_scaled_look_is_a_look_at_the_mirrored_image(size, fixation, scale, key):
    image = random_image(key, *size)
    np.testing.assert_array_equal(
        look_scaled(image, fixation, scale, mirror=True, key=key),
        look_scaled(image[:, ::-1], fixation, scale, key=key),
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (20, 4000), (1500, 1500)])
@pytest.mark.parametrize("scale", [-1.0, -0.37, 1.0])
def test_any_size_can_be_scaled(size, scale):
    image = np.full((*size, 3), 131, np.uint8)
    patches = look_scaled(image, (0.1, 0.1), scale)
    assert patches.shape == (3, PATCH_SIDE, PATCH_SIDE, 3)
    assert (patches[2] == 131).mean() > 0.2


def test_a_scale_is_clipped_and_never_nan():
    image = random_image(5, 40, 60)
    np.testing.assert_array_equal(look_scaled(image, (0, 0), 5.0), look_scaled(image, (0, 0), 1.0))
    with pytest.raises(ValueError, match="scale is NaN"):
        look_scaled(image, (0, 0), np.nan)
    with pytest.raises(ValueError, match="1 images, 1 fixations, 2 scales"):
        cut_scaled_patches(
            [image],
            np.zeros((1, 2)),
            np.zeros(2),
            np.zeros(1, bool),
            np.zeros(1, np.uint64),
        )
