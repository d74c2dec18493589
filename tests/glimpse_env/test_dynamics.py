"""The walk over the images, the draws of an episode, and what the rules leave untouched."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.error import InvalidAction
from hypothesis import given, settings, strategies as st

from glimpse_env.dynamics import GlimpseDynamics, derived, episode_key
from glimpse_env.observers.patches import context_fixations
from glimpse_env.options import EnvOptions
from glimpse_env.walk import Walk
from tests.glimpse_env.helpers import options


def positions(walk: Walk, num_envs: int, rounds: int) -> np.ndarray:
    rows = np.arange(num_envs)
    return np.stack([walk.advance(rows) for _ in range(rounds)])


@settings(deadline=None, max_examples=60)
@given(
    num_images=st.integers(1, 30),
    num_envs=st.integers(1, 7),
    seed=st.integers(0, 5),
    shuffled=st.booleans(),
)
def test_environments_together_cover_every_epoch_once(num_images, num_envs, seed, shuffled):
    walk = Walk(num_images, num_envs, shuffled=shuffled, order_seed=seed, shard=(0, 1))
    rounds = -(-3 * num_images // num_envs)
    images = positions(walk, num_envs, rounds).ravel()[: 3 * num_images]
    for epoch in images.reshape(3, num_images):
        assert sorted(epoch) == list(range(num_images))
        assert shuffled or list(epoch) == list(range(num_images))


@settings(deadline=None, max_examples=60)
@given(
    num_images=st.integers(1, 30),
    num_envs=st.integers(1, 5),
    shard=st.integers(1, 4).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
    epoch=st.integers(0, 4),
)
def test_an_environment_of_a_batch_walks_as_a_shard_alone(num_images, num_envs, shard, epoch):
    make = {"shuffled": True, "order_seed": 3}
    index, count = shard
    batch = Walk(num_images, num_envs, shard=shard, **make)
    batch.restart(np.arange(num_envs), epoch)
    images = positions(batch, num_envs, 12)
    for b in range(num_envs):
        alone = Walk(num_images, 1, shard=(index + b * count, count * num_envs), **make)
        alone.restart(np.zeros(1, np.int64), epoch)
        np.testing.assert_array_equal(positions(alone, 1, 12)[:, 0], images[:, b])


def test_an_epochs_order_is_the_same_however_it_is_reached():
    rows = np.zeros(1, np.int64)
    straight = Walk(50, 1, shuffled=True, order_seed=1, shard=(0, 1))
    images = positions(straight, 1, 400)[:, 0].reshape(8, 50)
    jumping = Walk(50, 1, shuffled=True, order_seed=1, shard=(0, 1))
    for epoch in (7, 0, 3, 7, 1, 6, 2):
        jumping.restart(rows, epoch)
        np.testing.assert_array_equal(positions(jumping, 1, 50)[:, 0], images[epoch])


@pytest.mark.parametrize("shuffled", [True, False])
def test_an_unsharded_walk_covers_every_epoch_once_from_wherever_it_starts(shuffled):
    for seed in (0, 3, 29, 30, 10**40):
        walk = Walk(30, 1, shuffled=shuffled, order_seed=None, shard=(0, 1))
        walk.follow(seed, first=seed)
        images = positions(walk, 1, 90).reshape(3, 30)
        assert all(sorted(epoch) == list(range(30)) for epoch in images)
        assert shuffled or images[0, 0] == seed % 30


def test_orders_of_seeds_and_epochs_are_unrelated():
    """Of two random orders of N images one place in N agrees: here 1,770 pairs of 60 orders."""
    walk = Walk(200, 1, shuffled=True, order_seed=None, shard=(0, 1))
    orders = []
    for seed in (*range(28), 2**32, 2**32 + 1):
        walk.follow(seed)
        orders += [*positions(walk, 1, 400).reshape(2, 200)]
    agreeing = [(a == b).sum() for i, a in enumerate(orders) for b in orders[:i]]
    # A Poisson count of mean 1: standard error of the mean 0.024.
    assert abs(np.mean(agreeing) - 1) < 0.12 and max(agreeing) < 12
    firsts = {int(order[0]) for order in orders}
    assert len(firsts) > 40, "60 draws from 200 are 52 different ones on average"


def test_a_sharded_walk_is_moved_by_no_seed():
    walk = Walk(30, 1, shuffled=True, order_seed=4, shard=(1, 3))
    images = positions(walk, 1, 12)
    for seed in (0, 7):
        walk.follow(seed, first=seed)
        np.testing.assert_array_equal(positions(walk, 1, 12), images)


def test_a_key_is_a_full_draw_of_64_bits():
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    keys = [episode_key(first) for _ in range(5)]
    assert keys == [int(second.integers(0, 2**64, dtype=np.uint64)) for _ in range(5)]


def test_draws_of_a_key_are_uniform_and_independent():
    keys = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    draws = np.stack([(derived(keys, c) >> np.uint64(11)) * 2.0**-53 for c in range(5)])
    # Standard errors: mean 0.289 / sqrt(n) = 0.002; correlation 1 / sqrt(n) = 0.007.
    np.testing.assert_allclose(draws.mean(axis=1), 0.5, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(draws), np.eye(5), atol=0.035)
    successive = np.arange(20_000, dtype=np.uint64)
    hashed = (derived(successive, 0) >> np.uint64(11)) * 2.0**-53
    assert abs(np.corrcoef(hashed[1:], hashed[:-1])[0, 1]) < 0.035


def test_context_fixations_touch_the_edges_at_one_and_the_middle_at_zero():
    """400 x 200: the patch is 200 wide, so its centre lies between x = 100 and x = 300 of 400."""
    shapes = np.array([(200, 400)] * 3 + [(400, 200)] * 2 + [(300, 300)])
    place = np.float32([[1, 1], [0, 0], [-0.5, -0.5], [1, 1], [-1, -1], [1, 1]])
    expected = [[0.5, 0], [0, 0], [-0.25, 0], [0, 0.5], [0, -0.5], [0, 0]]
    np.testing.assert_allclose(context_fixations(shapes, place), expected, atol=1e-7)


def test_moving_some_rows_leaves_the_others_alone():
    rules = GlimpseDynamics(EnvOptions(**options("train", num_glimpses=2)), num_envs=4)
    every, none = np.arange(4), np.zeros(0, np.int64)
    rules.begin(every, np.arange(4, dtype=np.uint64))
    before = rules.observe(every, none)
    some = np.array([2, 0])
    rules.look(some, np.float32([[0.5, 0.5], [-0.5, -0.5]]))
    after = rules.observe(none, some)
    np.testing.assert_array_equal(rules.looks, [1, 0, 1, 0])
    for name in before:
        np.testing.assert_array_equal(after[name][[1, 3]], before[name][[1, 3]])
    np.testing.assert_array_equal(after["fixation"][[2, 0]], [[0.5, 0.5], [-0.5, -0.5]])
    picked = rules.observation(some)
    for name in after:
        np.testing.assert_array_equal(picked[name], after[name][some])


def test_a_refused_action_changes_nothing():
    from glimpse_env.vector_env import DogsGlimpseVectorEnv

    env, twin = (DogsGlimpseVectorEnv(2, **options("train", num_glimpses=1)) for _ in range(2))
    good = {"fixation": np.zeros((2, 2), np.float32), "label": np.zeros(2, int)}
    env.reset(seed=0), twin.reset(seed=0)
    for bad in (
        {**good, "fixation": np.float32([[0, 0], [np.nan, 0]])},
        {**good, "fixation": np.zeros((1, 2), np.float32)},
    ):
        with pytest.raises(InvalidAction):
            env.step(bad)
    env.step(good), twin.step(good)
    with pytest.raises(InvalidAction):
        env.step({**good, "label": np.array([0, 12])})
    mine, theirs = env.step(good), twin.step(good)
    for name in mine[0]:
        np.testing.assert_array_equal(mine[0][name], theirs[0][name])
    np.testing.assert_array_equal(mine[4]["image"], theirs[4]["image"])
