"""The look track's environments: rewards, answers, checkers, scalar against vector."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from encoders.inference.engine import make_encoder
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.look.classifier import ClassifierError
from glimpse_env.look.env import DogsLookEnv, DogsLookVectorEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers import VectorAnswered
from tests.glimpse_env.helpers import GridMeans, equal, options
from tests.glimpse_env.look.helpers import classifiers

K = 12


def look_options(split: str = "val", **more: Any) -> dict[str, Any]:
    chosen = {
        "observation": "features",
        "encoder": GridMeans(),
        "resolutions": ("high",),
        "mirror": False,
        "context": "center",
    }
    return options(split, 30, **chosen | more)


def look_env(split: str = "val", **more: Any) -> DogsLookEnv:
    return DogsLookEnv(classifier=classifiers(), **look_options(split, **more))


def episode(env: Any, places: np.ndarray, image: int) -> tuple[list[float], dict[str, Any]]:
    """Rewards of an episode, and its last info."""
    env.reset(seed=0, options={"image": image})
    rewards, info = [], {}
    for number, place in enumerate(places):
        _, reward, terminated, truncated, info = env.step(place)
        assert terminated is (number == len(places) - 1) and truncated is False
        assert type(reward) is float
        rewards.append(reward)
    return rewards, info


def log_probs_after_each(places: np.ndarray, image: int, split: str) -> np.ndarray:
    """What the classifier makes of these glimpses, by hand."""
    plain = DogsGlimpseEnv(**look_options(split, num_glimpses=len(places)))
    plain.reset(seed=0, options={"image": image})
    seen = [plain.step({"fixation": place, "label": 0})[0] for place in places]
    history = {
        "glimpse": np.stack([each["glimpse"] for each in seen])[:, None],
        "fixation": np.stack([each["fixation"] for each in seen])[:, None],
        "image": np.array([image]),
    }
    bound = classifiers().bound(plain.dataset)
    return bound.after_each(history)[:, 0].double().numpy()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("reward", ["gain", "correct", "both", "log_likelihood"])
def test_rewards_are_what_the_docstring_says(split, reward):
    places = np.float32([[0.2, -0.4], [0.6, 0.1], [-0.5, 0.5]])
    env = look_env(split, num_glimpses=3, reward=reward)
    for image in (0, 7):
        told = log_probs_after_each(places, image, split)
        truth = int(env.dataset.labels[image])
        log_p = np.concatenate([[-np.log(K)], told[:, truth]])
        right = float(told[-1].argmax() == truth)
        expected = {
            "gain": np.diff(log_p),
            "correct": np.array([0.0, 0.0, right]),
            "both": np.diff(log_p) + [0.0, 0.0, right],
            "log_likelihood": np.array([0.0, 0.0, log_p[-1]]),
        }[reward]
        rewards, info = episode(env, places, image)
        np.testing.assert_allclose(rewards, expected, atol=1e-5)
        assert info == {"image": image, "label": truth, "is_success": bool(right)}


def test_a_training_image_is_answered_for_out_of_fold():
    env = look_env("train", num_glimpses=1)
    which = env._env._judge.classifier.which
    assert set(which) == {0, 1, 2}
    assert set(look_env("val")._env._judge.classifier.which) == {3}


def test_a_lattice_looks_at_its_points():
    env = look_env(num_glimpses=1, lattice=3)
    assert env.action_space == spaces.Discrete(9)
    box = look_env(num_glimpses=1)
    assert box.action_space == spaces.Box(-1, 1, (2,), np.float32)
    for point, place in ((0, (-2 / 3, -2 / 3)), (5, (2 / 3, 0.0))):
        env.reset(seed=0), box.reset(seed=0)
        one, other = env.step(np.int64(point)), box.step(np.float32(place))
        assert equal(one[0], other[0], 1e-6) and one[1] == pytest.approx(other[1], abs=1e-5)
    env.reset(seed=0)
    for bad in (9, -1, 0.5, [1]):
        with pytest.raises(InvalidAction):
            env.step(bad)
    with pytest.raises(ValueError, match="choose_scale=False"):
        look_env(lattice=3, choose_scale=True)


@pytest.mark.parametrize("lattice", [None, 3])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_vector_equals_scalar(mode, lattice):
    common = look_options("train", num_glimpses=2)

    def maker(index: int):
        return lambda: DogsLookEnv(
            classifier=classifiers(), lattice=lattice, reward="both", **common, shard=(index, 2)
        )

    single = SyncVectorEnv([maker(0), maker(1)], autoreset_mode=mode)
    batch = DogsLookVectorEnv(
        2, classifier=classifiers(), lattice=lattice, reward="both", autoreset_mode=mode, **common
    )
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    batch.action_space.seed(0)
    runs = [env.reset(seed=2) for env in (batch, single)]
    assert all(equal(a, b, 1e-5) for a, b in zip(*runs, strict=True))
    done = np.zeros(2, bool)
    for _ in range(7):
        if done.any() and mode == AutoresetMode.DISABLED:
            runs = [env.reset(options={"reset_mask": done.copy()}) for env in (batch, single)]
        act = batch.action_space.sample()
        runs = [env.step(act) for env in (batch, single)]
        assert all(equal(a, b, 1e-5) for a, b in zip(*runs, strict=True))
        done = runs[0][2]


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("reward", ["gain", "both"])
def test_policies_with_dict_actions_earn_the_same(reward, array):
    """The label of the policy does not matter, the answer is a step of its own."""
    common = look_options("train", num_glimpses=2, array=array)
    plain = DogsLookVectorEnv(3, classifier=classifiers(), reward=reward, **common)
    inner = DogsGlimpseVectorEnv(3, **common)
    env = VectorAnswered(inner, classifiers().bound(inner.dataset), reward)
    assert env.single_action_space == inner.single_action_space
    plain.reset(seed=0), env.reset(seed=0)
    drawn = np.random.default_rng(0)
    for _ in range(2):
        sums = np.zeros((2, 3))
        for look in range(3):
            place = drawn.uniform(-1, 1, (3, 2)).astype(np.float32)
            action = {"fixation": place, "label": drawn.integers(K, size=3)}
            found = env.step(action)
            sums[1] += np.asarray(found[1])
            assert np.asarray(found[2]).all() == (look == 2)
            if look < 2:
                expected = plain.step(place)
                sums[0] += np.asarray(expected[1])
        np.testing.assert_allclose(sums[0], sums[1], atol=1e-5)
        final = found[4]["final_info"]
        np.testing.assert_array_equal(final["label"], expected[4]["final_info"]["label"])
        np.testing.assert_array_equal(final["is_success"], expected[4]["final_info"]["is_success"])


def test_the_ids_register_make_and_survive_json():
    for name in ("DogsLook-v0", "SyntheticDogsLook-v0"):
        spec = gymnasium.spec(name)
        assert EnvSpec.from_json(spec.to_json()) == spec
    env = gymnasium.make("SyntheticDogsLook-v0", split="val", reward="both")
    assert isinstance(env.unwrapped, DogsLookEnv) and env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert equal(env.reset(seed=3)[0], again.reset(seed=3)[0])
    assert env.action_space == spaces.Box(-1, 1, (2,), np.float32)
    act = np.float32([0.1, 0.1])
    assert env.step(act)[1] == again.step(act)[1]
    envs = gymnasium.make_vec(
        "SyntheticDogsLook-v0", num_envs=2, vectorization_mode="vector_entry_point", split="val"
    )
    assert isinstance(envs, DogsLookVectorEnv)


@pytest.mark.parametrize("lattice", [None, 5])
def test_both_checkers_are_silent(lattice):
    env = gymnasium.make("SyntheticDogsLook-v0", lattice=lattice, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        sb3_check_env(env, skip_render_check=False)


def test_stable_baselines_trains_on_a_lattice():
    env = look_env("train", num_glimpses=2, lattice=3)
    model = DQN("MultiInputPolicy", env, learning_starts=4, buffer_size=50, device="cpu", seed=0)
    model.learn(12)
    assert model.num_timesteps == 12


def test_a_copy_plays_on_alike():
    env = look_env("train", num_glimpses=2)
    env.reset(seed=5)
    other = copy.deepcopy(env)
    for place in np.float32([[0.3, 0.3], [-0.3, 0.2]]):
        one, two = env.step(place), other.step(place)
        assert equal(one[0], two[0]) and one[1] == two[1]
    assert env.np_random.integers(1000) == other.np_random.integers(1000)


def test_the_id_of_the_dogs_names_the_command_before_it_looks_for_images():
    with pytest.raises(ClassifierError, match="glimpse classifier --bank"):
        gymnasium.make("DogsLook-v0", data_dir="/nowhere")
    with pytest.raises(ClassifierError, match="glimpse classifier --bank"):
        DogsLookVectorEnv(2)
    with pytest.raises(ClassifierError, match="no classifiers in"):
        gymnasium.make("DogsLook-v0", classifier="/nowhere")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="reads features"):
        look_env(observation="pixels")
    with pytest.raises(ClassifierError, match="resolutions"):
        look_env(resolutions=("medium",))
    for make in (DogsLookEnv, DogsLookVectorEnv):
        with pytest.raises(ClassifierError, match="other pixels a patch .* patches of 96 pixels"):
            make(classifier=classifiers(), **look_options(patch_side=64))
    assert DogsLookEnv(classifier=classifiers(patch_side=64), **look_options(patch_side=64))
    with pytest.raises(ValueError, match="'gain'"):
        look_env(reward="accuracy")
    with pytest.raises(ClassifierError, match="other encoder"):
        DogsLookEnv(
            classifier=classifiers(),
            dataset="synthetic",
            encoder="inception_mini",
            resolutions=("high",),
        )


def test_the_encoder_is_checked_however_it_is_given():
    class Otherwise(GridMeans):
        """Features of the same size that mean something else."""

    class Fewer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    for encoder in (Otherwise(), make_encoder(Otherwise(), device="cpu")):
        with pytest.raises(ClassifierError, match="other encoder than the environment"):
            look_env(encoder=encoder)
    fewer = make_encoder(Fewer(), device="cpu")
    known = classifiers(encoder=fewer.fingerprint)
    for make in (DogsLookEnv, DogsLookVectorEnv):
        with pytest.raises(ClassifierError, match="other features a patch than"):
            make(classifier=known, **look_options(encoder=fewer))


def test_any_classifier_may_answer():
    def sure(history: dict[str, Any]) -> torch.Tensor:
        return 50.0 * torch.eye(K)[[3]]

    env = DogsLookEnv(classifier=sure, **look_options(num_glimpses=1))
    image = int(np.flatnonzero(np.asarray(env.dataset.labels) == 3)[0])
    rewards, info = episode(env, np.zeros((1, 2), np.float32), image)
    assert rewards == [pytest.approx(np.log(K))] and info["is_success"] is True


def test_draws_are_kept_and_set_through_the_look_track():
    common = look_options("train", num_glimpses=2, mirror=True)
    inner = DogsGlimpseVectorEnv(2, **common)
    for env in (
        DogsLookVectorEnv(2, classifier=classifiers(), **common),
        VectorAnswered(inner, classifiers().bound(inner.dataset)),
    ):
        env.reset(seed=1)
        state = env.random_state
        found = [env.reset()[1]["image"], env.mirrored]
        env.random_state = state
        again = [env.reset()[1]["image"], env.mirrored]
        np.testing.assert_array_equal(found, again)
        scale = np.float32([0.25, -0.5])
        np.testing.assert_array_equal(env.snap_scale(scale), scale)
