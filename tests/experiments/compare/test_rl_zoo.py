"""Settings as files of RL Zoo's format, read and used as RL Zoo does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import experiments
import glimpse_env  # noqa: F401
from experiments.compare.settings import ALGORITHMS, ENVIRONMENTS, sb3_arguments, settings_for
from experiments.train.presets import EXPERIMENTS
from glimpse_env.datasets.synthetic import SyntheticDogs

yaml = pytest.importorskip("yaml")

FOLDER = Path(experiments.__file__).parent / "hyperparams"
IDS = {"SyntheticDogsGlimpse-v0": "synthetic", "DogsGlimpse-v0": "dogs"}
SIDES = {"synthetic": 7, "dogs": 3}
"""Points a side of the banks that the settings were searched with."""
EXTRACTOR = "__import__('agents.sb3.features', fromlist=['features']).GlimpseExtractor"


def zoo_settings(agent: str, environment: str) -> dict[str, Any]:
    """The settings of an algorithm for an environment, in RL Zoo's names."""
    settings = settings_for(agent, environment)
    arguments = sb3_arguments(agent, settings)
    run = EXPERIMENTS[ENVIRONMENTS.get(environment, environment)][1]
    scale = {"normalise_features": run.network.normalise_features}
    policy = [f"{name}={value!r}" for name, value in arguments.pop("policy_kwargs").items()]
    policy += [f"features_extractor_class={EXTRACTOR}", f"features_extractor_kwargs={scale!r}"]
    side = getattr(settings, "side", None) or SIDES[environment]
    face = {
        "flat": "glimpse_env.wrappers.FlatAction",
        "lattice": {"glimpse_env.wrappers.LatticeAction": {"side": side}},
        "number": {"glimpse_env.wrappers.LatticeAction": {"side": side, "flat": True}},
    }[ALGORITHMS[agent][1]]
    found = {"env_kwargs": {"context_grid": 1}, "env_wrapper": [face]}
    found |= {"n_envs": settings.num_envs, "n_timesteps": 100_000}
    if "noise_std" in arguments:
        found["noise_type"] = "normal"
    return found | arguments | {"policy_kwargs": f"dict({', '.join(policy)})"}


@pytest.mark.parametrize("agent", ALGORITHMS)
def test_the_files_are_of_the_settings_in_use(agent: str) -> None:
    read = yaml.safe_load((FOLDER / f"{agent}.yml").read_text())
    assert read == {gym_id: zoo_settings(agent, each) for gym_id, each in IDS.items()}


@pytest.mark.parametrize("agent", ["ppo", "ppo-hybrid"])
def test_rl_zoo_can_build_the_algorithm(agent: str) -> None:
    settings = yaml.safe_load((FOLDER / f"{agent}.yml").read_text())["SyntheticDogsGlimpse-v0"]
    # What RL Zoo's ExperimentManager does with them.
    wrapper = settings.pop("env_wrapper")[0]
    path, options = next(iter(wrapper.items())) if isinstance(wrapper, dict) else (wrapper, {})
    face = _by_path(path)
    settings["policy_kwargs"] = eval(settings["policy_kwargs"], {})
    if "." in settings["policy"]:
        settings["policy"] = _by_path(settings["policy"])
    kwargs = settings.pop("env_kwargs")
    settings.pop("n_timesteps")
    settings.pop("n_envs")
    dataset = SyntheticDogs("train", num_images=8)

    def make() -> gym.Env:
        return face(gym.make("SyntheticDogsGlimpse-v0", dataset=dataset, **kwargs), **options)

    env = make_vec_env(make, n_envs=2)
    model = PPO(env=env, **{**settings, "n_steps": 4, "batch_size": 8})
    model.learn(8)
    assert model.num_timesteps == 8


def _by_path(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
