"""DogsGlimpseVectorEnv against SyncVectorEnv of scalar ones, in every autoreset mode."""

from __future__ import annotations

import json
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import glimpse_env  # noqa: F401
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.glimpse_env.helpers import CountingMeans, GridMeans, encoder, equal, make_bank, options

MODES = list(AutoresetMode)
COUNT = 3


def scalars(mode: AutoresetMode, count: int = COUNT, **more: Any) -> SyncVectorEnv:
    def maker(index: int):
        return lambda: DogsGlimpseEnv(**more, shard=(index, count))

    return SyncVectorEnv([maker(index) for index in range(count)], autoreset_mode=mode)


def random_action(generator: np.random.Generator, env: Any) -> dict[str, np.ndarray]:
    count = env.num_envs
    act = {
        "fixation": generator.uniform(-1.1, 1.1, (count, 2)).astype(np.float32),
        "label": generator.integers(0, 12, count),
    }
    if "scale" in env.single_action_space.spaces:
        act["scale"] = generator.uniform(-1, 1, (count, 1)).astype(np.float32)
    return act


def assert_same_run(batch: Any, single: SyncVectorEnv, steps: int, tolerance: float = 0.0) -> None:
    """Step both with the same actions; everything returned must be equal, form included."""
    generator = np.random.default_rng(0)
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    assert batch.metadata["autoreset_mode"] == single.metadata["autoreset_mode"]
    for mine, theirs in zip(batch.reset(seed=11), single.reset(seed=11), strict=True):
        assert equal(mine, theirs, tolerance)
    done = np.zeros(batch.num_envs, bool)
    for step in range(steps):
        if done.any() and batch.metadata["autoreset_mode"] == AutoresetMode.DISABLED:
            for mine, theirs in zip(
                batch.reset(options={"reset_mask": done.copy()}),
                single.reset(options={"reset_mask": done.copy()}),
                strict=True,
            ):
                assert equal(mine, theirs, tolerance), step
        act = random_action(generator, batch)
        mine, theirs = batch.step(act), single.step(act)
        for part, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            assert equal(one, other, tolerance), (step, part, one, other)
        done = mine[2]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("split", ["train", "val"])
def test_pixels_equal_those_of_scalar_environments_byte_for_byte(mode, split):
    common = options(split, context="random", mirror=True, num_glimpses=2)
    batch = DogsGlimpseVectorEnv(COUNT, autoreset_mode=mode, **common)
    assert_same_run(batch, scalars(mode, **common), steps=9)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_features_equal_those_of_scalar_environments(mode):
    common = options("train", observation="both", encoder=encoder(), num_glimpses=1)
    batch = DogsGlimpseVectorEnv(COUNT, autoreset_mode=mode, **common)
    assert_same_run(batch, scalars(mode, **common), steps=6, tolerance=1e-6)


def test_a_zoom_equals_that_of_scalar_environments():
    common = options("train", choose_scale=True, num_glimpses=2)
    batch = DogsGlimpseVectorEnv(COUNT, autoreset_mode="NEXT_STEP", **common)
    assert_same_run(batch, scalars(AutoresetMode.NEXT_STEP, **common), steps=7)


def test_a_bank_serves_a_batch_as_it_serves_one(tmp_path):
    common = options("train", 6, observation="features", num_glimpses=2, context="center")
    common["encoder"] = make_bank(tmp_path, common["dataset"], mirrored=True)
    batch = DogsGlimpseVectorEnv(COUNT, **common)
    assert_same_run(batch, scalars(AutoresetMode.SAME_STEP, **common), steps=9)


def test_a_zoom_of_a_bank_equals_that_of_scalar_environments(tmp_path):
    common = options("train", 6, observation="both", num_glimpses=2, context="center")
    common |= {"choose_scale": True, "resolutions": ("medium",)}
    common["encoder"] = make_bank(tmp_path, common["dataset"], mirrored=True)
    batch = DogsGlimpseVectorEnv(COUNT, autoreset_mode="NEXT_STEP", **common)
    assert_same_run(batch, scalars(AutoresetMode.NEXT_STEP, **common), steps=7)
    asked = np.array([-1, -0.7, -0.2, 0, 0.6, 4], np.float32)
    assert batch.snap_scale(asked).tolist() == [-1, -1, 0, 0, 1, 1]


def test_environments_may_run_out_of_step():
    """Under DISABLED, resets at different times leave every environment on its own course."""
    common = options("train", num_glimpses=2, context="random")
    batch = DogsGlimpseVectorEnv(COUNT, autoreset_mode=AutoresetMode.DISABLED, **common)
    single = scalars(AutoresetMode.DISABLED, **common)
    generator = np.random.default_rng(1)
    batch.reset(seed=4), single.reset(seed=4)
    for step in range(14):
        mask = (batch._dynamics.looks > 2) | (np.arange(COUNT) == step % COUNT)
        mine = batch.reset(options={"reset_mask": mask.copy()})
        theirs = single.reset(options={"reset_mask": mask.copy()})
        assert all(equal(a, b) for a, b in zip(mine, theirs, strict=True)), step
        act = random_action(generator, batch)
        mine, theirs = batch.step(act), single.step(act)
        assert all(equal(a, b) for a, b in zip(mine, theirs, strict=True)), step
    assert len(set(batch._dynamics.looks)) > 1


def test_a_masked_reset_may_seed_and_pick_images():
    common = options("train", num_glimpses=2)
    batch = DogsGlimpseVectorEnv(COUNT, autoreset_mode="DISABLED", **common)
    single = scalars(AutoresetMode.DISABLED, **common)
    for env in (batch, single):
        env.reset(seed=4)
        env.step(random_action(np.random.default_rng(0), env))
    mask = np.array([True, False, True])
    results = [
        env.reset(seed=[5, None, 6], options={"reset_mask": mask.copy(), "image": 7})
        for env in (batch, single)
    ]
    assert all(equal(a, b) for a, b in zip(*results, strict=True))
    np.testing.assert_array_equal(results[0][1]["image"], [7, 0, 7])


def test_each_environment_may_be_given_its_own_image():
    env = DogsGlimpseVectorEnv(COUNT, **options())
    infos = env.reset(options={"image": np.array([5, 3, 9])})[1]
    np.testing.assert_array_equal(infos["image"], [5, 3, 9])
    np.testing.assert_array_equal(env.reset(options={"image": 8})[1]["image"], [8, 8, 8])
    np.testing.assert_array_equal(env.reset()[1]["image"], [0, 1, 2])
    np.testing.assert_array_equal(env.reset(options={"epoch": 2})[1]["image"], [0, 1, 2])


def test_seeds_never_move_the_walk_of_a_vector_environment():
    for split in ("train", "val"):
        env = DogsGlimpseVectorEnv(1, **options(split, 24))
        alone = DogsGlimpseEnv(**options(split, 24, order_seed=0))
        for seed in (3, None, None, 4, None, None):
            image = alone.reset(seed=seed)[1]["image"]
            assert env.reset(seed=seed)[1]["image"].tolist() == [image]


def test_a_saved_state_holds_the_place_in_the_walk():
    env, other = (DogsGlimpseVectorEnv(3, **options("train", 24)) for _ in range(2))
    env.reset(seed=1)
    for _ in range(4):
        env.reset()
    other.reset(seed=9)
    other.random_state = json.loads(json.dumps(env.random_state))
    for mine, theirs in zip(env.reset(), other.reset(), strict=True):
        assert equal(mine, theirs)


def test_a_state_that_was_saved_without_a_place_leaves_the_walk_where_it_is():
    env, other = (DogsGlimpseVectorEnv(3, **options("train", 24)) for _ in range(2))
    env.reset(seed=1), other.reset(seed=9)
    old = [{k: v for k, v in state.items() if k != "walk"} for state in env.random_state]
    other.random_state = old
    for mine, theirs in zip(env.reset(), other.reset(), strict=True):
        assert equal(mine, theirs)


def test_an_evaluation_split_is_covered_once_by_all_together():
    env = DogsGlimpseVectorEnv(4, **options("val", 10, num_glimpses=1))
    images = [*env.reset(seed=0)[1]["image"]]
    act = random_action(np.random.default_rng(0), env)
    while len(images) < 10:
        env.step(act)
        images += [*env.step(act)[4]["image"]]
    assert images[:10] == list(range(10))


def test_shards_of_batches_compose():
    common = options("train", 24, num_glimpses=1)
    whole = DogsGlimpseVectorEnv(6, **common)
    parts = [DogsGlimpseVectorEnv(3, shard=(j, 2), **common) for j in range(2)]
    for _ in range(3):
        images = whole.reset()[1]["image"]
        for j, part in enumerate(parts):
            np.testing.assert_array_equal(part.reset()[1]["image"], images[j::2])


def test_a_list_of_seeds_and_none_go_on_or_restart_each_environment():
    env = DogsGlimpseVectorEnv(2, **options("train", context="random"))
    first = env.reset(seed=[3, 9])[0]["context"]
    second = env.reset()[0]["context"]
    again = env.reset(seed=[3, None])[0]["context"]
    np.testing.assert_array_equal(again[0], first[0])
    assert not np.array_equal(again[1], second[1])
    assert env.np_random_seed[0] == 3 and len(env.np_random) == 2


def test_last_observations_share_no_memory_with_later_ones():
    env = DogsGlimpseVectorEnv(2, **options(num_glimpses=1))
    twin = DogsGlimpseVectorEnv(2, **options(num_glimpses=1))
    seen, expected = env.reset(seed=0)[0], twin.reset(seed=0)[0]
    for step in range(6):
        act = random_action(np.random.default_rng(step), env)
        assert equal(seen, expected), step
        for value in seen.values():
            value[...] = 1
        seen, *_, infos = env.step(act)
        expected, *_, expected_infos = twin.step(act)
        assert equal(infos, expected_infos)
        for row in infos.get("final_obs", ()):
            for value in row.values():
                value[...] = 2


# -- tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_tensors_hold_what_arrays_hold(mode):
    common = options("train", observation="both", encoder=encoder(), num_glimpses=1)
    arrays = DogsGlimpseVectorEnv(COUNT, autoreset_mode=mode, **common)
    tensors = DogsGlimpseVectorEnv(COUNT, autoreset_mode=mode, array="torch", **common)

    def check(one: dict[str, np.ndarray], other: dict[str, torch.Tensor]) -> None:
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert isinstance(other[name], torch.Tensor)
            assert not other[name].is_inference()
            np.testing.assert_array_equal(value, other[name].numpy())

    check(arrays.reset(seed=0)[0], tensors.reset(seed=0)[0])
    for step in range(5):
        if mode == AutoresetMode.DISABLED and step in (2, 4):
            check(arrays.reset()[0], tensors.reset()[0])
        act = random_action(np.random.default_rng(step), arrays)
        given = {name: torch.from_numpy(value) for name, value in act.items()}
        one, other = arrays.step(act), tensors.step(given)
        check(one[0], other[0])
        assert [value.dtype for value in other[1:4]] == [torch.float32, torch.bool, torch.bool]
        for part in (1, 2, 3):
            np.testing.assert_array_equal(one[part], other[part].numpy())
        for row in np.flatnonzero(one[4].get("_final_obs", [])):
            check(one[4]["final_obs"][row], other[4]["final_obs"][row])
        infos = [{k: v for k, v in run[4].items() if k != "final_obs"} for run in (one, other)]
        assert equal(*infos)


def test_an_agent_can_train_on_the_tensors_it_gets():
    env = DogsGlimpseVectorEnv(2, array="torch", **options(observation="features"))
    seen = env.reset(seed=0)[0]
    weight = torch.ones(seen["context"].shape[1], requires_grad=True)
    (seen["context"] @ weight).sum().backward()
    np.testing.assert_allclose(weight.grad, seen["context"].sum(0))


# -- cost --------------------------------------------------------------------------------------


def test_the_encoder_is_called_once_a_step_for_all_environments():
    common = options("train", observation="features", encoder=CountingMeans(), num_glimpses=1)
    env = DogsGlimpseVectorEnv(4, autoreset_mode="DISABLED", **common)
    calls = CountingMeans.calls
    calls.clear()
    env.reset(seed=0)
    act = random_action(np.random.default_rng(0), env)
    env.step(act)
    assert calls == [4, 12], "four contexts, then three patches each"
    env.reset(options={"reset_mask": np.array([True, True, False, False])})
    assert calls[2:] == [2]
    env.step(act)
    assert calls[3:] == [6], "two look, two answer"

    env = DogsGlimpseVectorEnv(4, autoreset_mode="NEXT_STEP", **common)
    env.reset(seed=0)
    env.step(act)
    env.reset(options={"reset_mask": np.array([True, False, False, False])})
    env.step(act)
    calls.clear()
    env.step(act)
    assert calls == [3], "one answers, three begin"
    env.step(act)
    assert calls[1:] == [9 + 1], "three look while one begins: one call for all"


# -- Gymnasium ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_make_vec(mode):
    more = {"autoreset_mode": "NEXT_STEP"} if mode == "vector_entry_point" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make_vec(
            "SyntheticDogsGlimpse-v0", num_envs=2, vectorization_mode=mode, **options(), **more
        )
    seen, _ = env.reset(seed=0)
    assert seen in env.observation_space
    for _ in range(5):
        seen, rewards, *_ = env.step(env.action_space.sample())
        assert seen in env.observation_space and rewards.shape == (2,)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env.close()
    env.close()


def test_the_default_mode_is_same_step_and_names_and_values_do():
    assert DogsGlimpseVectorEnv(1, **options()).metadata["autoreset_mode"] is (
        AutoresetMode.SAME_STEP
    )
    for mode in AutoresetMode:
        for given in (mode, mode.name, mode.value):
            env = DogsGlimpseVectorEnv(1, autoreset_mode=given, **options())
            assert env.metadata["autoreset_mode"] is mode
    assert DogsGlimpseVectorEnv.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_statistics_of_gymnasium_work_on_top():
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        DogsGlimpseVectorEnv(2, **options(num_glimpses=2))
    )
    env.reset(seed=0)
    own = env.unwrapped
    truth = own.dataset.labels[own._dynamics.image]
    act = {"fixation": np.zeros((2, 2), np.float32), "label": truth}
    for _ in range(3):
        infos = env.step(act)[4]
    episode = infos.get("episode") or infos["final_info"]["episode"]
    np.testing.assert_array_equal(episode["r"], [1, 1])
    np.testing.assert_array_equal(episode["l"], [3, 3])


@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED"])
def test_a_step_needs_a_reset(mode):
    env = DogsGlimpseVectorEnv(2, autoreset_mode=mode, **options(num_glimpses=1))
    act = random_action(np.random.default_rng(0), env)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(act)
    env.reset()
    env.step(act)
    env.step(act)
    if mode == "DISABLED":
        with pytest.raises(ResetNeeded, match="reset_mask"):
            env.step(act)
    else:
        env.step(act)


def test_rendering_gives_a_frame_for_each():
    env = DogsGlimpseVectorEnv(3, render_mode="rgb_array", **options())
    with pytest.raises(ResetNeeded):
        env.render()
    env.reset(seed=0)
    env.step(random_action(np.random.default_rng(0), env))
    frames = env.render()
    assert isinstance(frames, tuple) and [frame.shape for frame in frames] == [(480, 480, 3)] * 3
    env.close()
    env.close()


def test_features_do_not_depend_on_who_else_is_in_the_batch():
    runs = []
    for count in (1, 5):
        env = DogsGlimpseVectorEnv(count, **options(observation="features", encoder=GridMeans()))
        env.reset(seed=0, options={"image": 1})
        act = {"fixation": np.full((count, 2), 0.2, np.float32), "label": np.zeros(count, int)}
        runs.append(env.step(act)[0]["glimpse"][0])
    np.testing.assert_allclose(*runs, atol=1e-6)
