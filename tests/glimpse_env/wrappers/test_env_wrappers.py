"""Flat wrappers: spaces, meaning, scalar against vector, and Stable-Baselines3 on top."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import glimpse_env  # noqa: F401
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers import (
    FixationOnly,
    FlatAction,
    FlatObservation,
    LatticeAction,
    VectorFixationOnly,
    VectorFlatAction,
    VectorFlatObservation,
    VectorLatticeAction,
)
from tests.glimpse_env.helpers import FEATURES, GridMeans, action, encoder, equal, options

K = 12


def classifier(history: dict[str, Any]) -> np.ndarray:
    """Logits that depend on all that a classifier is shown."""
    glimpse = np.asarray(history["glimpse"], np.float64)
    fixation = np.asarray(history["fixation"], np.float64)
    assert glimpse.shape[:2] == fixation.shape[:2]
    batch = glimpse.shape[1]
    flat = glimpse.mean(axis=0).reshape(batch, -1)[:, :K]
    context = np.asarray(history["context"], np.float64).reshape(batch, -1)[:, :K]
    steps = np.arange(1, len(fixation) + 1)[:, None]
    return 3 * flat - 2 * context + (steps * fixation.sum(axis=2)).sum(axis=0)[:, None] * flat


FACES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "flat action": (FlatAction, VectorFlatAction),
    "lattice": (lambda env: LatticeAction(env, 5), lambda env: VectorLatticeAction(env, 5)),
    "flat lattice": (
        lambda env: LatticeAction(env, 3, flat=True),
        lambda env: VectorLatticeAction(env, 3, flat=True),
    ),
    "flat observation": (FlatObservation, VectorFlatObservation),
    "both": (
        lambda env: FlatObservation(FlatAction(env)),
        lambda env: VectorFlatObservation(VectorFlatAction(env)),
    ),
    "fixation only": (
        lambda env: FixationOnly(env, classifier),
        lambda env: VectorFixationOnly(env, classifier),
    ),
    "likelihood": (
        lambda env: FixationOnly(env, classifier, reward="log_likelihood"),
        lambda env: VectorFixationOnly(env, classifier, reward="log_likelihood"),
    ),
}


# -- spaces and meaning ------------------------------------------------------------------------


def test_a_flat_action_is_a_fixation_then_logits():
    env = FlatAction(DogsGlimpseEnv(**options(num_glimpses=1)))
    plain = DogsGlimpseEnv(**options(num_glimpses=1))
    assert env.action_space == spaces.Box(-1, 1, (2 + K,), np.float32)
    env.reset(seed=0), plain.reset(seed=0)
    act = np.zeros(2 + K, np.float32)
    act[:2] = 0.25, -0.5
    seen = env.step(act)[0]
    expected = plain.step(action(0.25, -0.5))[0]
    np.testing.assert_array_equal(seen["fixation"], expected["fixation"])
    np.testing.assert_array_equal(seen["glimpse"].reshape(3, 96, 96, 3), expected["glimpse"])
    truth = env.unwrapped.dataset.labels[0]
    act[2:] = -1
    act[2 + truth] = -0.5
    assert env.step(act)[1] == 1.0


@pytest.mark.parametrize("observation", ["features", "pixels", "both"])
def test_flat_wrappers_join_the_patches_of_a_glimpse(observation):
    env = FlatAction(DogsGlimpseEnv(**options(observation=observation, encoder=encoder())))
    shapes = {name: box.shape for name, box in env.observation_space.spaces.items()}
    tall = (3 * 96, 96, 3)
    if observation == "both":
        assert (shapes["glimpse"], shapes["glimpse_pixels"]) == ((3 * FEATURES,), tall)
    else:
        assert shapes["glimpse"] == (tall if observation == "pixels" else (3 * FEATURES,))
    assert env.reset(seed=0)[0] in env.observation_space
    assert env.step(env.action_space.sample())[0] in env.observation_space


def test_a_lattice_action_looks_at_the_centres_of_cells():
    env = LatticeAction(DogsGlimpseEnv(**options(num_glimpses=4)), 3)
    assert env.action_space == spaces.MultiDiscrete([9, K])
    env.reset(seed=0)
    seen = [env.step(np.array([point, 0]))[0]["fixation"] for point in (0, 2, 4, 7)]
    third = 2 / 3
    expected = [[-third, -third], [third, -third], [0, 0], [0, third]]
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    truth = int(env.unwrapped.dataset.labels[0])
    assert env.step(np.array([0, truth]))[1] == 1.0


@pytest.mark.parametrize("side, count", [(3, K), (5, 25)])
def test_one_number_is_a_cell_while_looking_and_a_class_at_the_answer(side, count):
    env = LatticeAction(DogsGlimpseEnv(**options(num_glimpses=count)), side, flat=True)
    pairs = LatticeAction(DogsGlimpseEnv(**options(num_glimpses=count)), side)
    assert env.action_space == spaces.Discrete(count)
    env.reset(seed=0), pairs.reset(seed=0)
    for number in range(count):
        cell = np.array([number % side**2, 0])
        np.testing.assert_array_equal(
            env.step(number)[0]["fixation"], pairs.step(cell)[0]["fixation"]
        )
    truth = int(env.unwrapped.dataset.labels[0])
    assert env.step(np.int64(count - K + (truth - count) % K))[1] == 1.0
    env.reset(options={"image": 0})
    for _ in range(count):
        env.step(0)
    assert env.step((truth + 1) % K)[1] == 0.0


@pytest.mark.parametrize("observation", ["features", "pixels", "both"])
def test_a_flat_observation_is_what_gymnasium_would_flatten(observation):
    common = options(observation=observation, encoder=encoder())
    mine = FlatObservation(DogsGlimpseEnv(**common))
    theirs = gymnasium.wrappers.FlattenObservation(DogsGlimpseEnv(**common))
    assert mine.observation_space == theirs.observation_space
    np.testing.assert_array_equal(mine.reset(seed=1)[0], theirs.reset(seed=1)[0])
    np.testing.assert_array_equal(mine.step(action(0.5))[0], theirs.step(action(0.5))[0])
    assert mine.step(action())[0].dtype == np.float32


def test_a_zoom_stands_between_fixation_and_logits():
    env = FlatAction(DogsGlimpseEnv(**options(choose_scale=True, num_glimpses=1)))
    plain = DogsGlimpseEnv(**options(choose_scale=True, num_glimpses=1))
    assert env.action_space.shape == (3 + K,)
    env.reset(seed=0), plain.reset(seed=0)
    seen = env.step(np.float32([0.2, 0.2, -0.5, *range(K)]))[0]["glimpse"]
    scaled = action(0.2, 0.2) | {"scale": np.float32([-0.5])}
    np.testing.assert_array_equal(seen.reshape(3, 96, 96, 3), plain.step(scaled)[0]["glimpse"])
    with pytest.raises(ValueError, match="choose_scale=False"):
        LatticeAction(DogsGlimpseEnv(**options(choose_scale=True)), 3)
    assert FixationOnly(DogsGlimpseEnv(**options(choose_scale=True)), classifier).action_space == (
        spaces.Box(-1, 1, (3,), np.float32)
    )


# -- FixationOnly ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_glimpses", [1, 3])
def test_the_classifier_is_shown_the_whole_episode_and_answers_with_the_last_look(num_glimpses):
    shown: list[dict[str, np.ndarray]] = []

    def answer(history):
        shown.append(history)
        return np.eye(K)[[5]]

    env = FixationOnly(
        DogsGlimpseEnv(**options(observation="both", num_glimpses=num_glimpses)), answer
    )
    plain = DogsGlimpseEnv(**options(observation="both", num_glimpses=num_glimpses))
    assert env.action_space == spaces.Box(-1, 1, (2,), np.float32)
    for seed in (3, 4):
        env.reset(seed=seed, options={"image": 1}), plain.reset(seed=seed, options={"image": 1})
        looks = []
        for look in range(num_glimpses):
            where = np.float32([0.1 * look, -0.2])
            _, reward, terminated, truncated, info = env.step(where)
            looks.append(plain.step({"fixation": where, "label": 0})[0])
            assert terminated is (look == num_glimpses - 1) and truncated is False
        assert type(reward) is float and reward == float(info["label"] == 5)
        assert info["is_success"] is bool(reward)
        history = shown[-1]
        for name in ("glimpse", "glimpse_pixels", "fixation"):
            np.testing.assert_array_equal(history[name][:, 0], [look[name] for look in looks])
        for name in ("context", "context_pixels"):
            np.testing.assert_array_equal(history[name][0], looks[0][name])
        assert "remaining" not in history
    assert len(shown) == 2


def test_the_log_likelihood_is_that_of_the_truth():
    logits = np.log(np.arange(1.0, K + 1))[None]
    env = FixationOnly(
        DogsGlimpseEnv(**options(num_glimpses=1)), lambda _: logits, "log_likelihood"
    )
    for _ in range(3):
        env.reset()
        _, reward, _, _, info = env.step(np.zeros(2, np.float32))
        assert type(reward) is float
        assert reward == pytest.approx(np.log((info["label"] + 1) / (K * (K + 1) / 2)))


def test_logits_may_be_tensors_on_a_graph():
    weight = torch.zeros(K, requires_grad=True)
    env = FixationOnly(DogsGlimpseEnv(**options(num_glimpses=1)), lambda _: weight[None])
    env.reset(seed=0)
    assert env.step(np.zeros(2))[2] is True


def test_a_classifier_cannot_be_fooled_through_the_callers_copy():
    rewards = []
    for meddle in (False, True):
        env = FixationOnly(DogsGlimpseEnv(**options(num_glimpses=2)), classifier, "log_likelihood")
        seen = env.reset(seed=0)[0]
        for _ in range(2):
            if meddle:
                for value in seen.values():
                    value[...] = 0
            seen, reward, *_ = env.step(np.float32([0.3, 0.3]))
        rewards.append(reward)
    assert rewards[0] == rewards[1]


def test_episodes_out_of_step_are_refused():
    env = VectorFixationOnly(
        DogsGlimpseVectorEnv(2, autoreset_mode="DISABLED", **options(num_glimpses=2)), classifier
    )
    env.reset(seed=0)
    env.step(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="in step"):
        env.reset(options={"reset_mask": np.array([True, False])})


# -- scalar against vector ---------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("observation", ["features", "pixels"])
def test_vector_wrappers_equal_scalar_ones(face, mode, observation):
    scalar, vector = FACES[face]
    common = options("train", num_glimpses=2, observation=observation, encoder=encoder())

    def maker(index: int) -> Callable[[], gymnasium.Env]:
        return lambda: scalar(DogsGlimpseEnv(**common, shard=(index, 2)))

    single = SyncVectorEnv([maker(0), maker(1)], autoreset_mode=mode)
    batch = vector(DogsGlimpseVectorEnv(2, autoreset_mode=mode, **common))
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    assert batch.single_action_space == single.single_action_space
    batch.action_space.seed(0)
    runs = [env.reset(seed=2) for env in (batch, single)]
    assert all(equal(a, b, 1e-6) for a, b in zip(*runs, strict=True))
    done = np.zeros(2, bool)
    for _ in range(8):
        if done.any() and mode == AutoresetMode.DISABLED:
            runs = [env.reset(options={"reset_mask": done.copy()}) for env in (batch, single)]
            assert all(equal(a, b, 1e-6) for a, b in zip(*runs, strict=True))
        act = batch.action_space.sample()
        runs = [env.step(act) for env in (batch, single)]
        assert all(equal(a, b, 1e-6) for a, b in zip(*runs, strict=True))
        done = runs[0][2]


@pytest.mark.parametrize("face", FACES)
def test_vector_wrappers_pass_tensors_through(face):
    common = options("train", num_glimpses=1, observation="features", encoder=encoder())
    arrays, tensors = (
        FACES[face][1](DogsGlimpseVectorEnv(2, array=kind, **common)) for kind in ("numpy", "torch")
    )
    arrays.action_space.seed(0)

    def check(one: Any, other: Any) -> None:
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for name in one:
                check(one[name], other[name])
        else:
            assert isinstance(other, torch.Tensor)
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-6)

    check(arrays.reset(seed=0)[0], tensors.reset(seed=0)[0])
    for _ in range(4):
        act = arrays.action_space.sample()
        given = (
            {name: torch.from_numpy(value) for name, value in act.items()}
            if isinstance(act, dict)
            else torch.from_numpy(act)
        )
        one, other = arrays.step(act), tensors.step(given)
        check(one[0], other[0])
        check(one[1], other[1])
        for row in np.flatnonzero(one[4].get("_final_obs", [])):
            check(one[4]["final_obs"][row], other[4]["final_obs"][row])


# -- libraries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["features", "pixels", "both"])
@pytest.mark.parametrize(
    "face", ["flat action", "lattice", "flat lattice", "both", "fixation only"]
)
def test_stable_baselines_checker_passes_without_a_warning(face, observation):
    env = gymnasium.make(
        "SyntheticDogsGlimpse-v0",
        render_mode="rgb_array",
        **options(observation=observation, encoder=GridMeans()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(FACES[face][0](env), skip_render_check=False)


@pytest.mark.parametrize("face", ["flat action", "lattice", "flat lattice", "fixation only"])
def test_stable_baselines_trains(face):
    env = FACES[face][0](DogsGlimpseEnv(**options("train", observation="features", num_glimpses=1)))
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0)
    model.learn(16)
    assert model.num_timesteps == 16


def test_wrapped_specs_make_the_same_wrappers_again():
    env = gymnasium.make("SyntheticDogsGlimpse-v0", observation="pixels")
    env = FlatObservation(LatticeAction(env, side=4, flat=True))
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == env.action_space
    assert again.observation_space == env.observation_space


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(13, np.float32),
        np.full(14, np.nan, np.float32),
        np.array([0, 0, *[np.inf] * 12]),
        np.zeros((1, 14), np.float32),
        {"fixation": np.zeros(2), "label": 0},
        "left",
    ],
    ids=lambda bad: str(bad)[:30],
)
def test_malformed_flat_actions_are_refused(bad):
    env = FlatAction(DogsGlimpseEnv(**options()))
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(bad)


@pytest.mark.parametrize("bad", [[25, 0], [-1, 0], [0.0, 0.0], [1], [[1, 1]]], ids=str)
def test_malformed_lattice_actions_are_refused(bad):
    env = LatticeAction(DogsGlimpseEnv(**options()), 5)
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(np.array(bad))


@pytest.mark.parametrize("bad", [12, -1, 0.0, [1], [1, 1], "left", None], ids=str)
def test_malformed_flat_lattice_actions_are_refused(bad):
    env = LatticeAction(DogsGlimpseEnv(**options()), 3, flat=True)
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(bad)


def test_wrappers_say_what_they_go_around():
    with pytest.raises(TypeError, match="Dict actions"):
        FlatAction(gymnasium.make("CartPole-v1"))
    with pytest.raises(TypeError, match="Dict observations"):
        FlatObservation(gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="at least one point"):
        LatticeAction(DogsGlimpseEnv(**options()), 0)
    with pytest.raises(ValueError, match="'correct', 'log_likelihood'"):
        FixationOnly(DogsGlimpseEnv(**options()), classifier, reward="accuracy")


@pytest.mark.parametrize(
    "logits", [np.zeros(K), np.zeros((1, 3)), np.full((1, K), np.nan)], ids=str
)
def test_a_classifier_that_returns_no_logits_is_refused(logits):
    env = FixationOnly(DogsGlimpseEnv(**options(num_glimpses=1)), lambda _: logits)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite logits"):
        env.step(np.zeros(2))
