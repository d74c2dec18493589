"""The option `context_grid`: contexts that keep their layout, live and from a bank."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch import Tensor, nn

from encoders.bank.feature_bank import BankMismatchError
from encoders.inference.engine import Encoder, make_encoder
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers import FlatAction, FlatObservation, LatticeAction, VectorFlatAction
from tests.glimpse_env.helpers import GridMeans, action, dogs, make_bank, options


class MapMeans(nn.Module):
    """Mean colours of a 6 x 6 grid, as a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 6)


def mapped() -> Encoder:
    return make_encoder(MapMeans(), device="cpu")


def chosen(split: str = "val", num_images: int = 10, **more: Any) -> dict[str, Any]:
    return options(split, num_images, **({"observation": "features", "encoder": MapMeans()} | more))


@pytest.mark.parametrize(
    "asked, shape",
    [("auto", (3, 3, 3)), (1, (3,)), (2, (2, 2, 3)), (np.int64(6), (6, 6, 3))],
    ids=str,
)
def test_the_space_follows_the_grid(asked: Any, shape: tuple[int, ...]) -> None:
    env = DogsGlimpseEnv(**chosen(context_grid=asked))
    assert env.observation_space["context"].shape == shape  # type: ignore[index]
    assert env.observation_space["glimpse"].shape == (3, 3)  # type: ignore[index]
    assert env.reset(seed=0)[0] in env.observation_space
    assert env.step(action(0.2, 0.1))[0] in env.observation_space


def test_without_a_map_auto_is_the_vector() -> None:
    env = DogsGlimpseEnv(**chosen(encoder=GridMeans()))
    assert env.observation_space["context"].shape == (48,)  # type: ignore[index]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "more, kind, said",
    [
        ({"context_grid": 4}, ValueError, "6 x 6: take one of 1, 2, 3, 6"),
        ({"context_grid": 2, "encoder": GridMeans()}, ValueError, "feature map"),
        ({"context_grid": 0}, ValueError, "context_grid is at least 1"),
        ({"context_grid": "three"}, ValueError, "context_grid is 'auto' or an integer"),
        ({"context_grid": 1.5}, TypeError, "context_grid is an integer"),
    ],
)
def test_a_grid_that_cannot_be_served_is_one_sentence(more, kind, said) -> None:
    with pytest.raises(kind, match=said) as caught:
        DogsGlimpseEnv(**chosen(**more))
    assert "\n" not in str(caught.value)


def test_pixels_take_no_notice() -> None:
    env = DogsGlimpseEnv(**options(observation="pixels", encoder=None, context_grid=7))
    assert env.observation_space["context"].shape == (96, 96, 3)  # type: ignore[index]


def test_cells_lie_where_they_were_seen() -> None:
    env = DogsGlimpseEnv(**chosen(observation="both", context_grid=3))
    seen = env.reset(seed=1)[0]
    pixels = seen["context_pixels"].astype(np.float64) / 255
    for i in range(3):
        for j in range(3):
            cell = pixels[32 * i : 32 * (i + 1), 32 * j : 32 * (j + 1)].mean((0, 1))
            np.testing.assert_allclose(seen["context"][i, j], cell, atol=1e-5)
    seen = env.step(action(0.3, -0.2))[0]
    means = seen["glimpse_pixels"].mean((1, 2)) / 255
    np.testing.assert_allclose(seen["glimpse"], means, atol=1e-5)


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_a_batch_shows_what_scalar_environments_show(array: str) -> None:
    batch = DogsGlimpseVectorEnv(2, array=array, **chosen())
    seen = batch.reset(seed=3)[0]["context"]
    assert batch.observation_space["context"].shape == (2, 3, 3, 3)  # type: ignore[index]
    assert isinstance(seen, torch.Tensor) == (array == "torch")
    for i in range(2):
        alone = DogsGlimpseEnv(**chosen(shard=(i, 2)))
        context = alone.reset(seed=3 + i)[0]["context"]
        np.testing.assert_allclose(np.asarray(seen[i]), context, atol=1e-6)


def test_a_bank_equals_the_live_encoder_and_serves_one_too(tmp_path) -> None:
    data = dogs("train", 6)
    places = ((0.0, 0.0), (0.1, 0.0), (-0.1, 0.0))
    bank = make_bank(tmp_path, data, mirrored=True, places=places, encode=mapped(), grid=3)
    env = DogsGlimpseEnv(**chosen("train", 6, encoder=bank, observation="both"))
    flat = DogsGlimpseEnv(**chosen("train", 6, encoder=bank, context_grid=1))
    assert env.observation_space["context"].shape == (3, 3, 3)  # type: ignore[index]
    mirrored = set()
    for seed in range(12):
        seen = env.reset(seed=seed)[0]
        features, cells = mapped().encode(torch.from_numpy(seen["context_pixels"][None]), 3)
        np.testing.assert_allclose(seen["context"], cells[0].numpy(), atol=1e-3)
        plain = flat.reset(seed=seed)[0]["context"]
        np.testing.assert_allclose(plain, features[0].numpy(), atol=1e-3)
        mirrored.add(bool(env._dynamics.mirror[0]))
    assert mirrored == {True, False}
    with pytest.raises(BankMismatchError, match="grid of 1 and 3, not 2"):
        DogsGlimpseEnv(**chosen("train", 6, encoder=bank, context_grid=2))


def test_a_bank_of_the_old_form_gives_the_vector(tmp_path) -> None:
    bank = make_bank(tmp_path, dogs("val", 4), encode=mapped())
    env = DogsGlimpseEnv(**chosen("val", 4, encoder=bank))
    assert env.observation_space["context"].shape == (3,)  # type: ignore[index]


@pytest.mark.parametrize(
    "face",
    [FlatAction, lambda env: LatticeAction(env, 3), lambda env: FlatObservation(FlatAction(env))],
    ids=["flat", "lattice", "vector"],
)
def test_flat_wrappers_join_the_cells_and_no_checker_complains(face) -> None:
    env = face(DogsGlimpseEnv(**chosen(render_mode="rgb_array")))
    if isinstance(env.observation_space, gymnasium.spaces.Dict):
        assert env.observation_space["context"].shape == (27,)
        plain = DogsGlimpseEnv(**chosen())
        joined, own = env.reset(seed=2)[0]["context"], plain.reset(seed=2)[0]["context"]
        np.testing.assert_array_equal(joined, own.reshape(-1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(env, skip_render_check=False)


def test_the_environment_itself_passes_gymnasiums_checker() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("SyntheticDogsGlimpse-v0", **chosen(render_mode="rgb_array"))
        check_env(env.unwrapped)


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_the_vector_face_joins_cells_of_final_observations_too(array: str) -> None:
    envs = VectorFlatAction(DogsGlimpseVectorEnv(2, array=array, **chosen(num_glimpses=1)))
    assert tuple(envs.reset(seed=0)[0]["context"].shape) == (2, 27)
    act = np.zeros(envs.action_space.shape, np.float32)
    envs.step(act)
    seen, *_, infos = envs.step(act)
    assert tuple(seen["context"].shape) == (2, 27)
    assert tuple(infos["final_obs"][0]["context"].shape) == (27,)


def test_the_synthetic_environment_shows_cells_by_default() -> None:
    env = gymnasium.make("SyntheticDogsGlimpse-v0", num_glimpses=1)
    assert env.observation_space["context"].shape == (3, 3, 32)  # type: ignore[index]
    first = env.reset(seed=0)[0]["context"]
    assert first in env.observation_space["context"] and first.std() > 0  # type: ignore[index]
