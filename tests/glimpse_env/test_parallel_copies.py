"""Copies of the environment as other libraries make and seed them: each sees images of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

import glimpse_env  # noqa: F401
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.wrappers import FlatAction

COPIES, EPISODES, IMAGES = 8, 6, 60
SHARE = 0.95
"""Of the number of distinct images that independent orders give."""


def given(split: str = "train", **more: Any) -> dict[str, Any]:
    dataset = SyntheticDogs(split, num_images=IMAGES)
    return {
        "dataset": dataset,
        "observation": "pixels",
        "resolutions": ("high",),
        "num_glimpses": 1,
        "device": "cpu",
        "storage": "demand",
        **more,
    }


def expected(copies: int = COPIES, episodes: int = EPISODES, images: int = IMAGES) -> float:
    """Distinct images that so many independent orders show, each without replacement."""
    return images * (1 - (1 - episodes / images) ** copies)


def assert_own_images(rounds: Iterable[Iterable[int]]) -> None:
    """Check images seen [episodes][copies]: distinct enough, each copy's without repetition."""
    seen = np.array([list(images) for images in rounds])
    assert seen.shape == (EPISODES, COPIES)
    assert all(len(set(column)) == EPISODES for column in seen.T)
    assert len(set(seen.ravel().tolist())) >= SHARE * expected(), seen


def vector_rounds(envs: Any, seed: int | None) -> list[list[int]]:
    infos = envs.reset(seed=seed)[1]
    rounds = [infos["image"].tolist()]
    envs.action_space.seed(0)
    while len(rounds) < EPISODES:
        for _ in range(2):
            infos = envs.step(envs.action_space.sample())[-1]
        rounds.append(infos["image"].tolist())
    return rounds


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_own_vectorization(mode):
    envs = gymnasium.make_vec(
        "SyntheticDogsGlimpse-v0",
        num_envs=COPIES,
        vectorization_mode=mode,
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        **given(),
    )
    assert_own_images(vector_rounds(envs, seed=0))
    envs.close()


def test_gymnasiums_own_vectorization_where_nobody_seeds():
    """No seed can be chosen here, and the average of 34 images has a standard deviation of 2.5."""
    envs = gymnasium.make_vec(
        "SyntheticDogsGlimpse-v0", num_envs=COPIES, vectorization_mode="sync", **given()
    )
    images = [envs.reset()[1]["image"] for _ in range(EPISODES)]
    assert len(set(np.array(images).ravel().tolist())) >= 0.65 * expected()
    envs.close()


def sb3_rounds(envs: VecEnv) -> list[list[int]]:
    envs.reset()
    rounds = [[info["image"] for info in envs.reset_infos]]
    actions = np.zeros((COPIES, *envs.action_space.shape), np.float32)
    while len(rounds) < EPISODES:
        for _ in range(2):
            envs.step(actions)
        rounds.append([info["image"] for info in envs.reset_infos])
    return rounds


@pytest.mark.parametrize("kind", [None, SubprocVecEnv], ids=["one process", "processes"])
def test_stable_baselines3s_make_vec_env(kind):
    envs = make_vec_env(
        "SyntheticDogsGlimpse-v0",
        n_envs=COPIES,
        seed=0,
        wrapper_class=FlatAction,
        env_kwargs=given(),
        vec_env_cls=kind,
        vec_env_kwargs={"start_method": "fork"} if kind else None,
    )
    assert_own_images(sb3_rounds(envs))
    envs.close()


class _Recorder(gymnasium.Wrapper):
    seen: list[int]

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.seen = []

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.seen.append(info["image"])
        return observation, info


def test_stable_baselines3s_evaluate_policy_sees_the_split_once():
    class Idle:
        def predict(self, observation: Any, **_: Any) -> Any:
            return np.zeros((1, 14), np.float32), None

    env = _Recorder(FlatAction(gymnasium.make("SyntheticDogsGlimpse-v0", **given("val"))))
    evaluate_policy(Idle(), env, n_eval_episodes=IMAGES, warn=False)  # type: ignore[arg-type]
    assert env.seen[:IMAGES] == list(range(IMAGES))


@pytest.mark.parametrize("first", [0, 100, 10**9])
@pytest.mark.parametrize("split", ["train", "val"])
def test_loops_that_seed_every_episode(first, split):
    env = gymnasium.make("SyntheticDogsGlimpse-v0", **given(split))
    images = [env.reset(seed=first + i)[1]["image"] for i in range(IMAGES)]
    if split == "val":
        assert images == [(first + i) % IMAGES for i in range(IMAGES)]
    else:  # one draw each: 63% are distinct on average, with a standard deviation of 4%
        assert len(set(images)) >= 0.5 * IMAGES
    assert [env.reset(seed=first + i)[1]["image"] for i in range(IMAGES)] == images


def test_copies_with_shards_cover_an_evaluation_split_once():
    count = 7
    makers: list[Callable[[], gymnasium.Env]] = [
        lambda i=i: gymnasium.make("SyntheticDogsGlimpse-v0", **given("val", shard=(i, count)))
        for i in range(count)
    ]
    envs = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    images = envs.reset(seed=3)[1]["image"].tolist()
    while len(images) < IMAGES:
        images += envs.reset()[1]["image"].tolist()
    assert images[:IMAGES] == list(range(IMAGES))


@pytest.mark.parametrize(
    "wrap",
    [
        gymnasium.wrappers.RecordEpisodeStatistics,
        gymnasium.wrappers.Autoreset,
        gymnasium.wrappers.FlattenObservation,
        lambda env: gymnasium.wrappers.TimeLimit(env, 5),
    ],
    ids=["RecordEpisodeStatistics", "Autoreset", "FlattenObservation", "TimeLimit"],
)
def test_wrapped_copies(wrap):
    envs = [wrap(gymnasium.make("SyntheticDogsGlimpse-v0", **given())) for _ in range(COPIES)]
    rounds = [[env.reset(seed=i)[1]["image"] for i, env in enumerate(envs)]]
    while len(rounds) < EPISODES:
        rounds.append([env.reset()[1]["image"] for env in envs])
    assert_own_images(rounds)
    assert isinstance(envs[0].action_space, spaces.Dict)
