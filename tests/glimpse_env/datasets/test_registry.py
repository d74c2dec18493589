"""Data sets by name: one resolver for environments and commands."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium
import pytest

import glimpse_env  # noqa: F401
from experiments.data import DataConfig, build_dataset
from glimpse_env.datasets import registry
from glimpse_env.datasets.registry import (
    available_names,
    dataset_names,
    find_dataset,
    open_dataset,
    register_dataset,
)
from glimpse_env.datasets.synthetic import SyntheticDogs


def open_few(split: str) -> SyntheticDogs:
    return SyntheticDogs(split, num_images=4)


def test_the_projects_own_are_there() -> None:
    assert dataset_names()[:3] == ("stanford_dogs", "synthetic", "image_folder")
    assert len(open_dataset("synthetic", "train", num_images=8)) == 8
    assert len(open_dataset("synthetic", "val", num_images=8)) == 2
    assert len(open_dataset("synthetic", "val", creatures=2, num_images=8).boxes(0)) == 2


def test_one_decorated_function_adds_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OPENERS", dict(registry._OPENERS))
    assert register_dataset("few")(open_few) is open_few
    env = gymnasium.make("DogsGlimpse-v0", dataset="few", encoder=None, observation="pixels")
    _, info = env.reset(seed=0)
    assert 0 <= info["image"] < 4
    env.close()
    assert len(build_dataset(DataConfig("few"), "train")) == 4
    with pytest.raises(ValueError, match="already registered"):
        register_dataset("few")(lambda split: None)
    with pytest.raises(ValueError, match="colon"):
        register_dataset("a:b")(open_few)


def test_a_path_does_too() -> None:
    path = f"{__name__}:open_few"
    assert len(open_dataset(path, "val")) == 4
    assert len(build_dataset(DataConfig(path), "val")) == 4
    with pytest.raises(ValueError, match="nowhere"):
        find_dataset("nowhere:open")
    with pytest.raises(ValueError, match="open_many"):
        find_dataset(f"{__name__}:open_many")


def test_what_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nothing'.*'stanford_dogs', 'synthetic'"):
        open_dataset("nothing", "train")
    with pytest.raises(ValueError, match="--data-dir.*'synthetic'"):
        open_dataset("synthetic", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="--num-images.*'image_folder'"):
        open_dataset("image_folder", "train", data_dir=tmp_path, num_images=3)
    with pytest.raises(ValueError, match="needs data_dir"):
        open_dataset("image_folder", "train")


def test_an_environment_opens_a_data_set_of_an_entry_point(monkeypatch) -> None:
    entry = EntryPoint("installed_few", f"{__name__}:open_few", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    options = {"encoder": None, "observation": "pixels"}
    env = gymnasium.make("DogsGlimpse-v0", dataset="installed_few", **options)
    assert len(env.unwrapped.dataset) == 4
    env.close()
    with pytest.raises(ValueError, match="'installed_few', 'module:function' or an object"):
        gymnasium.make("DogsGlimpse-v0", dataset="installed", **options)
    # What a published run may name is only what is registered.
    assert "installed_few" in available_names() and "installed_few" not in dataset_names()
