"""The training loop that runs and comparisons share: budgets, epochs, going on within one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from experiments.train.loop import Budget, Spent, Start, epoch_seed, training
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.walk import epoch_order
from tests.glimpse_env.helpers import options


class Learner:
    """Looks at the middle, and takes note of what it is given to learn from."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.epochs: list[int] = []
        self.images: list[list[int]] = []

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def initial_state(self, batch: int) -> None:
        return None

    def act(self, observation: Any, state: Any, *, deterministic: bool = False) -> Any:
        batch = observation["remaining"].shape[0]
        return {"fixation": torch.zeros(batch, 2), "label": torch.zeros(batch).long()}, None

    def update(self, trajectory: Any) -> dict[str, float]:
        self.images.append(trajectory.images.tolist())
        return {"loss": float(len(self.images))}


def environment(num_envs: int = 4, repeats: int = 1) -> DogsGlimpseVectorEnv:
    return DogsGlimpseVectorEnv(
        num_envs,
        repeats=repeats,
        num_glimpses=1,
        order_seed=3,
        autoreset_mode=AutoresetMode.DISABLED,
        **options("train"),
    )


def learn(env: Any, budget: Any, **more: Any) -> tuple[Learner, list]:
    agent = Learner()
    return agent, list(training(agent, env, budget, seed=3, **more))  # type: ignore[arg-type]


def expected(epoch: int, size: int, repeats: int = 1) -> list[list[int]]:
    order = epoch_order(10, 3, epoch)
    whole = order[: 10 // size * size].reshape(-1, size)
    return np.repeat(whole, repeats, axis=1).tolist()


@pytest.mark.parametrize("num_envs, repeats", [(4, 1), (4, 2)])
def test_epochs_follow_one_another_in_the_order_of_the_seed(num_envs: int, repeats: int) -> None:
    size = num_envs // repeats
    agent, updates = learn(environment(num_envs, repeats), Budget(images=2 * (10 // size) * size))
    assert agent.images == expected(0, size, repeats) + expected(1, size, repeats)
    assert agent.epochs == [0, 1] and agent.seeds == [epoch_seed(3, 0), epoch_seed(3, 1)]
    assert [(each.epoch, each.batch) for each in updates if each.last] == [
        (0, 10 // size - 1),
        (1, 10 // size - 1),
    ]


def test_a_budget_of_any_kind_ends_it_after_an_update() -> None:
    assert len(learn(environment(), Budget(images=9))[1]) == 3  # of four images each
    assert len(learn(environment(), Budget(steps=16))[1]) == 2  # of four environments, two steps
    assert len(learn(environment(), Budget(seconds=0.0))[1]) == 1
    assert len(learn(environment(), lambda spent: spent.steps < 20)[1]) == 3


def test_budgets_are_used_up() -> None:
    assert Budget()(Spent(10**9, 10**9, 10**9, 1e9))
    assert Budget(images=5, steps=9)(Spent(4, 8, 9, 1e9))
    assert not Budget(images=5, steps=9)(Spent(4, 9))


@pytest.mark.parametrize("forgetful", [False, True], ids=["own state", "state of before walks"])
def test_it_goes_on_within_an_epoch(forgetful: bool) -> None:
    env = environment(2)
    whole, _ = learn(env, Budget(images=20))
    env = environment(2)
    first, _ = learn(env, Budget(images=14))
    draws = env.random_state
    if forgetful:  # checkpoints of runs that went around the walk
        draws = [{**state, "walk": row} for row, state in enumerate(draws)]
    second, _ = learn(environment(2), Budget(images=20), start=Start(1, 2, draws))
    assert first.images + second.images == whole.images
    assert second.epochs == [] and second.seeds == [], "the agent goes on with its own draws"


def test_what_is_added_to_a_trajectory_is_learned_from() -> None:
    agent, _ = learn(
        environment(),
        Budget(steps=1),
        enrich=lambda each: SimpleNamespace(images=each.images + 100, batch=4, num_glimpses=1),
    )
    assert min(agent.images[0]) >= 100


def test_too_few_images_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10 training images .* batch of 16 scanpaths"):
        learn(environment(16), Budget())


def test_seeds_of_epochs_differ() -> None:
    assert len({epoch_seed(s, e) for s in range(5) for e in range(5)}) == 25
