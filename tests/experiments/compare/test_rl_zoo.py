"""Settings as files of RL Zoo's format, read and used as RL Zoo does."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import glimpse_env  # noqa: F401
from experiments.compare.rl_zoo import FOLDER, zoo_file, zoo_settings
from experiments.compare.settings import ALGORITHMS, settings_for
from glimpse_env.datasets.synthetic import SyntheticDogs

yaml = pytest.importorskip("yaml")


@pytest.mark.parametrize("agent", ALGORITHMS)
def test_the_files_are_of_the_settings_in_use(agent: str) -> None:
    text = (FOLDER / f"{agent}.yml").read_text()
    assert text == zoo_file(agent), "run `python -m experiments.compare.rl_zoo`"
    read = yaml.safe_load(text)
    assert read == {
        "SyntheticDogsGlimpse-v0": zoo_settings(agent, "synthetic"),
        "DogsGlimpse-v0": zoo_settings(agent, "dogs"),
    }
    rate = settings_for(agent, "dogs").learning_rate
    assert read["DogsGlimpse-v0"]["learning_rate"] == rate


def test_small_numbers_stay_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.compare.settings import TUNED

    monkeypatch.setitem(TUNED["dogs"], "ppo", {"learning_rate": 1e-5, "ent_coef": 3e-17})
    read = yaml.safe_load(zoo_file("ppo"))["DogsGlimpse-v0"]
    assert read["learning_rate"] == 1e-5 and read["ent_coef"] == 3e-17


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
