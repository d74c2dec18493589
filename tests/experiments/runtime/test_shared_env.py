"""An environment that several processes share: each plays its rows of the whole batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from experiments.runtime.distributed import Ranks
from experiments.runtime.shared_env import SharedEnv, share_rows
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.vector_env import DogsGlimpseVectorEnv


def environment(num_envs: int, shard: tuple[int, int] = (0, 1)) -> DogsGlimpseVectorEnv:
    return DogsGlimpseVectorEnv(
        num_envs,
        dataset=SyntheticDogs("train", 10),
        encoder=None,
        observation="pixels",
        resolutions=("high",),
        num_glimpses=1,
        array="torch",
        device="cpu",
        order_seed=3,
        repeats=2,
        shard=shard,
    )


class Together:
    """Threads instead of processes, which gather as `torch.distributed` has processes do."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.slots = count, [None] * count
        self.barrier, self.mine = threading.Barrier(count, timeout=120), threading.local()
        monkeypatch.setattr(dist, "all_gather_object", self.gather)
        monkeypatch.setattr(dist, "all_gather", self.gather)

    def gather(self, parts: list[Any], own: Any) -> None:
        self.slots[self.mine.rank] = own
        self.barrier.wait()
        parts[:] = self.slots
        self.barrier.wait()

    def run(self, work: Callable[[SharedEnv], Any]) -> list[Any]:
        """What each process makes of its share of eight environments."""

        def one(rank: int) -> Any:
            self.mine.rank = rank
            own = environment(8 // self.count, (rank, self.count))
            return work(SharedEnv(own, Ranks(rank, self.count)))

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(one, range(self.count)))


def assert_same(expected: Any, found: Any) -> None:
    if isinstance(expected, dict):
        assert expected.keys() == found.keys()
        for name in expected:
            assert_same(expected[name], found[name])
    elif isinstance(expected, tuple) or (
        isinstance(expected, np.ndarray) and expected.dtype.hasobject
    ):
        for one, two in zip(expected, found, strict=True):
            assert_same(one, two)
    else:
        assert type(expected) is type(found)
        np.testing.assert_array_equal(np.asarray(expected), np.asarray(found))


def test_the_rows_of_all_processes_are_the_batch() -> None:
    for count in (1, 2, 4):
        rows = [share_rows(16, 2, Ranks(rank, count)).tolist() for rank in range(count)]
        assert sorted(row for each in rows for row in each) == list(range(16))
        # An image's repeats stay together.
        assert all(row + 1 in each for each in rows for row in each if row % 2 == 0)
    with pytest.raises(ValueError, match="give a --batch-size that is a multiple of 6"):
        share_rows(16, 2, Ranks(0, 3))


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_play_what_one_would(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    action = {
        "fixation": torch.linspace(-1, 1, 16).reshape(8, 2),
        "label": torch.arange(8) % 3,
    }

    def play(env: Any) -> list[Any]:
        found = []
        for options in ({}, {"epoch": 1}, {"image": np.arange(8) % 5}):
            found.append(env.reset(seed=7, options=options))
            found += [env.step(action), env.step(action)]
        found.append(env.reset())  # on in the walk
        return found

    expected = play(environment(8))
    for found in Together(count, monkeypatch).run(play):
        for one, two in zip(expected, found, strict=True):
            assert_same(one, two)


def test_the_state_of_a_batch_goes_to_any_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = environment(8)
    whole.reset(seed=1)
    states, expected = whole.random_state, whole.reset()

    def go_on(env: SharedEnv) -> tuple[Any, Any, Any]:
        env.reset(seed=5)
        env.random_state = states
        return env.num_envs, env.random_state, env.reset()

    for number, found, observed in Together(2, monkeypatch).run(go_on):
        assert number == 8 and found == states
        assert_same(expected, observed)
