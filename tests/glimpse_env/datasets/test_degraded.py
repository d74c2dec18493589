"""Images made smaller: their sizes, boxes and identity follow; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data import DataConfig, build_dataset
from glimpse_env.datasets.base import ImageDataset, size_of
from glimpse_env.datasets.degraded import Degraded
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.datasets.synthetic import SyntheticDogs

DOGS = SyntheticDogs("val", num_images=6)


def test_it_is_a_dataset_of_the_same_images() -> None:
    small = Degraded(DOGS, 60)
    assert isinstance(small, ImageDataset)
    assert len(small) == 6 and small.split == "val" and small.class_names == DOGS.class_names
    np.testing.assert_array_equal(small.labels, DOGS.labels)
    assert [small.name(i) for i in range(6)] == [DOGS.name(i) for i in range(6)]


def test_the_short_side_shrinks_and_the_shape_stays() -> None:
    for index in range(len(DOGS)):
        before, after = DOGS.image(index), Degraded(DOGS, 60).image(index)
        assert min(after.shape[:2]) == 60 and after.dtype == np.uint8
        ratio = before.shape[0] / before.shape[1]
        assert after.shape[0] / after.shape[1] == pytest.approx(ratio, rel=0.02)
        # Averages survive; an image cut or shifted would not have the same.
        np.testing.assert_allclose(after.mean((0, 1)), before.mean((0, 1)), atol=2.0)


def test_nothing_is_enlarged() -> None:
    np.testing.assert_array_equal(Degraded(DOGS, 5000).image(1), DOGS.image(1))
    np.testing.assert_array_equal(Degraded(DOGS, 5000).boxes(1), DOGS.boxes(1))


def test_boxes_keep_their_place_in_the_image() -> None:
    small = Degraded(DOGS, 48)
    for index in range(len(DOGS)):
        (h, w), (sh, sw) = DOGS.image(index).shape[:2], small.image(index).shape[:2]
        np.testing.assert_allclose(
            small.boxes(index) / [sw, sh, sw, sh], DOGS.boxes(index) / [w, h, w, h], atol=1e-5
        )


def test_sizes_without_drawing_or_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        (tmp_path / "breed").mkdir(exist_ok=True)
        Image.fromarray(DOGS.image(index)).save(tmp_path / "breed" / f"{index}.png")
    files = ImageFolder(tmp_path, "trainval")
    sets = [each for base in (DOGS, files) for each in (base, Degraded(base, 48))]
    shapes = [[each.image(i).shape[1::-1] for i in range(3)] for each in sets]
    boxes = [each.boxes(0) for each in sets]
    for kind in (SyntheticDogs, ImageFolder):
        monkeypatch.setattr(kind, "image", None)
    for each, expected, found in zip(sets, shapes, boxes, strict=True):
        assert [size_of(each, i) for i in range(3)] == expected
        np.testing.assert_array_equal(each.boxes(0), found)
    monkeypatch.undo()
    # A dataset of one's own need not have sizes.
    monkeypatch.delattr(SyntheticDogs, "size")
    assert [size_of(Degraded(DOGS, 48), i) for i in range(3)] == shapes[1]


def test_another_short_side_is_another_dataset() -> None:
    prints = {Degraded(DOGS, side).fingerprint for side in (48, 60)} | {DOGS.fingerprint}
    assert len(prints) == 3
    with pytest.raises(ValueError, match="at least 8 pixels, not 4"):
        Degraded(DOGS, 4)


def test_every_command_can_ask_for_it() -> None:
    data = DataConfig("synthetic", num_images=24, short_side=50)
    assert min(build_dataset(data, "val").image(0).shape[:2]) == 50
