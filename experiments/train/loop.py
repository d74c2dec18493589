"""Episodes in batches: a split played once in order, or learned from within a budget.

Runs and comparisons train by `training`. An epoch is one pass of the environment's walk; images
that do not fill a batch are left to other epochs, whose order is another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.policy import AttentionPolicy
from agents.rollout import collect
from agents.trajectory import Trajectory
from experiments.train.external_policy import Agent, learns
from experiments.train.factory import PlayEnv
from glimpse_env.vector_env import GlimpseVectorEnv


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of all draws of one epoch, so that an epoch can be played again by itself."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


@dataclass(frozen=True)
class Spent:
    """Amounts that a training has used up."""

    images: int = 0
    """Images learned from; one counts again in every epoch."""
    steps: int = 0
    """Steps of the environments."""
    glimpses: int = 0
    """Glimpses taken, in all of them."""
    seconds: float = 0.0
    """Time within the loop; what is done between two updates does not count."""


@dataclass(frozen=True)
class Budget:
    """How long to train: until one of these is used up; None is no limit.

    Example:
        >>> Budget(steps=100)(Spent(steps=99)), Budget(steps=100)(Spent(steps=100))
        (True, False)
    """

    images: int | None = None
    """Images to learn from, those of every epoch counted."""
    steps: int | None = None
    """Steps of the environments."""
    seconds: float | None = None
    """Time within the loop."""

    def __call__(self, spent: Spent) -> bool:
        """Return whether to go on."""
        limits = (self.images, self.steps, self.seconds)
        used = (spent.images, spent.steps, spent.seconds)
        return all(limit is None or use < limit for limit, use in zip(limits, used, strict=True))


@dataclass(frozen=True)
class Start:
    """Point of an earlier training to go on from."""

    epoch: int = 0
    """Epochs behind it."""
    batch: int = 0
    """Updates made in this epoch."""
    draws: list[dict[str, Any]] = field(default_factory=list)
    """The environment's `random_state` after them."""


@dataclass(frozen=True)
class Update:
    """One update, as the loop hands it out."""

    epoch: int
    """Its epoch, from 0."""
    batch: int
    """Its number in the epoch, from 0."""
    last: bool
    """Whether the epoch ends with it."""
    metrics: dict[str, float]
    """What the agent's `update` returned."""
    glimpses: int
    """Glimpses of its episodes."""
    seconds: float
    """Time it took."""
    spent: Spent
    """What has been used up, this update included."""


def _base(env: VectorEnv) -> GlimpseVectorEnv:
    """Return the environment within its wrappers."""
    base = env.unwrapped
    assert isinstance(base, GlimpseVectorEnv)
    return base


def images_a_batch(env: VectorEnv) -> int:
    """Return how many images an environment shows side by side, those shown several times once."""
    return env.num_envs // _base(env).repeats


def batches_an_epoch(env: VectorEnv, remedy: str) -> int:
    """Return the updates of one epoch.

    Args:
        env: The training environment.
        remedy: What to do if there is none, to end the sentence.

    Raises:
        ValueError: The images fill no batch.
    """
    images, repeats = len(_base(env).dataset), _base(env).repeats
    count = images // images_a_batch(env)
    if not count:
        raise ValueError(
            f"{images} training images ({images * repeats} scanpaths) do not fill a batch of "
            f"{env.num_envs} scanpaths: {remedy}"
        )
    return count


def training(
    agent: Agent,
    env: VectorEnv,
    budget: Callable[[Spent], bool],
    *,
    seed: int,
    start: Start | None = None,
    enrich: Callable[[Trajectory], Trajectory] | None = None,
) -> Iterator[Update]:
    """Train an agent, one update after another, until the budget is used up.

        for update in training(agent, env, Budget(steps=10_000), seed=0):
            print(update.epoch, update.metrics)

    Args:
        agent: It learns by its `update`.
        env: Its walk says which images come; nothing in it resets by itself.
        budget: A `Budget`, or any function that says whether to go on; asked after each update,
            once whoever reads the updates has taken it.
        seed: Of every draw, epoch by epoch.
        start: Where an earlier training stopped; the agent is as it was then.
        enrich: Adds to a trajectory before the agent learns from it.

    Yields:
        The updates.

    Raises:
        ValueError: The images fill no batch.
    """
    start = start or Start()
    images = images_a_batch(env)
    batches = batches_an_epoch(env, "give a smaller --batch-size")
    epoch, done = start.epoch, start.batch
    spent = Spent(images=images * (epoch * batches + done))
    while True:
        reset: dict[str, Any] = {}
        if done:
            _go_on(env, start)
        else:
            agent.set_epoch(epoch)
            agent.seed(epoch_seed(seed, epoch))
            reset = {"seed": epoch_seed(seed, epoch), "options": {"epoch": epoch}}
        for batch in range(done, batches):
            begun = time.perf_counter()
            trajectory = collect(env, agent, grad=True, **reset)
            reset = {}
            if enrich is not None:
                trajectory = enrich(trajectory)
            metrics = agent.update(trajectory)
            seconds = time.perf_counter() - begun
            glimpses = trajectory.num_glimpses * trajectory.batch
            spent = Spent(
                images=spent.images + images,
                steps=spent.steps + trajectory.batch + glimpses,
                glimpses=spent.glimpses + glimpses,
                seconds=spent.seconds + seconds,
            )
            last = batch + 1 == batches
            yield Update(epoch, batch, last, metrics, glimpses, seconds, spent)
            if not budget(spent):
                return
        epoch, done = epoch + 1, 0


def _go_on(env: VectorEnv, start: Start) -> None:
    """Put an environment where it was after some batches of an epoch.

    The place in the walk follows from their number: checkpoints of earlier versions hold none.
    """
    env.reset(options={"epoch": start.epoch})  # on the first batch, and the walk at the second
    base, ahead = _base(env), (start.batch - 1) * images_a_batch(env)
    places = [state["walk"] + ahead for state in base.random_state]
    base.random_state = [
        {**state, "walk": place} for state, place in zip(start.draws, places, strict=True)
    ]


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


def train_within(
    agent: Agent, env: VectorEnv, budget: Callable[[Spent], bool], *, seed: int
) -> None:
    """Train an agent until the budget is used up, if training changes it at all.

    Args:
        agent: See `training`.
        env: See `training`.
        budget: See `training`.
        seed: See `training`.

    Raises:
        ValueError: The images fill no batch.
    """
    if learns(agent):
        for _ in training(agent, env, budget, seed=seed):
            pass
