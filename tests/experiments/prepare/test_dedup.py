"""`glimpse dedup`: the list follows from the official lists, and a damaged one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from encoders.spec import get_spec
from experiments.data import DataConfig
from experiments.prepare.dedup import DedupConfig, dedup, imagenet_name, read_leave_out
from experiments.pretrain.config import PretrainConfig, resolve_defaults
from experiments.pretrain.train import Images
from glimpse_env.datasets.errors import DatasetNotFoundError
from glimpse_env.datasets.stanford_dogs import StanfordDogs

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")


def dog(breed: str, number: int) -> str:
    return f"{breed}/{breed.split('-')[0]}_{number}.jpg"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """The official lists of ten training and three test images a breed; no images."""
    folder = tmp_path / "dogs" / "lists"
    folder.mkdir(parents=True)
    for which, numbers in (("train", range(10)), ("test", range(100, 103))):
        names = [dog(breed, number) for breed in BREEDS for number in numbers]
        cells = np.empty((len(names), 1), object)
        cells[:, 0] = names
        labels = np.repeat([1, 2], len(numbers)).reshape(-1, 1)
        scipy.io.savemat(folder / f"{which}_list.mat", {"file_list": cells, "labels": labels})
    return folder.parent


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path, "JPEG")


def test_test_and_validation_images_are_listed_under_their_imagenet_names(
    lists: Path, tmp_path: Path
) -> None:
    path = dedup(DedupConfig(tmp_path / "out.txt", lists))
    for breed in BREEDS:
        for number in range(10):
            image(lists / "Images" / dog(breed, number))
    val = StanfordDogs(lists, "val")  # the cut is the data set's own
    expected = [val.name(i) for i in range(len(val))]
    expected += [dog(breed, number) for breed in BREEDS for number in (100, 101, 102)]
    found = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len(val) == 4 and found == sorted(map(imagenet_name, expected))
    assert "n02085620/n02085620_101.JPEG" in found
    assert "# 6 of test\n# 4 of val\n# count 10\n" in path.read_text()


def test_what_is_included_is_a_choice(lists: Path, tmp_path: Path) -> None:
    every = DedupConfig(tmp_path / "all.txt", lists, ("train", "val", "test"))
    assert len(read_leave_out(dedup(every)).stems) == 26
    only = read_leave_out(dedup(DedupConfig(tmp_path / "test.txt", lists, ("test",))))
    assert {stem.split("_")[1] for stem in only.stems} == {"100", "101", "102"}


def test_lists_that_are_absent_or_overlap_are_a_sentence(lists: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="glimpse download"):
        dedup(DedupConfig(tmp_path / "out.txt", tmp_path / "nowhere"))
    (lists / "lists" / "test_list.mat").write_bytes(
        (lists / "lists" / "train_list.mat").read_bytes()
    )
    with pytest.raises(ValueError, match="share 4 images"):
        dedup(DedupConfig(tmp_path / "out.txt", lists))
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("damage", ["cut", "line", "title", "empty", "edited"])
def test_a_damaged_list_is_refused(lists: Path, tmp_path: Path, damage: str) -> None:
    path = dedup(DedupConfig(tmp_path / "out.txt", lists))
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    path.write_text(
        {
            "cut": text[: len(text) // 2],
            "line": "".join(lines[:-1]),  # one name too few, which would be trained on
            "title": "".join(lines[1:]),
            "empty": "",
            "edited": text.replace("_101.JPEG", "_999.JPEG"),
        }[damage]
    )
    with pytest.raises(ValueError, match=r"out\.txt is damaged.*glimpse dedup"):
        read_leave_out(path)


def test_a_list_with_the_title_of_before_is_read(lists: Path, tmp_path: Path) -> None:
    path = dedup(DedupConfig(data_dir=lists, out=tmp_path / "list.txt"))
    first, rest = path.read_text().split("\n", 1)
    path.write_text(first.replace("images", "pictures") + "\n" + rest)
    assert first.startswith("# ImageNet images") and read_leave_out(path).stems


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="glimpse dedup"):
        read_leave_out(tmp_path / "none.txt")


def test_listed_images_are_neither_trained_nor_measured_on(lists: Path, tmp_path: Path) -> None:
    """By the stem of the file: folders and suffixes of ILSVRC copies differ."""
    root = tmp_path / "ilsvrc"
    for breed in BREEDS:
        wnid = breed.split("-")[0]
        for number in (*range(10), 100, 101):  # 102 is on the list and not here
            image(root / wnid / f"{wnid}_{number}.JPEG")
    path = dedup(DedupConfig(tmp_path / "out.txt", lists))
    config = resolve_defaults(
        PretrainConfig(data=DataConfig("image_folder", root), leave_out=path, held_out=0.2)
    )
    images = Images(config)
    listed = read_leave_out(path).stems
    drawn = {Path(images.dataset.name(i)).stem for i in (*images.training, *images.held_out)}
    assert len(images.dataset) == 24 and len(drawn) == 16 and not drawn & listed
    record = images.record(config)["leave_out"]
    assert (record["listed"], record["found"], record["file"]) == (10, 8, "out.txt")
    assert len(record["sha256"]) == 64
    assert images.record(config)["trained_on"] == 13
    assert len(Images(replace(config, leave_out=None)).training) == 19


def test_a_list_is_not_held_against_renamed_images(lists: Path, tmp_path: Path) -> None:
    """They may be the listed ones: no record may say that those were left out."""
    path = dedup(DedupConfig(tmp_path / "out.txt", lists))
    for breed in BREEDS:
        for number in range(4):
            image(tmp_path / "renamed" / breed / f"{number:06d}.jpg")
            image(tmp_path / "others" / breed / dog(breed, 900 + number).split("/")[1])
    config = resolve_defaults(
        PretrainConfig(data=DataConfig("image_folder", tmp_path / "renamed"), leave_out=path)
    )
    with pytest.raises(ValueError, match=r"no name of ImageNet's.*leave --leave-out out"):
        Images(config)
    assert len(Images(replace(config, leave_out=None)).training) == 7
    # Names of ImageNet's can be told: these are other images, and that is said.
    named = replace(config, data=DataConfig("image_folder", tmp_path / "others"))
    images = Images(named)
    assert len(images.training) == 7 and images.record(named)["leave_out"]["found"] == 0
    assert images.seen(named, get_spec(named.core)).endswith("among them: none was there")


def test_the_official_lists(dogs_dir: Path, tmp_path: Path) -> None:
    found = read_leave_out(dedup(DedupConfig(tmp_path / "out.txt", dogs_dir)))
    assert len(found.stems) == 8580 + 2400
    assert "n02085620_2650" in found.stems
