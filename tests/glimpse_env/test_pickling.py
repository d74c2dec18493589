"""Copies: what is pickled, or copied deeply, is small and plays on as the original would."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from PIL import Image

import glimpse_env  # noqa: F401
from encoders.bank.feature_bank import FeatureBank
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.options import EnvOptions
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.mapped import MappedPyramids, open_mapped
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.glimpse_env.helpers import GridMeans, dogs, equal, make_bank, options


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    make_bank(folder, dogs("train", 10), side=2, mirrored=True, places=((0.0, 0.0), (0.5, 0.0)))
    return folder


def sources(bank_folder: Path) -> dict[str, dict[str, Any]]:
    return {
        "pixels": options("train"),
        "decoded each time": options("train", storage="demand"),
        "live": options("train", observation="both"),
        "named": options("train", encoder="inception_mini", observation="features"),
        "bank": options("train", observation="features", encoder=FeatureBank.open(bank_folder)),
        "zoom": options("train", choose_scale=True),
    }


@pytest.mark.parametrize("source", ["pixels", "decoded each time", "live", "named", "bank", "zoom"])
@pytest.mark.parametrize("form", ["scalar", "numpy", "torch"])
@pytest.mark.parametrize("copied", ["pickle", "deepcopy"])
def test_a_copy_in_the_middle_of_an_episode_plays_on_alike(bank_folder, source, form, copied):
    given = sources(bank_folder)[source] | {"num_glimpses": 2, "render_mode": "rgb_array"}
    batch = form != "scalar"
    env = DogsGlimpseVectorEnv(2, array=form, **given) if batch else DogsGlimpseEnv(**given)
    env.reset(seed=3)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    raw = pickle.dumps(env)
    twin = pickle.loads(raw) if copied == "pickle" else copy.deepcopy(env)
    _assert_alike(env.render(), twin.render())
    for _ in range(8):
        action = env.action_space.sample()
        mine, theirs = env.step(action), twin.step(action)
        _assert_alike(mine, theirs)
        if not batch and mine[2]:
            _assert_alike(env.reset(), twin.reset())
    assert twin.observation_space == env.observation_space
    assert twin.action_space == env.action_space


def _assert_alike(mine: Any, theirs: Any) -> None:
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        mine, theirs = tuple(mine.values()), tuple(theirs.values())
    if isinstance(mine, np.ndarray) and mine.dtype == object:
        mine, theirs = tuple(mine), tuple(theirs)
    if isinstance(mine, tuple):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            _assert_alike(one, other)
        return
    assert type(mine) is type(theirs)
    np.testing.assert_array_equal(mine, theirs)


def test_a_pickled_environment_leaves_the_images_behind():
    env = DogsGlimpseVectorEnv(2, **options(num_glimpses=1))
    env.reset(seed=0)
    early = len(pickle.dumps(env))
    for _ in range(10):
        env.step({"fixation": np.zeros((2, 2), np.float32), "label": np.zeros(2, int)})
    assert env._dynamics.observer._patches._arena.used > 5e6
    assert abs(len(pickle.dumps(env)) - early) < 1000
    assert early < 1.7e6, "the last observations, twice two of 96x96, and the action space"


def test_an_arena_of_a_file_is_pickled_by_its_path(tmp_path):
    data = dogs("val", 10)
    made = MappedPyramids.create(tmp_path, data)
    list(made.build(data, 1))
    arena = open_mapped(tmp_path, data, ("low", "high"))
    raw = pickle.dumps(arena)
    assert len(raw) < 5000
    again = pickle.loads(raw)
    assert isinstance(again.flat, np.memmap) and not again.flat.flags.writeable
    np.testing.assert_array_equal(again.pyramid(7).levels["high"], arena.pyramid(7).levels["high"])
    (tmp_path / "levels.u8").unlink()
    with pytest.raises(FileNotFoundError, match="levels.u8"):
        pickle.loads(raw)


def test_an_arena_in_memory_comes_back_empty_and_as_large():
    data = dogs("val", 10)
    arena = PyramidArena.in_memory(10, ("low", "high"), 10**7)
    arena.add(3, build_pyramid(data.image(3)))
    again = pickle.loads(pickle.dumps(arena))
    assert (again.capacity, again.used, again.num_kept, len(again)) == (10**7, 0, 0, 10)
    assert again.resolutions == arena.resolutions
    assert again.add(3, build_pyramid(data.image(3)))
    np.testing.assert_array_equal(again.pyramid(3).levels["high"], arena.pyramid(3).levels["high"])


def test_specs_survive_json_and_pickle_and_make_the_same_environment():
    made = gymnasium.make("SyntheticDogsGlimpse-v0", observation="pixels", split="val")
    for spec in (
        EnvSpec.from_json(made.spec.to_json()),
        pickle.loads(pickle.dumps(made.spec)),
    ):
        again = gymnasium.make(spec)
        assert again.spec.kwargs == made.spec.kwargs
        assert equal(again.reset(seed=1)[0], made.reset(seed=1)[0])


def test_options_and_datasets_survive_pickle(tmp_path):
    given = options("train", observation="both", encoder=GridMeans())
    kept = EnvOptions.from_keywords(given)
    again = pickle.loads(pickle.dumps(kept))
    assert again.dataset.fingerprint == kept.dataset.fingerprint
    assert (again.observation, again.resolutions) == (kept.observation, kept.resolutions)
    for index, folder in enumerate(("a", "b", "c")):
        (tmp_path / folder).mkdir()
        for n in range(4):
            colour = (index * 60, n * 50, 7)
            Image.new("RGB", (40, 30), colour).save(tmp_path / folder / f"{n}.png")
    for data in (dogs("val", 10), ImageFolder(tmp_path, "train")):
        twin = pickle.loads(pickle.dumps(data))
        assert twin.fingerprint == data.fingerprint and len(twin) == len(data)
        np.testing.assert_array_equal(twin.labels, data.labels)
        for index in range(len(data)):
            np.testing.assert_array_equal(twin.image(index), data.image(index))
