"""Stanford Dogs: a small made-up copy of the official layout, then the real one."""

from __future__ import annotations

import csv
import gzip
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from glimpse_env.datasets.base import ImageDataset, read_image
from glimpse_env.datasets.download.archives import unpack
from glimpse_env.datasets.errors import (
    AnnotationError,
    DatasetFormatError,
    DatasetNotFoundError,
    MissingImagesError,
    UnreadableImageError,
)
from glimpse_env.datasets.stanford_dogs import StanfordDogs, default_data_dir

FOLDERS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02099429-curly-coated_retriever")
XML = """<annotation><size><width>{0}</width><height>{1}</height></size>{2}</annotation>"""
BOX = (
    "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def write_list(path: Path, names: list[str], labels: list[int]) -> None:
    cells = np.empty((len(names), 1), dtype=object)
    for index, name in enumerate(names):
        cells[index, 0] = name
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(labels)[:, None]
    scipy.io.savemat(path, {"file_list": cells, "labels": array.astype(np.min_scalar_type(array))})


def write_annotation(path: Path, size: tuple[int, int], *boxes: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(XML.format(*size, "".join(BOX.format(*box) for box in boxes)))


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    """Three breeds of ten training and two test images, 20 x 10, labels in the usual order."""
    folder = tmp_path / "dogs"
    for which, count in (("train", 10), ("test", 2)):
        names = [f"{f}/{f[:9]}_{which}{i}.jpg" for f in FOLDERS for i in range(count)]
        write_list(
            folder / f"lists/{which}_list.mat", names, [1 + i // count for i in range(3 * count)]
        )
        for index, name in enumerate(names):
            path = folder / "Images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (index, 100, 200)).save(path)
            write_annotation((folder / "Annotation" / name).with_suffix(""), (20, 10), (2, 1, 9, 7))
    return folder


def rewrite(dogs: Path, change: Callable[[list[str], list[int]], None]) -> None:
    """Change the training list in place."""
    content = scipy.io.loadmat(dogs / "lists/train_list.mat")
    names = [str(cell.item()) for cell in content["file_list"].ravel()]
    labels = content["labels"].ravel().astype(int).tolist()
    change(names, labels)
    write_list(dogs / "lists/train_list.mat", names, labels)


def test_reads_the_official_layout(dogs: Path) -> None:
    data = StanfordDogs(dogs, "trainval")
    assert isinstance(data, ImageDataset)
    assert len(data) == 30 and data.num_missing == 0
    assert data.class_names == ("Chihuahua", "Japanese_spaniel", "curly-coated_retriever")
    assert data.wnids == ("n02085620", "n02085782", "n02099429")
    assert data.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert data.name(10) == "n02085782-Japanese_spaniel/n02085782_train0.jpg"
    image = data.image(29)
    assert image.shape == (10, 20, 3) and image.dtype == np.uint8
    assert np.abs(image[0, 0].astype(int) - (29, 100, 200)).max() <= 3


def test_labels_not_folder_order_number_the_classes(dogs: Path) -> None:
    def swap(names: list[str], labels: list[int]) -> None:
        labels[:] = [{1: 3, 2: 2, 3: 1}[label] for label in labels]

    rewrite(dogs, swap)
    data = StanfordDogs(dogs, "trainval")
    assert data.class_names == ("curly-coated_retriever", "Japanese_spaniel", "Chihuahua")
    assert data.labels[0] == 2 and data.name(0).startswith(data.wnids[2])


@pytest.mark.parametrize(
    ("split", "count", "training"),
    [("train", 24, True), ("val", 6, False), ("trainval", 30, True), ("test", 6, False)],
)
def test_splits(dogs: Path, split: str, count: int, training: bool) -> None:
    data = StanfordDogs(dogs, split)
    assert (data.split, len(data), data.training) == (split, count, training)
    assert (np.bincount(data.labels) == count // 3).all()


def test_train_and_val_share_nothing_and_are_trainval(dogs: Path) -> None:
    train, val, both = (StanfordDogs(dogs, split) for split in ("train", "val", "trainval"))
    names = [{data.name(i) for i in range(len(data))} for data in (train, val, both)]
    assert names[0] & names[1] == set() and names[0] | names[1] == names[2]


def test_lists_may_lie_at_the_top(dogs: Path) -> None:
    before = StanfordDogs(dogs).fingerprint
    for path in (dogs / "lists").iterdir():
        path.rename(dogs / path.name)
    assert StanfordDogs(dogs).fingerprint == before


def test_survives_pickling(dogs: Path) -> None:
    data = StanfordDogs(dogs)
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint == data.fingerprint
    assert np.array_equal(again.image(3), data.image(3))


def test_unknown_split(dogs: Path) -> None:
    with pytest.raises(ValueError, match="train, val, trainval, test"):
        StanfordDogs(dogs, "validation")


# What is missing or wrong


@pytest.mark.parametrize("absent", ["", "lists", "Images"])
def test_no_data_names_folder_command_and_substitute(dogs: Path, absent: str) -> None:
    (dogs / absent).rename(dogs.parent / "elsewhere")
    with pytest.raises(DatasetNotFoundError) as caught:
        StanfordDogs(dogs)
    for part in (str(dogs), "`glimpse download`", "SyntheticDogsGlimpse-v0", absent):
        assert part in str(caught.value)


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLIMPSE_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path / "stanford_dogs"
    with pytest.raises(DatasetNotFoundError, match=str(tmp_path)):
        StanfordDogs()
    monkeypatch.delenv("GLIMPSE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_data_dir().parts[-2:] == ("glimpse", "stanford_dogs")


def test_absent_images_are_an_error_with_count_and_names(dogs: Path) -> None:
    gone = StanfordDogs(dogs)
    for index in (0, 5, 9, 20):
        gone.path(index).unlink()
    with pytest.raises(MissingImagesError) as caught:
        StanfordDogs(dogs)
    message = str(caught.value)
    assert "4 of the 24" in message and "allow_missing=True" in message
    assert gone.name(0) in message and gone.name(9) in message and gone.name(20) not in message


def test_allow_missing_leaves_them_out_and_says_how_many(dogs: Path) -> None:
    whole = StanfordDogs(dogs)
    for index in (0, 5):
        whole.path(index).unlink()
    data = StanfordDogs(dogs, allow_missing=True)
    assert data.num_missing == 2
    kept = [index for index in range(24) if index not in (0, 5)]
    assert [data.name(i) for i in range(22)] == [whole.name(i) for i in kept]
    assert np.array_equal(data.labels, whole.labels[kept])
    assert data.fingerprint != whole.fingerprint


def test_absent_images_do_not_move_the_cut(dogs: Path) -> None:
    before = StanfordDogs(dogs, "val")
    names = [before.name(i) for i in range(len(before))]
    for _ in range(12):
        StanfordDogs(dogs, "train", allow_missing=True).path(0).unlink()
    after = StanfordDogs(dogs, "val")
    assert [after.name(i) for i in range(len(after))] == names


def test_all_absent_is_an_error_even_if_missing_is_allowed(dogs: Path) -> None:
    for path in (dogs / "Images").rglob("*test*.jpg"):
        path.unlink()
    with pytest.raises(MissingImagesError, match="6 of the 6"):
        StanfordDogs(dogs, "test", allow_missing=True)


def test_fingerprint_depends_on_names_labels_and_sizes_only(dogs: Path) -> None:
    before = StanfordDogs(dogs)
    assert StanfordDogs(dogs).fingerprint == before.fingerprint
    assert StanfordDogs(dogs, "val").fingerprint != before.fingerprint
    path = before.path(0)
    path.write_bytes(path.read_bytes() + b"\0")
    assert StanfordDogs(dogs).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "/etc/secret.jpg",
        "n02085620-Chihuahua/../../secret.jpg",
        "n02085620-..\\..\\x/secret.jpg",
        "secret.jpg",
        "n02085620-Chihuahua/..",
    ],
)
def test_name_that_leads_out_of_the_folder(dogs: Path, name: str) -> None:
    rewrite(dogs, lambda names, labels: names.__setitem__(4, name))
    with pytest.raises(DatasetFormatError, match="not of the form") as caught:
        StanfordDogs(dogs)
    assert "train_list.mat" in str(caught.value)


@pytest.mark.parametrize("label", [0, 4, 121, 2])
def test_wrong_label(dogs: Path, label: int) -> None:
    rewrite(dogs, lambda names, labels: labels.__setitem__(4, label))
    with pytest.raises(DatasetFormatError, match="label"):
        StanfordDogs(dogs)


def test_labels_that_skip_a_number(dogs: Path) -> None:
    rewrite(dogs, lambda names, labels: labels.__setitem__(slice(20, 30), [4] * 10))
    with pytest.raises(DatasetFormatError, match="must be 1 to 3"):
        StanfordDogs(dogs)


def test_fractional_labels(dogs: Path) -> None:
    path = dogs / "lists/train_list.mat"
    content = scipy.io.loadmat(path)
    names, labels = content["file_list"], content["labels"].astype(float) + 0.5
    scipy.io.savemat(path, {"file_list": names, "labels": labels})
    with pytest.raises(DatasetFormatError, match="labels"):
        StanfordDogs(dogs)


def test_fewer_labels_than_names(dogs: Path) -> None:
    rewrite(dogs, lambda names, labels: labels.pop())
    with pytest.raises(DatasetFormatError, match="30 names with 29 labels"):
        StanfordDogs(dogs)


def test_image_listed_twice(dogs: Path) -> None:
    rewrite(dogs, lambda names, labels: names.__setitem__(1, names[0]))
    with pytest.raises(DatasetFormatError, match="twice"):
        StanfordDogs(dogs)


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>" * 40], ids=["empty", "page"])
def test_broken_list(dogs: Path, content: bytes) -> None:
    (dogs / "lists/train_list.mat").write_bytes(content)
    with pytest.raises(DatasetFormatError, match="cannot read .*train_list.mat"):
        StanfordDogs(dogs)


# Boxes


def test_boxes_are_edges_and_scale_with_the_image(dogs: Path) -> None:
    data = StanfordDogs(dogs)
    # Pixels 2..9 and 1..7 are inside: edges 2, 1, 10, 8.
    assert data.boxes(0).tolist() == [[2, 1, 10, 8]]
    Image.new("RGB", (10, 5)).save(data.path(0))
    assert data.boxes(0).tolist() == [[1, 0.5, 5, 4]]


def test_several_boxes_none_and_one_over_the_edge(dogs: Path) -> None:
    data = StanfordDogs(dogs)
    paths = [(dogs / "Annotation" / data.name(i)).with_suffix("") for i in range(2)]
    write_annotation(paths[0], (20, 10), (0, 0, 4, 4), (5, 5, 25, 11))
    write_annotation(paths[1], (20, 10))
    assert data.boxes(0).tolist() == [[0, 0, 5, 5], [5, 5, 20, 10]]
    assert data.boxes(1).shape == (0, 4)


@pytest.mark.parametrize("size", [(0, 0), (20, 0), (10, 20)], ids=str)
def test_size_that_cannot_be_the_images(dogs: Path, size: tuple[int, int]) -> None:
    data = StanfordDogs(dogs)
    write_annotation((dogs / "Annotation" / data.name(0)).with_suffix(""), size, (1, 1, 3, 3))
    with pytest.raises(AnnotationError, match="Annotation"):
        data.boxes(0)


def test_absent_and_broken_annotation(dogs: Path) -> None:
    data = StanfordDogs(dogs)
    path = (dogs / "Annotation" / data.name(0)).with_suffix("")
    path.write_text("<annotation><size>")
    with pytest.raises(AnnotationError, match="glimpse download"):
        data.boxes(0)
    path.unlink()
    with pytest.raises(AnnotationError, match="glimpse download"):
        data.boxes(0)


# Images of every kind

GREY = np.arange(200, dtype=np.uint8).reshape(10, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(GREY.astype(np.int32) * 257)
    else:
        image = Image.fromarray(GREY).convert(mode)
    suffix = "tiff" if mode in ("I", "CMYK") else "png"
    path = tmp_path / "image.jpg"
    image.save(path, format=suffix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(path)
    assert pixels.shape == (10, 20, 3) and pixels.dtype == np.uint8
    expected = np.array(image.convert("L")) if mode == "1" else GREY
    assert np.abs(pixels.astype(int) - expected[..., None]).max() <= 1


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(GREY).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(tmp_path / "p.png")
    assert np.array_equal(pixels, np.repeat(GREY[..., None], 3, axis=2))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    assert np.abs(read_image(tmp_path / "red.jpg").astype(int) - (255, 0, 0)).max() <= 4


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [[[1, 2, 3]]]


def test_stored_pixels_are_kept_whatever_a_tag_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # shown turned by a right angle
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.png")[..., 0], GREY)


def test_png_named_jpg(dogs: Path) -> None:
    data = StanfordDogs(dogs)
    Image.fromarray(GREY).convert("RGBA").save(data.path(0), format="PNG")
    assert np.array_equal(StanfordDogs(dogs).image(0)[..., 0], GREY)


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "gif"])
def test_truncated_image_is_named_with_the_remedy(dogs: Path, suffix: str) -> None:
    data = StanfordDogs(dogs)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data.path(2), format=suffix)
    content = data.path(2).read_bytes()
    data.path(2).write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImageError) as caught:
        data.image(2)
    assert data.name(2) in str(caught.value) and "glimpse download" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"<html></html>", b"\x89PNG\r\n\x1a\n"])
def test_no_image_at_all(dogs: Path, content: bytes) -> None:
    data = StanfordDogs(dogs)
    data.path(2).write_bytes(content)
    with pytest.raises(UnreadableImageError, match="n02085620"):
        data.image(2)
    with pytest.raises(UnreadableImageError, match="n02085620"):
        data.boxes(2)


def test_floating_point_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(UnreadableImageError, match="floating"):
        read_image(tmp_path / "f.tiff")


def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="bomb"):
        read_image(tmp_path / "bomb.png")


# The real images


def test_real_lists(dogs_dir: Path) -> None:
    train = StanfordDogs(dogs_dir, "train", allow_missing=True)
    val = StanfordDogs(dogs_dir, "val", allow_missing=True)
    assert len(train) + train.num_missing == 9600 and len(val) + val.num_missing == 2400
    assert len(train.class_names) == len(set(train.class_names)) == 120
    assert train.class_names[:2] == ("Chihuahua", "Japanese_spaniel")
    assert train.class_names[-1] == "African_hunting_dog" and train.wnids[-1] == "n02116738"
    for data in (train, val):
        assert all(
            data.name(i).startswith(f"{data.wnids[label]}-{data.class_names[label]}/")
            for i, label in enumerate(data.labels)
        )


def test_real_images_are_what_the_manifest_says(dogs_dir: Path, dogs_archives: Path) -> None:
    data = StanfordDogs(dogs_dir, "trainval", allow_missing=True)
    with gzip.open(dogs_archives / "manifest-train.csv.gz", "rt") as file:
        manifest = {row["file"]: row for row in csv.DictReader(file)}
    for index in range(0, len(data), 97):
        row = manifest[data.name(index)]
        image = data.image(index)
        assert image.shape == (int(row["height"]), int(row["width"]), 3)
        assert int(row["label_1to120"]) - 1 == data.labels[index]
        assert image.std() > 5


def test_real_boxes_lie_in_the_images(dogs_dir: Path) -> None:
    data = StanfordDogs(dogs_dir, "trainval", allow_missing=True)
    for index in range(0, len(data), 23):
        height, width = data.image(index).shape[:2]
        boxes = data.boxes(index)
        assert len(boxes) >= 1
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 5).all()


def test_real_boxes_do_not_depend_on_the_stored_size(
    dogs_dir: Path, dogs_archives: Path, tmp_path: Path
) -> None:
    """Shares of the image are the same at native size and re-encoded smaller."""
    for part in ("lists", "Annotation"):
        (tmp_path / part).symlink_to(dogs_dir / part)
    unpack(dogs_archives / "originals-sample.tar", tmp_path)
    small = StanfordDogs(dogs_dir, "trainval", allow_missing=True)
    native = StanfordDogs(tmp_path, "trainval", allow_missing=True)
    where = {small.name(i): i for i in range(len(small))}
    both = [(where[native.name(i)], i) for i in range(len(native)) if native.name(i) in where]
    assert len(native) == 121 and len(both) > 10
    for first, second in both:
        shares = []
        for data, index in ((small, first), (native, second)):
            height, width = data.image(index).shape[:2]
            shares.append(data.boxes(index) / [width, height, width, height])
        assert np.abs(shares[0] - shares[1]).max() < 1e-5


def test_real_test_split_is_not_there(dogs_dir: Path) -> None:
    with pytest.raises(MissingImagesError, match="8580 of the 8580"):
        StanfordDogs(dogs_dir, "test", allow_missing=True)
