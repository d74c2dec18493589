"""Images of a split in batches, and the episodes played on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from agents.policy import AttentionPolicy
from agents.rollout import collect
from agents.trajectory import Trajectory
from experiments.train.factory import PlayEnv


def batches(num_images: int, batch_size: int) -> list[tuple[np.ndarray, int]]:
    """Every image once, in order: (indices [B], how many count); the last batch is padded."""
    parts = []
    for start in range(0, num_images, batch_size):
        images = np.arange(start, min(start + batch_size, num_images))
        parts.append((np.resize(images, batch_size), len(images)))
    return parts


def episodes(
    policy: AttentionPolicy,
    env: PlayEnv,
    images: np.ndarray,
    *,
    deterministic: bool = True,
    seed: int = 0,
) -> Iterator[tuple[Trajectory, int]]:
    """Play images, each once and in order: batch by batch, and how many rows of it count."""
    for positions, count in batches(len(images), env.num_envs):
        yield (
            collect(
                env,
                policy,
                seed=seed + int(positions[0]),
                options={"image": images[positions]},
                deterministic=deterministic,
            ),
            count,
        )
