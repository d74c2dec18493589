"""A recurrent module as the environment's encoder: features of all that an episode has seen."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import nn

from agents.configs import TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.agents.recurrent.toys import Sums
from tests.glimpse_env.helpers import action, equal, options


@dataclass(frozen=True)
class State:
    total: torch.Tensor
    places: tuple[torch.Tensor, ...]
    looks: dict[str, torch.Tensor]


class Recorder(nn.Module):
    """Features: mean colour so far, the place, the first patch's size, and the glimpses taken."""

    def initial_state(self, batch):
        return State(torch.zeros(batch, 3), (torch.zeros(batch, 3),), {"n": torch.zeros(batch, 1)})

    def forward(self, patches, fixation, scale, state):
        place = torch.cat((fixation, scale[:, :1]), 1)
        total = state.total + patches[:, 0].mean((2, 3))
        return torch.zeros(len(patches), 5), State(total, (place,), {"n": state.looks["n"] + 1})

    def features(self, state):
        return torch.cat((state.total / state.looks["n"], *state.places, state.looks["n"]), 1)


def made(**more) -> dict:
    return options(observation="both", encoder=Recorder(), num_glimpses=2, **more)


def test_features_are_of_all_that_was_seen() -> None:
    env = DogsGlimpseEnv(**made(choose_scale=True, resolutions=("medium", "high")))
    assert env.observation_space["context"].shape == (7,)  # type: ignore[index]
    assert env.observation_space["glimpse"].shape == (1, 7)  # type: ignore[index]
    for _ in range(2):  # what an episode has seen is forgotten
        seen, info = env.reset(seed=3)
        colours = [seen["context_pixels"].mean((0, 1)) / 255]
        np.testing.assert_allclose(seen["context"][:3], colours[0], atol=1e-5)
        np.testing.assert_allclose(seen["context"][5:], [1, 1])
        height, width = env.dataset.image(info["image"]).shape[:2]
        frame = min(height, width) / np.array([width, height])
        for looks, zoom in enumerate((1.0, -0.5)):
            scale = {"scale": np.array([zoom], np.float32)}
            seen = env.step(action(0.25, -0.5) | scale)[0]
            colours.append(seen["glimpse_pixels"][0].mean((0, 1)) / 255)
            found = seen["glimpse"][0]
            np.testing.assert_allclose(found[:3], np.mean(colours, 0), atol=1e-5)
            np.testing.assert_allclose(found[3:5], seen["fixation"] / frame, rtol=1e-5)
            np.testing.assert_allclose(found[5:], [0.5 * 2**zoom, looks + 2], rtol=1e-5)


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP"])
def test_many_environments_are_as_single_ones(mode: str) -> None:
    torch.manual_seed(0)
    more = options(observation="features", encoder=Sums(12), num_glimpses=2)
    many = DogsGlimpseVectorEnv(3, autoreset_mode=mode, **more)
    single = [DogsGlimpseEnv(**more, shard=(i, 3), order_seed=0) for i in range(3)]
    found, _ = many.reset(seed=5)
    alone = [env.reset(seed=5 + i)[0] for i, env in enumerate(single)]
    ended = False
    for step in range(6):
        if mode == "NEXT_STEP" and ended:
            alone, ended = [env.reset()[0] for env in single], False
        elif step:
            played = [env.step(action(0.1 * step, 0.2)) for env in single]
            alone, ended = [each[0] for each in played], played[0][2]
            if mode == "SAME_STEP" and ended:
                alone = [env.reset()[0] for env in single]
        if step:
            place = np.tile(np.array([0.1 * step, 0.2], np.float32), (3, 1))
            found = many.step({"fixation": place, "label": np.zeros(3, np.int64)})[0]
        for name, value in found.items():
            expected = np.stack([each[name] for each in alone])
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_environments_may_be_out_of_step() -> None:
    more = options(observation="features", encoder=Recorder(), num_glimpses=2)
    env = DogsGlimpseVectorEnv(2, autoreset_mode="DISABLED", **more)
    env.reset(seed=0)
    act = {"fixation": np.zeros((2, 2), np.float32), "label": np.zeros(2, np.int64)}
    env.step(act)
    seen, _ = env.reset(options={"reset_mask": np.array([True, False])})
    assert seen["context"][:, -1].tolist() == [1, 1] and seen["glimpse"][:, 0, -1].tolist() == [
        0,
        2,
    ]
    assert env.step(act)[0]["glimpse"][:, 0, -1].tolist() == [2, 3]


def test_a_copy_plays_on_and_the_checker_is_silent() -> None:
    env = DogsGlimpseEnv(**made())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    env.reset(seed=1)
    env.step(action(0.3, 0.1))
    again = pickle.loads(pickle.dumps(env))
    for _ in range(4):
        ours, theirs = env.step(action(-0.2, 0.4)), again.step(action(-0.2, 0.4))
        assert equal(ours[0], theirs[0]) and ours[1:4] == theirs[1:4]
        if ours[2]:
            assert equal(env.reset()[0], again.reset()[0])


def test_our_agent_learns_from_it() -> None:
    more = options(observation="features", encoder=Sums(12), num_glimpses=2)
    envs = DogsGlimpseVectorEnv(4, array="torch", **more)
    network = TwoDeckConfig(num_glimpses=2, hidden_size=16, image_width=16, glimpse_width=16)
    agent = ReinforceAgent.from_spaces(
        envs.single_observation_space,  # pyright: ignore[reportArgumentType]
        envs.single_action_space,  # pyright: ignore[reportArgumentType]
        network=network,
    )
    assert agent.config.num_resolutions == 1 and agent.config.feature_size == 16
    metrics = agent.update(collect(envs, agent, seed=0, grad=True))
    assert np.isfinite(metrics["classification_loss"])


class NoBatch(Recorder):
    def forward(self, patches, fixation, scale, state):
        return torch.zeros(len(patches), 5), torch.zeros(3)

    def features(self, state):
        return torch.zeros(2, 3)


class OneNumber(Recorder):
    def features(self, state):
        return state.total.mean()


class LogitsAlone(Recorder):
    def forward(self, patches, fixation, scale, state):
        return torch.zeros(len(patches), 5)


class Fails(Recorder):
    def forward(self, patches, fixation, scale, state):
        return patches @ fixation, state


@pytest.mark.parametrize(
    ("module", "more", "message"),
    [
        (Recorder(), {"precision": "bf16"}, "computes in fp32, not 'bf16'"),
        (Recorder(), {"context_grid": 3}, "gives features alone: take a grid of 1"),
        (NoBatch(), {}, r"for B = 2 it holds a tensor \(3,\)"),
        (OneNumber(), {}, r"features\(state\) are \(\)"),
        (LogitsAlone(), {}, "must return .*; got Tensor"),
        (Fails(), {}, "tried on glimpses of 1 patches of 96 x 96 pixels, fails with RuntimeError"),
    ],
)
def test_what_cannot_serve_is_told_in_one_sentence(
    module: nn.Module, more: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DogsGlimpseEnv(**options(observation="features", encoder=module, **more))
    assert "\n" not in str(caught.value)
