from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse_env.datasets.base import ImageDataset
from glimpse_env.datasets.errors import (
    AnnotationError,
    DatasetFormatError,
    DatasetNotFoundError,
    MissingImagesError,
)
from glimpse_env.datasets.image_folder import ImageFolder


def draw(path: Path, size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)


def names(data: ImageFolder) -> list[str]:
    return [data.name(index) for index in range(len(data))]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    for name in ("cat", "ant", "bee"):
        for index in range(10):
            draw(tmp_path / name / f"{index}.png")
    return tmp_path


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """The layout of CUB-200-2011: two classes of ten, every other image in the test set."""
    rows = [(i + 1, i // 10, f"{i // 10 + 1:03d}.Bird_{'ba'[i // 10]}/{i}.jpg") for i in range(20)]
    files = {
        "images.txt": [f"{i} {name}" for i, _, name in rows],
        "image_class_labels.txt": [f"{i} {label + 1}" for i, label, _ in rows],
        "train_test_split.txt": [f"{i} {i % 2}" for i, _, _ in rows],
        "classes.txt": ["1 001.Bird_b", "2 002.Bird_a"],
        "bounding_boxes.txt": [f"{i} 2.0 1.0 7.0 6.0" for i, _, _ in rows],
    }
    for file, lines in files.items():
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    for _, _, name in rows:
        draw(tmp_path / "images" / name)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_folder_a_class(plain: Path) -> None:
    data = ImageFolder(plain, "trainval")
    assert isinstance(data, ImageDataset)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert data.name(0) == "ant/0.png" and data.image(0).shape == (8, 12, 3)
    assert data.boxes(0).shape == (0, 4)
    assert data.training and data.num_missing == 0


def test_cut_is_stratified_and_seeded(plain: Path) -> None:
    train, val = ImageFolder(plain), ImageFolder(plain, "val")
    assert train.training and not val.training
    assert np.bincount(train.labels).tolist() == [8, 8, 8]
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    assert sorted(names(train) + names(val)) == names(ImageFolder(plain, "trainval"))
    assert names(ImageFolder(plain, "val", seed=1)) != names(val)
    assert len(ImageFolder(plain, "val", holdout=0.5)) == 15
    assert ImageFolder(plain).fingerprint == train.fingerprint != val.fingerprint


def test_no_test_split_in_plain_folders(plain: Path) -> None:
    with pytest.raises(ValueError, match="no test split"):
        ImageFolder(plain, "test")
    with pytest.raises(ValueError, match="trainval"):
        ImageFolder(plain, "all")


def test_what_is_no_image_is_ignored(plain: Path) -> None:
    before = names(ImageFolder(plain, "trainval"))
    draw(plain / ".cache" / "x.png")
    draw(plain / "ant" / "._0.png")
    (plain / "ant" / "notes.txt").write_text("x")
    (plain / "readme.txt").write_text("x")
    assert names(ImageFolder(plain, "trainval")) == before
    draw(plain / "ant" / "more" / "9.JPG")
    assert names(ImageFolder(plain, "trainval")) == [*before[:10], "ant/more/9.JPG", *before[10:]]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="absent"):
        ImageFolder(tmp_path / "absent")
    with pytest.raises(DatasetNotFoundError, match="no subfolders"):
        ImageFolder(tmp_path)


def test_class_without_images(plain: Path) -> None:
    (plain / "dog").mkdir()
    with pytest.raises(DatasetFormatError, match="dog has no images"):
        ImageFolder(plain)


def test_no_image_left_for_validation(tmp_path: Path) -> None:
    draw(tmp_path / "ant" / "0.png")
    with pytest.raises(DatasetFormatError, match="no image left for split 'val'"):
        ImageFolder(tmp_path, "val")


def test_split_folders(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for name in ("bee", "ant"):
            for index in range(count):
                draw(tmp_path / split / name / f"{index}.png")
    sizes = {split: len(ImageFolder(tmp_path, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 8, "val": 4, "test": 6}
    both = ImageFolder(tmp_path, "trainval")
    assert names(both) == names(ImageFolder(tmp_path)) + names(ImageFolder(tmp_path, "val"))
    assert both.class_names == ("ant", "bee")
    assert names(ImageFolder(tmp_path, "test"))[0] == "test/ant/0.png"


def test_split_folders_without_validation_cut_the_training_folder(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 3)):
        for name in ("bee", "ant"):
            for index in range(count):
                draw(tmp_path / split / name / f"{index}.png")
    train, val = ImageFolder(tmp_path), ImageFolder(tmp_path, "val")
    assert (len(train), len(val), len(ImageFolder(tmp_path, "test"))) == (16, 4, 6)
    assert not set(names(train)) & set(names(val))
    assert all(name.startswith("train/") for name in names(val))


def test_split_folders_must_agree(tmp_path: Path) -> None:
    for name in ("train/ant/0.png", "train/bee/0.png", "val/ant/0.png", "val/wasp/0.png"):
        draw(tmp_path / name)
    with pytest.raises(DatasetFormatError, match="wasp"):
        ImageFolder(tmp_path, "val")
    with pytest.raises(ValueError, match="no test split"):
        ImageFolder(tmp_path, "test")


def test_a_class_may_lack_in_the_test_folder(tmp_path: Path) -> None:
    for name in ("train/ant/0.png", "train/bee/0.png", "test/bee/0.png"):
        draw(tmp_path / name)
    test = ImageFolder(tmp_path, "test")
    assert test.class_names == ("ant", "bee") and test.labels.tolist() == [1]


def test_birds_keep_their_official_split_and_order(birds: Path) -> None:
    test, both = ImageFolder(birds, "test"), ImageFolder(birds, "trainval")
    assert test.class_names == ("Bird_b", "Bird_a")
    assert names(test) == [
        f"{i // 10 + 1:03d}.Bird_{'ba'[i // 10]}/{i}.jpg" for i in range(1, 20, 2)
    ]
    assert test.labels.tolist() == [0] * 5 + [1] * 5
    assert not test.training and test.image(0).shape == (8, 12, 3)
    train, val = ImageFolder(birds), ImageFolder(birds, "val")
    assert sorted(names(train) + names(val)) == sorted(names(both))
    assert (len(train), len(val), len(both)) == (8, 2, 10)


def test_birds_boxes(birds: Path) -> None:
    data = ImageFolder(birds, "test")
    assert data.boxes(0).tolist() == [[2, 1, 9, 7]]
    edit(birds / "bounding_boxes.txt", "2 2.0 1.0 7.0 6.0", "2 6.0 1.0 7.0 6.0")
    assert ImageFolder(birds, "test").boxes(0).tolist() == [[6, 1, 12, 7]]
    draw(data.path(0), (6, 4))
    with pytest.raises(AnnotationError, match="published size"):
        data.boxes(0)
    edit(birds / "bounding_boxes.txt", "2 6.0 1.0 7.0 6.0\n", "")
    with pytest.raises(AnnotationError, match="no box"):
        ImageFolder(birds, "test").boxes(0)
    (birds / "bounding_boxes.txt").unlink()
    assert ImageFolder(birds, "test").boxes(0).shape == (0, 4)


def test_birds_absent_images(birds: Path) -> None:
    ImageFolder(birds, "test").path(0).unlink()
    with pytest.raises(MissingImagesError, match="1 of the 10"):
        ImageFolder(birds, "test")
    assert ImageFolder(birds, "test", allow_missing=True).num_missing == 1
    assert ImageFolder(birds).num_missing == 0


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("images.txt", "1 001.Bird_b/0.jpg", "1 ../../secret.jpg"),
        ("images.txt", "1 001.Bird_b/0.jpg", "1 /etc/secret.jpg"),
        ("images.txt", "1 001.Bird_b/0.jpg", "1"),
        ("images.txt", "2 001", "1 001"),
        ("image_class_labels.txt", "1 1", "1 3"),
        ("image_class_labels.txt", "1 1\n", ""),
        ("train_test_split.txt", "1 1", "1 2"),
        ("bounding_boxes.txt", "1 2.0 1.0 7.0 6.0", "1 2.0 1.0 7.0"),
        ("bounding_boxes.txt", "1 2.0", "1 x"),
        ("bounding_boxes.txt", "1 2.0", "99 2.0"),
    ],
)
def test_birds_lists_that_contradict_themselves(birds: Path, file: str, old: str, new: str) -> None:
    edit(birds / file, old, new)
    with pytest.raises(DatasetFormatError):
        ImageFolder(birds)
