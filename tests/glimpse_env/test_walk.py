"""The order of every epoch, held as it was drawn when runs were first kept; repeated visits."""

from __future__ import annotations

import numpy as np
import pytest

from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.walk import Walk, epoch_order
from tests.glimpse_env.helpers import action, options


def walked(walk: Walk, num_envs: int, rounds: int) -> np.ndarray:
    return np.stack([walk.advance(np.arange(num_envs)) for _ in range(rounds)])


def test_orders_of_kept_seeds_are_as_they_were() -> None:
    """Runs of before resume in the same order: of training, of one environment, of pretraining."""
    assert epoch_order(10, 3, 2).tolist() == [7, 4, 1, 8, 6, 0, 2, 9, 3, 5]
    assert epoch_order(10, 5, 1, apart=True).tolist() == [6, 7, 1, 8, 4, 3, 0, 5, 2, 9]
    assert epoch_order(10, (7, 1), 2).tolist() == [4, 1, 7, 2, 5, 3, 6, 8, 9, 0]


def test_walks_take_their_orders_from_there() -> None:
    sharded = Walk(10, 2, shuffled=True, order_seed=3, shard=(0, 1))
    sharded.restart(np.arange(2), 2)
    assert walked(sharded, 2, 5).ravel().tolist() == epoch_order(10, 3, 2).tolist()
    alone = Walk(10, 1, shuffled=True, order_seed=None, shard=(0, 1))
    alone.follow(5)
    assert walked(alone, 1, 20)[10:].ravel().tolist() == epoch_order(10, 5, 1, apart=True).tolist()


def test_repeated_visits_show_each_image_side_by_side() -> None:
    single = Walk(10, 2, shuffled=True, order_seed=3, shard=(0, 1))
    blocks = Walk(10, 8, shuffled=True, order_seed=3, shard=(0, 1), repeats=4)
    np.testing.assert_array_equal(walked(blocks, 8, 12), np.repeat(walked(single, 2, 12), 4, 1))


def test_an_environment_shows_each_image_several_times() -> None:
    envs = DogsGlimpseVectorEnv(4, repeats=2, num_glimpses=1, order_seed=1, **options("train"))
    _, infos = envs.reset(seed=0, options={"epoch": 1})
    order = epoch_order(10, 1, 1)
    np.testing.assert_array_equal(infos["image"], np.repeat(order[:2], 2))
    actions = {key: np.stack([value] * 4) for key, value in action().items()}
    for _ in range(2):
        _, _, _, _, infos = envs.step(actions)
    np.testing.assert_array_equal(infos["image"], np.repeat(order[2:4], 2))
    assert len(set(map(str, (envs.np_random_seed)))) == 4  # their other draws are their own


@pytest.mark.parametrize("repeats, error", [(3, ValueError), (0, ValueError), (1.0, TypeError)])
def test_repeats_divide_the_environments(repeats, error) -> None:
    with pytest.raises(error, match="repeats"):
        DogsGlimpseVectorEnv(4, repeats=repeats, **options("train"))
