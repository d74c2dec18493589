"""Synthetic dogs: the same anywhere, balanced, boxed, and of no breed to a coarse eye."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from glimpse_env.datasets.synthetic import SyntheticDogs, SyntheticStyle
from glimpse_env.datasets.synthetic_draw import PATTERNS, paint_scene, pattern_wave
from tests.children import run_command

SPLITS = ("train", "val", "trainval", "test", "pretrain")


def test_images_are_the_same_in_another_process():
    code = (
        "import hashlib; from glimpse_env.datasets.synthetic import SyntheticDogs;"
        "d = SyntheticDogs('val', num_images=5, seed=3);"
        "print(hashlib.sha256(d.image(4).tobytes()).hexdigest(), d.fingerprint)"
    )
    there = run_command([sys.executable, "-c", code], check=True).stdout.split()
    here = SyntheticDogs("val", num_images=5, seed=3)
    assert there == [hashlib.sha256(here.image(4).tobytes()).hexdigest(), here.fingerprint]


def test_an_image_does_not_depend_on_the_others():
    few, many = SyntheticDogs("train", num_images=8), SyntheticDogs("train", num_images=100)
    many.image(50)
    np.testing.assert_array_equal(few.image(7), many.image(7))
    np.testing.assert_array_equal(few.labels, many.labels[:8])
    assert few.name(7) == many.name(7)


def test_splits_and_seeds_are_different_images():
    images = [
        SyntheticDogs(split, num_images=10).image(0) for split in SPLITS if split != "trainval"
    ]
    images.append(SyntheticDogs("train", num_images=10, seed=1).image(0))
    assert len({image.tobytes() for image in images}) == len(images)
    names = [
        SyntheticDogs(split).name(i) for split in SPLITS if split != "trainval" for i in range(9)
    ]
    assert len(set(names)) == len(names)


def test_trainval_is_train_then_val():
    whole = SyntheticDogs("trainval", num_images=50)
    train, val = SyntheticDogs("train", num_images=40), SyntheticDogs("val", num_images=10)
    np.testing.assert_array_equal(whole.labels, np.concatenate([train.labels, val.labels]))
    for index, (part, number) in {39: (train, 39), 40: (val, 0), 49: (val, 9)}.items():
        np.testing.assert_array_equal(whole.image(index), part.image(number))
        assert whole.name(index) == part.name(number)


@pytest.mark.parametrize("split", SPLITS)
def test_what_a_data_set_says_of_itself(split):
    dogs = SyntheticDogs(split, num_images=30)
    assert len(dogs) == len(dogs.labels) == 30
    assert dogs.labels.dtype == np.int64
    assert dogs.labels.max() < len(dogs.class_names) == len(set(dogs.class_names))
    assert dogs.training == (split in ("train", "trainval", "pretrain"))
    assert dogs.split == split and dogs.num_missing == 0
    with pytest.raises(IndexError):
        dogs.image(30)
    with pytest.raises(IndexError):
        dogs.boxes(-1)


def test_labels_are_balanced():
    assert (np.bincount(SyntheticDogs("train").labels) == 200).all()
    assert (np.bincount(SyntheticDogs("val").labels) == 50).all()
    pretrain = SyntheticDogs("pretrain", num_images=160)
    assert np.bincount(pretrain.labels).tolist() == [10] * 12 + [40]
    assert pretrain.class_names[12] == "no_dog"
    # In random order: neighbours do not follow one another.
    assert len({tuple(block) for block in SyntheticDogs("train").labels.reshape(-1, 12)}) == 200


def test_fingerprints_tell_data_sets_apart():
    variants = [
        SyntheticDogs("val", num_images=20),
        SyntheticDogs("test", num_images=20),
        SyntheticDogs("val", num_images=21),
        SyntheticDogs("val", num_images=20, seed=1),
        SyntheticDogs("val", num_images=20, creatures=2),
        SyntheticDogs("val", num_images=20, style=SyntheticStyle(max_aspect=1.1)),
    ]
    assert len({dogs.fingerprint for dogs in variants}) == len(variants)
    assert variants[0].fingerprint == SyntheticDogs("val", num_images=20).fingerprint


def test_sizes_and_aspects_vary_within_bounds():
    shapes = np.array([(s.height, s.width) for s in map(SyntheticDogs("train").scene, range(200))])
    short, long = shapes.min(1), shapes.max(1)
    assert short.min() >= 288 and short.max() <= 384 and short.std() > 20
    assert (long / short).max() <= 1.26 and (long / short).std() > 0.03
    assert 60 < (shapes[:, 0] > shapes[:, 1]).sum() < 140
    assert SyntheticDogs("train").image(0).shape == (*shapes[0], 3)


@pytest.mark.parametrize("creatures", [1, 2])
def test_boxes_hold_heads_and_bodies(creatures):
    dogs = SyntheticDogs("train", num_images=60, creatures=creatures)
    for index in range(60):
        scene = dogs.scene(index)
        bodies, heads = dogs.boxes(index), dogs.head_boxes(index)
        assert bodies.shape == heads.shape == (creatures, 4)
        assert (bodies[:, :2] <= heads[:, :2]).all() and (bodies[:, 2:] >= heads[:, 2:]).all()
        assert (heads >= 0).all()
        assert (bodies[:, [0, 2]] <= scene.width).all() and (
            bodies[:, [1, 3]] <= scene.height
        ).all()
        sides = (heads[:, 2:] - heads[:, :2]) / scene.short_side
        assert (sides > 0.15).all() and (sides < 0.29).all()
        np.testing.assert_array_equal(dogs.head_box(index), heads[0])


def test_the_breed_is_painted_in_the_head_box_and_nowhere_else():
    dogs = SyntheticDogs("train", num_images=12)
    for index in range(12):
        scene = dogs.scene(index)
        (dog,) = scene.creatures
        other = replace(
            dog, fur=replace(dog.fur, kind="rings" if dog.fur.kind != "rings" else "bars")
        )
        differs = (paint_scene(replace(scene, creatures=(other,))) != dogs.image(index)).any(2)
        left, top, right, bottom = dogs.head_box(index)
        inside = np.zeros_like(differs)
        inside[int(top) : int(np.ceil(bottom)) + 1, int(left) : int(np.ceil(right)) + 1] = True
        assert differs[inside].mean() > 0.2
        assert not differs[~inside].any()


def test_patterns_are_their_own_mirror_image():
    # A flipped image must show the same breed: flips are an augmentation (paper section 3).
    line = np.linspace(-1, 1, 64, dtype=np.float32)
    u, v = line[None, :], line[:, None]
    for kind in PATTERNS:
        p = np.pi / 2  # even phases, to compare without a shift
        wave = np.broadcast_to(pattern_wave(kind, u, v, 12.0, p, p), (64, 64))
        np.testing.assert_allclose(wave, wave[:, ::-1], atol=1e-5)
        assert np.abs(wave).max() <= 1.3 + 1e-6


def test_an_image_without_a_dog_has_no_box():
    dogs = SyntheticDogs("pretrain", num_images=16)
    empty = int(np.flatnonzero(dogs.labels == 12)[0])
    assert dogs.boxes(empty).shape == dogs.head_boxes(empty).shape == (0, 4)
    assert dogs.image(empty).std() > 10
    with pytest.raises(ValueError, match="no dog"):
        dogs.head_box(empty)


def test_two_creatures_are_apart():
    dogs = SyntheticDogs("train", num_images=50, creatures=2)
    for index in range(50):
        one, two = dogs.scene(index).creatures
        assert np.hypot(*np.subtract(one.head, two.head)) > 1.3 * (one.radius + two.radius)
        assert one.fur.kind == two.fur.kind and one.muzzle.kind == two.muzzle.kind


def test_heads_are_spread_and_seldom_in_the_centre():
    dogs = SyntheticDogs("train")
    centres = []
    for index in range(600):
        scene = dogs.scene(index)
        x, y = scene.creatures[0].head
        centres.append(
            (x - scene.width / scene.short_side / 2, y - scene.height / scene.short_side / 2)
        )
    offset = np.abs(np.array(centres))
    # A high patch at the centre reaches 0.125 short sides.
    assert (offset.max(1) < 0.125).mean() < 0.05
    assert offset.max() < 0.5 - 0.17 / 2  # whole head within a centred context
    assert (np.array(centres).std(0) > 0.2).all()


def head_views(dogs: SyntheticDogs) -> dict[str, np.ndarray]:
    """Every head, centred: as a high patch shows it, and as a context would at its best."""
    views: dict[str, list[np.ndarray]] = {"high": [], "context": []}
    for index in range(len(dogs)):
        image = Image.fromarray(dogs.image(index)).convert("L")
        left, top, right, bottom = dogs.head_box(index)
        x, y, half = (left + right) / 2, (top + bottom) / 2, min(image.size) / 8
        head = image.crop((round(x - half), round(y - half), round(x + half), round(y + half)))
        for name, side in (("high", 96), ("context", 24)):  # a quarter of a 96-pixel context
            small = head.resize((side, side), Image.Resampling.BILINEAR)
            views[name].append(np.asarray(small, np.float32))
    return {name: np.stack(list_) for name, list_ in views.items()}


def spectra(views: np.ndarray, cells: int = 12) -> np.ndarray:
    """Share of the power in coarse cells of frequency, for the forehead and for the muzzle."""
    side, features = views.shape[1], []
    for top, bottom, left, right in ((0.1, 0.46, 0.25, 0.75), (0.52, 0.86, 0.27, 0.73)):
        part = views[:, round(top * side) : round(bottom * side)]
        part = part[:, :, round(left * side) : round(right * side)]
        part = part - part.mean((1, 2), keepdims=True)
        part = part * np.hanning(part.shape[1])[:, None] * np.hanning(part.shape[2])
        size = side // 3 * 2
        power = np.fft.fftshift(np.abs(np.fft.rfft2(part, s=(size, size))) ** 2, axes=1)
        high, wide = power.shape[1] // cells, power.shape[2] // (cells // 2)
        power = power[:, : high * cells, : wide * (cells // 2)]
        pooled = power.reshape(len(power), cells, high, cells // 2, wide).mean((2, 4))
        features.append(np.sqrt(pooled / pooled.sum((1, 2), keepdims=True)).reshape(len(views), -1))
    return np.concatenate(features, axis=1)


def nearest_centroid(train: np.ndarray, y: np.ndarray, test: np.ndarray, z: np.ndarray) -> float:
    """Accuracy of the simplest classifier there is."""
    mean, std = train.mean(0), train.std(0) + 1e-3
    train, test = (train - mean) / std, (test - mean) / std
    centroids = np.stack([train[y == label].mean(0) for label in np.unique(y)])
    guess = ((test[:, None] - centroids) ** 2).sum(2).argmin(1)
    return float((guess == z).mean())


def test_the_breed_is_legible_in_a_high_patch_and_not_in_a_context():
    # The context is helped: told where the head is, exactly. Chance is 1/12 = 0.083.
    train, val = SyntheticDogs("train", num_images=240), SyntheticDogs("val", num_images=120)
    seen, new = head_views(train), head_views(val)
    scores = {
        name: nearest_centroid(spectra(seen[name]), train.labels, spectra(new[name]), val.labels)
        for name in seen
    }
    assert scores["high"] > 0.75
    assert scores["context"] < 0.25
    by_pixels = [views["context"].reshape(len(views["context"]), -1) for views in (seen, new)]
    assert nearest_centroid(by_pixels[0], train.labels, by_pixels[1], val.labels) < 0.2


@pytest.mark.parametrize(
    "options",
    [
        {"split": "dev"},
        {"num_images": 0},
        {"creatures": 3},
        {"seed": -1},
        {"style": SyntheticStyle(head=(0.3, 0.2))},
        {"creatures": 2, "style": SyntheticStyle(head=(0.3, 0.5))},
    ],
)
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ValueError):
        SyntheticDogs(**options)
