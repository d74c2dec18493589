"""An image folder does what was meant, or says what it passed over: nothing goes in silence."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse_env.datasets.errors import DatasetFormatError, DatasetNotFoundError, DatasetWarning
from glimpse_env.datasets.image_folder import ImageFolder
from tests.unprivileged import run_unprivileged

CUB = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_count = iter(range(10**9))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "data"


def draw(top: Path, *names: str, form: str | None = None) -> None:
    """Images that differ from one another."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        number = next(_count)
        color = (number % 251, number // 251 % 251, number // 63001)
        Image.new("RGB", (12, 10), color).save(top / name, format=form)


def fill(top: Path, *folders: str, count: int = 5) -> None:
    for name in folders:
        draw(top, *(f"{name}/{name.replace('/', '_')}{i}.png" for i in range(count)))


def names(data: ImageFolder) -> list[str]:
    return [data.name(index) for index in range(len(data))]


def opened(root: Path, split: str = "trainval") -> ImageFolder:
    """Open without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ImageFolder(root, split)


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        ("jfif", "JPEG"),
        ("jpe", "JPEG"),
        ("JPG", "JPEG"),
        ("jif", "JPEG"),
        ("dib", "BMP"),
        ("pbm", "PPM"),
        ("pnm", "PPM"),
        ("apng", "PNG"),
        ("j2k", "JPEG2000"),
        ("mpo", "JPEG"),
    ],
)
def test_every_suffix_of_a_format_is_taken_in(top: Path, suffix: str, form: str) -> None:
    draw(top, "a/0.jpg", "b/0.jpg")
    draw(top, f"a/1.{suffix}", form=form)
    data = opened(top)
    assert len(data) == 3 and data.image(1).shape == (10, 12, 3)


@pytest.mark.parametrize("name", ["0001", "photo.jpg.1", "photo.jpg~", "photo.jpeg?w=640", "x.tmp"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_an_image_under_another_name_is_known_by_its_content(
    top: Path, name: str, form: str
) -> None:
    draw(top, "a/0.jpg", "b/0.jpg")
    draw(top, f"a/{name}", form=form)
    assert f"a/{name}" in names(opened(top))


def test_images_of_formats_that_are_not_read_are_counted_and_named(top: Path) -> None:
    fill(top, "a", "b")
    for name in ("a/x.heic", "a/y.HEIC", "b/z.avif", "b/raw.dng", "b/notes.psd"):
        (top / name).write_bytes(b"II*\0 as a raw file" if name.endswith("dng") else b"....ftyp")
    with pytest.warns(DatasetWarning, match=r"5 of no format.*2 \.heic.*a/x\.heic, a/y\.HEIC"):
        assert len(ImageFolder(top, "trainval")) == 10


def test_texts_beside_images_are_nothing_to_tell(top: Path) -> None:
    fill(top, "a", "b")
    for name in ("a/0.txt", "a/0.json", "b/labels.csv", "b/.DS_Store", "a/._0.png", "readme.md"):
        (top / name).write_bytes(b"\xff\xd8\xff")
    (top / ".cache").mkdir()
    assert len(opened(top)) == 10


def test_hidden_images_and_images_of_no_class_are_told_of(top: Path) -> None:
    fill(top, "a", "b")
    draw(top, "a/.kept.png", "loose.jpg", "loose2.jpg")
    with pytest.warns(DatasetWarning, match=r"1 images that are hidden.*a/\.kept\.png.*2 images "):
        assert len(ImageFolder(top, "trainval")) == 10


# -- links -------------------------------------------------------------------------------------


def test_linked_folders_are_followed(top: Path) -> None:
    fill(top, "pool/a", "pool/b", count=4)
    fill(top, "own/a", "own/b", count=2)
    for name in "ab":
        os.symlink(top / "pool" / name, top / "own" / name / "more")
    data = opened(top / "own")
    assert len(data) == 12 and sum("more/" in name for name in names(data)) == 8


@pytest.mark.parametrize("target", [".", "..", "../b", "../.."])
def test_links_that_lead_back_are_told_of(top: Path, target: str) -> None:
    fill(top, "a", "b")
    os.symlink(target, top / "a" / "again", target_is_directory=True)
    with pytest.warns(DatasetWarning, match="1 folders that links lead to twice: a/again"):
        data = ImageFolder(top, "trainval")
    assert np.bincount(data.labels).tolist() == [5, 5]


def test_a_class_that_is_a_broken_link_is_told_of(top: Path) -> None:
    fill(top, "a", "b")
    os.symlink(top / "nowhere", top / "c")
    with pytest.warns(DatasetWarning, match="1 links that lead nowhere: c"):
        assert ImageFolder(top, "trainval").class_names == ("a", "b")


# -- what may not be read ----------------------------------------------------------------------


def test_folders_that_may_not_be_read_stop_with_their_name() -> None:
    shown = run_unprivileged(
        """
        draw(*(f"{d}/{i}.png" for d in ("one/a/2023", "one/a/2024", "one/b") for i in range(3)))
        draw("two/a/0.png", "two/b/0.png", "three/train/a/0.png", "three/train/b/0.png")
        draw("three/val/a/0.png", "four/a/0.png", "four/b/0.png")
        closed = ("one/a/2024", "two/b", "three/val", "four")
        for name in closed:
            os.chmod(top / name, 0o700 if os.getuid() == 0 else 0)
        drop()
        for name in ("one", "two", "three", "four"):
            tell(lambda: ImageFolder(top / name, "val"))
        """
    )
    for line, name in zip(
        shown.splitlines(), ("one/a/2024", "two/b", "three/val", "four"), strict=True
    ):
        assert line.startswith("PermissionError") and re.search(rf"{name}\b", line), line


# -- splits under other names ------------------------------------------------------------------


@pytest.mark.parametrize("train", ["train", "Train", "training", "TRAIN"])
@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "Validation", "dev"])
def test_splits_are_known_by_their_usual_names(top: Path, train: str, val: str) -> None:
    fill(top, f"{train}/a", f"{train}/b", f"{val}/a", f"{val}/b", "Testing/a")
    sizes = [len(opened(top, split)) for split in ("train", "val", "trainval")]
    assert sizes == [10, 10, 20]
    with pytest.warns(DatasetWarning, match="1 classes without an image: Testing/b"):
        assert names(ImageFolder(top, "test"))[0].startswith("Testing/a/")


def test_two_folders_of_one_role_are_refused(top: Path) -> None:
    fill(top, "train/a", "val/a", "valid/a")
    with pytest.raises(DatasetFormatError, match="both val/ and valid/"):
        ImageFolder(top)


def test_a_folder_of_images_beside_the_splits_is_told_of(top: Path) -> None:
    fill(top, "train/a", "train/b", "unlabelled", "docs")
    for path in (top / "docs").iterdir():
        path.unlink()
    with pytest.warns(DatasetWarning, match="1 folders of images that are no split: unlabelled"):
        ImageFolder(top, "train")


def test_a_validation_folder_without_classes_is_told_of(top: Path) -> None:
    fill(top, "train/a", "train/b", "val")
    with pytest.warns(DatasetWarning, match="no split: val"):
        assert len(ImageFolder(top, "val")) == 2


@pytest.mark.parametrize("folders", [("train", "test"), ("train",), ("Train", "val/a", "test")])
def test_splits_without_classes_are_refused(top: Path, folders: tuple[str, ...]) -> None:
    fill(top, *folders)
    with pytest.raises(DatasetFormatError, match="without a subfolder for each class"):
        ImageFolder(top)


def test_validation_alone_is_refused_with_the_way_out(top: Path) -> None:
    fill(top, "val/a", "val/b", "test/a")
    with pytest.raises(DatasetFormatError, match="no train/.*split='trainval'"):
        ImageFolder(top, "val")
    assert len(opened(top / "test")) == 5


def test_a_class_may_be_called_train(top: Path) -> None:
    fill(top, "train", "bus", "car")
    assert opened(top).class_names == ("bus", "car", "train")


# -- the wrong root ----------------------------------------------------------------------------


def test_a_root_one_folder_too_high(top: Path) -> None:
    fill(top, "images/Images/n02085620-Chihuahua", "images/Images/n02085782-Japanese_spaniel")
    with pytest.raises(DatasetFormatError, match=r"one folder too high: give .*images.Images"):
        ImageFolder(top / "images")
    assert len(opened(top / "images" / "Images")) == 10


def test_a_root_two_folders_too_high(top: Path) -> None:
    fill(top, "images/Images/n02085620-Chihuahua", "images/Images/n02085782-Japanese_spaniel")
    (top / "annotations" / "Annotation" / "n02085620-Chihuahua").mkdir(parents=True)
    (top / "annotations" / "Annotation" / "n02085620-Chihuahua" / "n02085620_7").write_text("<a/>")
    with pytest.raises(DatasetFormatError, match=r"images.Images, if the folders in it"):
        ImageFolder(top)


def test_birds_beside_their_segmentations(top: Path) -> None:
    fill(top, "CUB_200_2011/images/001.a", "CUB_200_2011/images/002.b", "segmentations/001.a")
    for file in CUB:
        (top / "CUB_200_2011" / file).write_text("")
    with pytest.raises(DatasetFormatError, match="too high: give .*CUB_200_2011"):
        ImageFolder(top)
    with pytest.warns(DatasetWarning, match="part of CUB-200-2011: give .*CUB_200_2011 for"):
        ImageFolder(top / "CUB_200_2011" / "images")


def test_birds_whose_lists_are_absent_in_part(top: Path) -> None:
    fill(top, "images/001.a", "images/002.b")
    for file in CUB[:3]:
        (top / file).write_text("")
    with pytest.raises(DatasetFormatError, match="looks like CUB.*classes.txt is absent"):
        ImageFolder(top)


def test_stanford_dogs_as_published(top: Path) -> None:
    fill(top, "dogs/Images/n02085620-Chihuahua", "dogs/Images/n02085782-Japanese_spaniel")
    (top / "dogs" / "lists").mkdir()
    with pytest.raises(DatasetFormatError, match="StanfordDogs"):
        ImageFolder(top / "dogs")
    with pytest.raises(DatasetFormatError, match="too high: give .*dogs"):
        ImageFolder(top)
    with pytest.warns(DatasetWarning, match="part of Stanford Dogs"):
        ImageFolder(top / "dogs" / "Images")


def test_splits_one_folder_further_down(top: Path) -> None:
    fill(top, "archive/train/a", "archive/train/b", "archive/val/a", "archive/val/b")
    with pytest.raises(DatasetFormatError, match="too high: give .*archive, which has"):
        ImageFolder(top)
    with pytest.warns(DatasetWarning, match="val lies beside it and is not used"):
        ImageFolder(top / "archive" / "train")


def test_a_root_one_folder_too_low(top: Path) -> None:
    fill(top, "a", "b")
    with pytest.raises(DatasetNotFoundError, match=rf"or give {re.escape(str(top))}, if"):
        ImageFolder(top / "a")


def test_classes_that_hold_only_folders_are_doubted(top: Path) -> None:
    fill(top, "red/2023", "red/2024", "blue/2023")
    with pytest.warns(DatasetWarning, match=r"no image lies in its subfolders \(blue, red\)"):
        assert ImageFolder(top, "trainval").class_names == ("blue", "red")


# -- the same image on both sides --------------------------------------------------------------


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    cache = tmp_path / "cache"
    monkeypatch.setattr("glimpse_env.datasets.duplicates.user_cache", lambda: cache)
    monkeypatch.setattr("glimpse_env.datasets.duplicates._known", {})
    yield cache


def test_an_image_of_both_sides_is_told_of(top: Path, no_cache: Path) -> None:
    fill(top, "train/a", "train/b", "valid/a", "valid/b", "test/a")
    assert len(opened(top, "train")) == 10
    shutil.copy(top / "train" / "a" / "train_a3.png", top / "valid" / "b" / "copy.png")
    shutil.copy(top / "train" / "b" / "train_b0.png", top / "test" / "a" / "copy.png")
    said = r"1 images .* in training and in evaluation.*train/a/train_a3\.png and valid/b/copy\.png"
    for split in ("train", "val"):
        with pytest.warns(DatasetWarning, match=said):
            ImageFolder(top, split)
    for split in ("trainval", "test"):
        with pytest.warns(DatasetWarning, match=r"train/b/train_b0\.png and test/a/copy\.png"):
            ImageFolder(top, split)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DatasetWarning)
        ImageFolder(top, "train", check_equal=False)


def test_a_cut_by_chance_is_compared_too(top: Path, no_cache: Path) -> None:
    fill(top, "a", "b")
    one = (top / "a" / "a0.png").read_bytes()
    for i in range(1, 5):
        (top / "a" / f"a{i}.png").write_bytes(one)
    with pytest.warns(DatasetWarning, match="1 images"):
        ImageFolder(top, "train")
    with pytest.warns(DatasetWarning, match="1 images"):
        ImageFolder(top, "val")


def test_only_files_of_equal_size_are_read(
    top: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(top, "train/a", "val/a")
    draw(top, "train/b/0.png", "val/b/0.png")
    (top / "train" / "b" / "0.png").write_bytes(b"\xff\xd8\xff" + bytes(5000))
    read: list[str] = []
    from glimpse_env.datasets import duplicates

    real = duplicates._middle
    monkeypatch.setattr(duplicates, "_middle", lambda path: read.append(path.name) or real(path))
    ImageFolder(top, "train")
    assert "0.png" in read  # of val/b, as large as others
    assert len(read) <= 11 and read.count("0.png") == 1


def test_a_comparison_is_kept_and_a_damaged_one_is_made_again(
    top: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glimpse_env.datasets import duplicates

    monkeypatch.setattr(duplicates, "_WORTH_KEEPING", 1)
    fill(top, "train/a", "train/b", "val/a", "val/b")
    shutil.copy(top / "train" / "a" / "train_a3.png", top / "val" / "b" / "copy.png")
    compared: list[int] = []
    real = duplicates._compare
    monkeypatch.setattr(duplicates, "_compare", lambda *given: compared.append(1) or real(*given))

    def open_again() -> None:
        duplicates._known.clear()
        with pytest.warns(DatasetWarning, match="copy"):
            ImageFolder(top, "val")

    open_again(), open_again()
    assert len(compared) == 1
    (kept,) = (no_cache / "equal_images").iterdir()
    for damage in ("", "[[1, 2]]", "{}", '[["a"', "[[]]"):
        kept.write_text(damage)
        open_again()
    assert len(compared) == 6
    # A file that changed is another comparison.
    os.utime(top / "val" / "a" / "val_a0.png", ns=(1, 1))
    open_again()
    assert len(compared) == 7
