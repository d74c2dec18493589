"""Options of the images are used or refused, never ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from experiments.data import DataConfig, build_dataset
from glimpse_env.datasets.errors import MissingImagesError


@pytest.mark.parametrize(
    "config, option",
    [
        (DataConfig("synthetic", data_dir=Path("x")), "--data-dir"),
        (DataConfig("image_folder", data_dir=Path("x"), num_images=3), "--num-images"),
        (DataConfig("stanford_dogs", num_images=3), "--num-images"),
        (DataConfig("image_folder"), "--data-dir"),
    ],
)
def test_an_option_without_effect_is_refused(config: DataConfig, option: str) -> None:
    with pytest.raises(ValueError, match=option):
        build_dataset(config, "train")


def test_two_dogs_are_drawn_by_the_rules_of_one() -> None:
    data = DataConfig("synthetic", num_images=24, short_side=50)
    one, two = (build_dataset(data, "val", creatures=count) for count in (1, 2))
    assert len(one) == len(two) == 6
    assert [len(one.boxes(0)), len(two.boxes(0))] == [1, 2]
    assert min(two.image(0).shape[:2]) == 50
    with pytest.raises(ValueError, match="creatures"):
        build_dataset(DataConfig("image_folder", data_dir=Path("x")), "val", creatures=2)


def test_missing_images_of_a_folder_can_be_allowed(tmp_path: Path) -> None:
    names = [f"{k}/{i}.png" for k in ("a", "b") for i in range(2)]
    lines = enumerate(names, start=1)
    tables = {
        "images.txt": [f"{n} {name}" for n, name in lines],
        "classes.txt": ["1 a", "2 b"],
        "image_class_labels.txt": ["1 1", "2 1", "3 2", "4 2"],
        "train_test_split.txt": [f"{n} 1" for n in range(1, 5)],
    }
    for file, rows in tables.items():
        (tmp_path / file).write_text("\n".join(rows) + "\n")
    for name in names[1:]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    config = DataConfig("image_folder", data_dir=tmp_path)
    with pytest.raises(MissingImagesError):
        build_dataset(config, "trainval")
    allowed = DataConfig("image_folder", data_dir=tmp_path, allow_missing=True)
    found = build_dataset(allowed, "trainval")
    assert len(found) == 3 and found.num_missing == 1
