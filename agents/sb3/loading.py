"""Load a saved agent onto an environment, and say what differs where the two do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from agents.sb3.vec_env import SB3VecEnv

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)


def load(algorithm: type[Algorithm], path: str | Path, env: Any, **options: Any) -> Algorithm:
    """Load what `algorithm` saved, to go on training or to play on `env`.

        model = load(PPO, "model.zip", VectorFlatAction(envs))

    Load only what you, or somebody you trust, has saved: Stable-Baselines3 pickles settings into
    its zip files, and loading them can run any code. Of a stranger's file take the weights alone,
    which unpickles nothing: make the algorithm with settings of your own, then
    `model.set_parameters("model.zip", device="cpu")`.

    Args:
        algorithm: PPO, SAC, RecurrentPPO and so on.
        path: The zip file that `save` wrote.
        env: A VecEnv, a vector environment of Gymnasium's behind a flat face (which is adapted), or
            a scalar one.
        **options: For the algorithm's own `load`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The agent knows other spaces than the environment's; the message says which
            parts differ and what to do.
    """
    if isinstance(env, VectorEnv):
        env = SB3VecEnv(env)
    try:
        return algorithm.load(path, env=env, **options)
    except ValueError as error:
        data, _, _ = load_from_zip_file(path, device="cpu")
        assert data is not None
        # Compared as the algorithm sees them: it puts the channels of images first.
        seen = algorithm._wrap_env(env)
        differences = [
            *_differences("observation", data["observation_space"], seen.observation_space),
            *_differences("action", data["action_space"], seen.action_space),
        ]
        if not differences:  # the error is about something else
            raise
        raise ValueError(
            f"{path} was trained on other spaces than this environment's: "
            f"{'; '.join(differences)}. Make the environment with the options of the training run "
            "(encoder, resolutions, observation, choose_scale, data set) and put the same face of "
            "glimpse_env.wrappers around it, or train anew."
        ) from error


def _differences(name: str, trained: spaces.Space, here: spaces.Space) -> list[str]:
    """Describe the differences in words, part by part."""
    if trained == here:
        return []
    if not isinstance(trained, spaces.Dict) or not isinstance(here, spaces.Dict):
        if isinstance(trained, spaces.Box) and isinstance(here, spaces.Box):
            if trained.shape != here.shape:
                return [f"{name} of shape {trained.shape} in training, {here.shape} here"]
        return [f"{name} {trained} in training, {here} here"]
    found = []
    for part in sorted({*trained.spaces, *here.spaces}):
        if part not in here.spaces:
            found.append(f"{part!r} is missing here")
        elif part not in trained.spaces:
            found.append(f"{part!r} was not there in training")
        else:
            found += _differences(repr(part), trained[part], here[part])
    return found
