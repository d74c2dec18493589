"""`glimpse record`: episodes of a run's agent as a Minari data set, for offline learning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.see.config import RecordConfig
from experiments.train.loop import batches
from experiments.train.playback import OpenRun, open_run


@dataclass(frozen=True)
class Episode:
    """One episode: T looks and an answer, T + 1 steps.

    The answer shows nothing new, so the observation after it is that before it.
    """

    image: int
    """Index of the image."""
    observations: dict[str, np.ndarray]
    """Before each step and after the last, `[T + 2, ...]`."""
    actions: dict[str, np.ndarray]
    """Action of each step, `[T + 1, ...]`."""
    rewards: np.ndarray
    """Reward of each step, `[T + 1]`: 1 for a right answer, else 0."""


def play_episodes(
    run: OpenRun, agent: str, images: np.ndarray, *, sampled: bool = False, seed: int = 0
) -> Iterator[Episode]:
    """Play images once, in order, and keep everything that an agent could learn from.

    Args:
        run: The run.
        agent: Which of its agents.
        images: Indices.
        sampled: Sample fixations rather than looking at their mean.
        seed: Of the environment's draws and the agent's.
    """
    player, env = run.agents[agent], run.env
    player.seed(seed)
    for positions, count in batches(len(images), env.num_envs):
        observation, _ = env.reset(
            seed=seed + int(positions[0]), options={"image": images[positions]}
        )
        state = player.initial_state(env.num_envs)
        seen, done, earned = [_arrays(observation)], [], []
        for _ in range(run.config.num_glimpses + 1):
            with torch.no_grad():
                action, state = player.act(observation, state, deterministic=not sampled)
            observation, reward, *_ = env.step(action)
            seen.append(_arrays(observation))
            done.append(_arrays(action))
            earned.append(_array(reward))
        for row in range(count):
            yield Episode(
                image=int(images[positions[row]]),
                observations={k: np.stack([each[k][row] for each in seen]) for k in seen[0]},
                actions={k: np.stack([each[k][row] for each in done]) for k in done[0]},
                rewards=np.array([each[row] for each in earned], np.float64),
            )


def record(config: RecordConfig) -> Any:
    """Play a split and write the episodes; returns Minari's data set.

    Raises:
        ValueError: Minari is absent, the name is none or taken, or the run has no such agent.
        RunError: No run there, or no checkpoint yet.
    """
    minari, buffer, path_of, parse = _minari()
    try:
        parse(config.minari)
    except ValueError as error:
        raise ValueError(
            f"--minari takes a name such as glimpse/dogs-v0, with a version, not {config.minari!r}"
        ) from error
    if path_of(config.minari).exists():
        raise ValueError(
            f"Minari has a data set {config.minari!r} already: give another name or version, or "
            f"delete it with `minari delete {config.minari}`"
        )
    run = open_run(
        config.run,
        config.split,
        bank=config.bank,
        live=config.live,
        data_dir=config.data_dir,
        num_images=config.count,
    )
    if config.agent not in run.agents:
        known = ", ".join(run.agents)
        raise ValueError(f"{config.run} has no agent {config.agent!r}: give one of {known}")
    drawn = np.random.default_rng(config.seed).permutation(len(run.dataset))[: config.count]
    buffers, right = [], 0.0
    for episode in play_episodes(
        run, config.agent, np.sort(drawn), sampled=config.sampled, seed=config.seed
    ):
        steps = len(episode.rewards)
        right += float(episode.rewards[-1])
        buffers.append(
            buffer(
                id=len(buffers),
                seed=config.seed,
                options={"image": episode.image},
                observations=episode.observations,
                actions=episode.actions,
                rewards=episode.rewards.tolist(),
                terminations=[False] * (steps - 1) + [True],
                truncations=[False] * steps,
            )
        )
    about = run.describe() | {"agent": config.agent, "sampled": config.sampled}
    with warnings.catch_warnings():
        # Author, licence and the like are for whoever publishes the data set to tell.
        warnings.simplefilter("ignore", UserWarning)
        dataset = minari.create_dataset_from_buffers(
            config.minari,
            buffers,
            observation_space=run.env.single_observation_space,
            action_space=run.env.single_action_space,
            algorithm_name=f"{run.config.policy}, {config.agent}",
            description=json.dumps(about),
            requirements=["glimpse-env"],
        )
    print(
        f"{config.minari}: {dataset.total_episodes:,} episodes, {dataset.total_steps:,} steps, "
        f"{100 * right / len(buffers):.1f}% right; minari.load_dataset({config.minari!r})"
    )
    return dataset


def _minari() -> tuple[Any, Any, Any, Any]:
    """Minari, its episode buffer, where it keeps a data set, and what reads a name."""
    try:
        import h5py  # noqa: F401  Minari's own format
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.storage.local import get_dataset_path
    except ModuleNotFoundError as error:
        raise ValueError(
            f"data sets for offline learning are written by Minari, and {error.name} is not here: "
            "install the extra that brings it, `pip install 'glimpse-env[minari]'`"
        ) from error
    return minari, EpisodeBuffer, get_dataset_path, parse_dataset_id


def _arrays(values: Any) -> dict[str, np.ndarray]:
    return {key: _array(value) for key, value in values.items()}


def _array(value: Any) -> np.ndarray:
    """A copy, since environments may write into what they handed out."""
    return np.array(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
