"""Recipes of the field as policies from outside: they play both games, learn, and are short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import experiments.recipes
from agents.policy import check_policy, load_policy
from agents.rollout import collect
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.glimpse_env.helpers import options

RECIPES = ("experiments.recipes.fall_ppo:FallPPO", "experiments.recipes.label_sac:LabelSAC")


def an_env() -> DogsGlimpseVectorEnv:
    chosen = options("train", 12, observation="features", resolutions=("high",), num_glimpses=2)
    return DogsGlimpseVectorEnv(4, array="torch", autoreset_mode="DISABLED", **chosen)


def build(path: str, env: Any, **own: Any) -> Any:
    torch.manual_seed(0)
    return load_policy(path)(env.single_observation_space, env.single_action_space, **own)


@pytest.mark.parametrize("path", RECIPES)
def test_a_recipe_learns_the_look_and_name_game(path: str) -> None:
    env = an_env()
    policy = check_policy(build(path, env, width=16))
    images = np.arange(4)
    losses = []
    for step in range(30):
        played = collect(env, policy, seed=step, options={"image": images}, grad=True)
        metrics = policy.update(played)  # type: ignore[attr-defined]
        assert np.isfinite(list(metrics.values())).all()
        losses.append(metrics["label_loss"])
    assert np.mean(losses[-5:]) < np.mean(losses[:5]), "four images can be learned by heart"
    assert ((-1 <= played.fixations) & (played.fixations <= 1)).all()


@pytest.mark.parametrize("path", RECIPES)
def test_a_recipe_is_saved_and_acts_again_alike(path: str) -> None:
    env = an_env()
    one, other = build(path, env, width=16), build(path, env, width=16, seed=7)
    one.update(collect(env, one, seed=0, grad=True))
    other.load_state_dict(one.state_dict())
    found = [
        collect(env, each, seed=1, options={"image": np.arange(4)}, deterministic=True).fixations
        for each in (one, other)
    ]
    torch.testing.assert_close(*found)


def test_recipes_are_short() -> None:
    for path in Path(experiments.recipes.__file__).parent.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 200
