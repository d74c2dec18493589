"""Gymnasium's own wrappers around the vector and the scalar environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import vector as vector_wrappers

import glimpse_env  # noqa: F401
from glimpse_env.wrappers import (
    FlatAction,
    FlatObservation,
    VectorFlatAction,
    VectorFlatObservation,
)
from tests.clients.helpers import PIXELS

Wrap = Callable[[Any], Any]
COPIES = 3
ANY = tuple(AutoresetMode)
NOT_SAME_STEP = (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)
"""Gymnasium's wrappers of observations refuse SAME_STEP: they do not see its last observations."""

VECTOR: dict[str, tuple[tuple[AutoresetMode, ...], Wrap]] = {
    "RecordEpisodeStatistics": (ANY, vector_wrappers.RecordEpisodeStatistics),
    "DictInfoToList": (ANY, vector_wrappers.DictInfoToList),
    "NormalizeReward": (ANY, vector_wrappers.NormalizeReward),
    "ClipReward": (ANY, lambda env: vector_wrappers.ClipReward(env, 0, 0.5)),
    "TransformReward": (ANY, lambda env: vector_wrappers.TransformReward(env, np.negative)),
    "ClipAction": (ANY, lambda env: vector_wrappers.ClipAction(VectorFlatAction(env))),
    "RescaleAction": (
        ANY,
        lambda env: vector_wrappers.RescaleAction(VectorFlatAction(env), -2.0, 2.0),
    ),
    "FlattenObservation": (NOT_SAME_STEP, vector_wrappers.FlattenObservation),
    "FilterObservation": (
        NOT_SAME_STEP,
        lambda env: vector_wrappers.FilterObservation(env, ["glimpse", "remaining"]),
    ),
    "DtypeObservation": (
        NOT_SAME_STEP,
        lambda env: vector_wrappers.DtypeObservation(VectorFlatObservation(env), np.float64),
    ),
    "NormalizeObservation": (
        (AutoresetMode.NEXT_STEP,),
        lambda env: vector_wrappers.NormalizeObservation(VectorFlatObservation(env)),
    ),
}

SCALAR: dict[str, Wrap] = {
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 50),
    "TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 50)),
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 2),
    "MaxAndSkip of observations": lambda env: wrappers.MaxAndSkipObservation(
        FlatObservation(FlatAction(env)), 2
    ),
    "FlattenObservation": wrappers.FlattenObservation,
    "FilterObservation": lambda env: wrappers.FilterObservation(env, ["context"]),
    "NormalizeReward": wrappers.NormalizeReward,
    "ClipAction": lambda env: wrappers.ClipAction(FlatAction(env)),
    "RescaleAction": lambda env: wrappers.RescaleAction(FlatAction(env), -2.0, 2.0),
    "Autoreset": wrappers.Autoreset,
    "PassiveEnvChecker": wrappers.PassiveEnvChecker,
    "RenderCollection": wrappers.RenderCollection,
}


def vector(mode: AutoresetMode) -> VectorEnv:
    return gymnasium.make_vec(
        "SyntheticDogsGlimpse-v0",
        num_envs=COPIES,
        vectorization_mode="vector_entry_point",
        autoreset_mode=mode,
        split="val",
        **PIXELS,
    )


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, (modes, _) in VECTOR.items() for mode in modes]
)
def test_wrappers_of_the_vector_environment(name: str, mode: AutoresetMode) -> None:
    env = VECTOR[name][1](vector(mode))
    env.reset(seed=0)
    env.action_space.seed(0)
    ends = 0
    for step in range(6):
        if mode == AutoresetMode.DISABLED and step in (2, 4):
            env.reset(options={"reset_mask": np.ones(COPIES, bool)})
        seen, reward, terminated, *_ = env.step(env.action_space.sample())
        assert np.isfinite(reward).all()
        assert seen in env.observation_space
        ends += int(terminated.sum())
    assert ends == (2 if mode == AutoresetMode.NEXT_STEP else 3) * COPIES


def test_statistics_of_episodes() -> None:
    env = vector_wrappers.RecordEpisodeStatistics(vector(AutoresetMode.NEXT_STEP))
    env.reset(seed=0)
    for _ in range(2):
        info = env.step(env.action_space.sample())[-1]
    assert info["episode"]["l"].tolist() == [2] * COPIES


@pytest.mark.parametrize("name", ["FlattenObservation", "FilterObservation"])
def test_wrappers_that_would_miss_the_last_observation_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="autoreset_mode"):
        VECTOR[name][1](vector(AutoresetMode.SAME_STEP))


@pytest.mark.parametrize("name", SCALAR)
def test_wrappers_of_the_scalar_environment(name: str) -> None:
    mode = {"render_mode": "rgb_array"} if name == "RenderCollection" else {}
    env = SCALAR[name](gymnasium.make("SyntheticDogsGlimpse-v0", split="val", **PIXELS, **mode))
    env.action_space.seed(0)
    for episode in range(2):
        seen, info = env.reset(seed=episode)
        assert info["image"] == episode
        terminated = False
        while not terminated:
            assert seen in env.observation_space
            seen, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert not truncated
        assert info["is_success"] in (True, False)
    env.close()
