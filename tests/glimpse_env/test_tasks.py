"""Tasks: another answer on the same looks, in the scalar and the vector environment."""

from __future__ import annotations

import copy
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from agents.configs import TwoDeckConfig, fit_spaces
from glimpse_env.env import GlimpseEnv
from glimpse_env.locate import DogsLocateEnv, DogsLocateVectorEnv
from glimpse_env.tasks import Task
from glimpse_env.vector_env import GlimpseVectorEnv
from glimpse_env.wrappers import (
    FixationOnly,
    FlatAction,
    LatticeAction,
    VectorAnswered,
    VectorFlatAction,
)
from tests.glimpse_env.helpers import equal, options


def answered(env: DogsLocateEnv, image: int, place: tuple[float, float]) -> tuple[float, dict]:
    """Reward and info of an episode that ends with a place."""
    env.reset(seed=0, options={"image": image})
    action = {"fixation": np.zeros(2, np.float32), "place": np.float32(place)}
    for _ in range(2):
        assert env.step(action)[1:4] == (0.0, False, False)
    _, reward, terminated, truncated, info = env.step(action)
    assert terminated is True and truncated is False and type(reward) is float
    return reward, info


def test_a_place_is_paid_by_its_distance_to_the_box():
    env = DogsLocateEnv(**options(num_glimpses=2))
    width, height = env.dataset.size(3)
    left, top, right, bottom = env.dataset.boxes(3)[0] / [width, height, width, height] * 2 - 1
    middle = ((left + right) / 2, (top + bottom) / 2)
    reward, info = answered(env, 3, middle)
    assert reward == 1.0
    assert info == {"image": 3, "distance": 0.0, "is_success": True}
    reward, info = answered(env, 3, (left - 0.25, (top + bottom) / 2))
    assert reward == pytest.approx(0.75, abs=1e-5) and info["is_success"] is False
    reward, info = answered(env, 3, (right + 0.3, bottom + 0.4))
    assert reward == pytest.approx(0.5, abs=1e-5)
    assert info["distance"] == pytest.approx(0.5, abs=1e-5)
    assert answered(env, 3, (left - 3.0, top))[0] == 0.0


def test_a_mirrored_image_has_its_box_mirrored():
    env = DogsLocateEnv(**options("train", num_glimpses=1, mirror=True))
    seen = set()
    for seed in range(8):
        _, info = env.reset(seed=seed, options={"image": 2})
        mirrored = bool(env._dynamics.mirror[0])
        seen.add(mirrored)
        width, height = env.dataset.size(2)
        left, top, right, bottom = env.dataset.boxes(2)[0] / [width, height, width, height] * 2 - 1
        place = np.float32([(left + right) / 2 * (-1 if mirrored else 1), (top + bottom) / 2])
        action = {"fixation": np.zeros(2, np.float32), "place": place}
        env.step(action)
        assert env.step(action)[1] == 1.0
    assert seen == {True, False}


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_vector_equals_scalar(mode):
    common = options("train", num_glimpses=1)

    def maker(index: int):
        return lambda: DogsLocateEnv(**common, shard=(index, 2))

    single = SyncVectorEnv([maker(0), maker(1)], autoreset_mode=mode)
    batch = DogsLocateVectorEnv(2, autoreset_mode=mode, **common)
    assert batch.single_action_space == single.single_action_space
    batch.action_space.seed(0)
    runs = [env.reset(seed=2) for env in (batch, single)]
    done = np.zeros(2, bool)
    for _ in range(5):
        if done.any() and mode == AutoresetMode.DISABLED:
            runs = [env.reset(options={"reset_mask": done.copy()}) for env in (batch, single)]
        act = batch.action_space.sample()
        runs = [env.step(act) for env in (batch, single)]
        assert all(equal(a, b, 1e-6) for a, b in zip(*runs, strict=True))
        done = runs[0][2]


def test_both_checkers_are_silent_and_the_spec_survives_json():
    env = gymnasium.make("SyntheticDogsLocate-v0", observation="pixels", render_mode="rgb_array")
    assert env.spec is not None and EnvSpec.from_json(env.spec.to_json()) == env.spec
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        sb3_check_env(FlatAction(env), skip_render_check=False)


def test_a_flat_action_is_a_fixation_then_the_place():
    env = FlatAction(DogsLocateEnv(**options(num_glimpses=1)))
    assert env.action_space == spaces.Box(-1, 1, (4,), np.float32)
    env.reset(seed=0), env.step(np.zeros(4))
    assert 0.0 <= env.step(np.zeros(4))[1] <= 1.0
    envs = VectorFlatAction(DogsLocateVectorEnv(2, **options(num_glimpses=1)))
    envs.reset(seed=0), envs.step(np.zeros((2, 4)))
    assert envs.step(np.zeros((2, 4)))[2].all()


def test_malformed_answers_are_refused_and_change_nothing():
    env = DogsLocateEnv(**options(num_glimpses=1))
    env.reset(seed=0)
    still = {"fixation": np.zeros(2, np.float32)}
    for bad in (np.zeros(3), np.float32([np.nan, 0]), "left", np.zeros((1, 2))):
        with pytest.raises(InvalidAction, match="place"):
            env.step({**still, "place": bad})
    with pytest.raises(InvalidAction, match="'place'"):
        env.step({**still, "label": 0})
    for _ in range(2):
        env.step({**still, "place": np.zeros(2)})
    with pytest.raises(ResetNeeded):
        env.step({**still, "place": np.zeros(2)})


class Portrait(Task):
    """Say whether the image is higher than wide."""

    key = "portrait"

    def space(self, dataset):
        return spaces.Discrete(2)

    def score(self, dataset, image, mirror, answer):
        high = np.array([dataset.size(i)[1] > dataset.size(i)[0] for i in image.tolist()])
        return (answer == high).astype(np.float64), {"is_success": answer == high}


class PortraitEnv(GlimpseEnv):
    """Of a test."""

    task = Portrait()


class PortraitVectorEnv(GlimpseVectorEnv):
    """Of a test."""

    task = Portrait()


def test_a_task_of_ones_own_has_both_faces_and_copies():
    env = PortraitEnv(**options(num_glimpses=1))
    assert set(env.action_space.spaces) == {"fixation", "portrait"}
    env.reset(seed=0, options={"image": 1})
    action = {"fixation": np.zeros(2, np.float32), "portrait": 1}
    env.step(action)
    other = copy.deepcopy(env)
    width, height = env.dataset.size(1)
    found = env.step(action)
    assert found[1] == float(height > width) and found[1:] == other.step(action)[1:]
    envs = PortraitVectorEnv(3, **options(num_glimpses=1))
    envs.reset(seed=0)
    actions = {"fixation": np.zeros((3, 2), np.float32), "portrait": np.ones(3, int)}
    envs.step(actions)
    _, rewards, ended, _, infos = envs.step(actions)
    assert ended.all()
    np.testing.assert_array_equal(infos["final_info"]["is_success"], rewards == 1)
    with pytest.raises(InvalidAction, match="portrait must be 0 to 1"):
        envs.step({**actions, "portrait": np.full(3, 2)})


def test_what_names_a_class_says_that_the_action_has_no_label():
    env = DogsLocateEnv(**options(observation="features"))
    with pytest.raises(ValueError, match=r"no Discrete 'label', only fixation, place"):
        fit_spaces(TwoDeckConfig(), env.observation_space, env.action_space)
    several = DogsLocateVectorEnv(2, **options())
    for wrap in (
        lambda: LatticeAction(env, 3),
        lambda: FixationOnly(env, lambda history: np.zeros((1, 12))),
        lambda: VectorAnswered(several, lambda history: np.zeros((2, 12))),
    ):
        with pytest.raises(TypeError, match="needs a Discrete `label`"):
            wrap()
