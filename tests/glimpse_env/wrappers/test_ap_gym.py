"""ap_gym's environments in our form: what is seen, what moves, what is right, and who plays."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from glimpse_env.wrappers import from_ap_gym

pytest.importorskip("ap_gym", reason="ap_gym is not installed (extra `ap-gym`)")
B = 4


def still(label: int = 0) -> dict[str, np.ndarray]:
    return {"fixation": np.zeros((B, 2), np.float32), "label": np.full(B, label)}


def test_an_episode_is_fifteen_looks_and_an_answer():
    env = from_ap_gym("CircleSquare-v0", B)
    assert env.num_glimpses == 15
    seen, infos = env.reset(seed=0)
    assert seen in env.observation_space and infos["image"].shape == (B,)
    assert not seen["glimpse"].any() and (seen["remaining"] == 1).all()
    place = seen["context"][:, -2:]
    for look in range(15):
        before = place
        seen, rewards, ended, cut, _ = env.step(still())
        place = seen["fixation"]
        assert not ended.any() and not cut.any() and not rewards.any()
        # Towards the middle, by 0.2 at most.
        length = np.linalg.norm(before, axis=1)
        np.testing.assert_allclose(
            np.linalg.norm(place, axis=1), np.maximum(0, length - 0.2), atol=1e-5
        )
        assert seen["remaining"] == pytest.approx(np.full((B, 1), 1 - (look + 1) / 15))
    seen, rewards, ended, _, infos = env.step(still(1))
    final = infos["final_info"]
    assert ended.all()
    np.testing.assert_array_equal(rewards, final["label"] == 1)
    np.testing.assert_array_equal(final["is_success"], final["label"] == 1)
    assert (seen["remaining"] == 1).all() and infos["final_obs"][0]["remaining"] == 0
    env.close()


def test_glimpses_are_ap_gyms_own():
    own = gymnasium.make_vec("CircleSquare-v0", B, vectorization_mode="vector_entry_point")
    env = from_ap_gym("CircleSquare-v0", B)
    shown, _ = own.reset(seed=5)
    seen, _ = env.reset(seed=5)
    np.testing.assert_allclose(seen["context"][:, :-2], shown["glimpse"].reshape(B, -1), atol=1e-6)
    target = np.float32([[0.9, 0.9]] * B)
    away = target - shown["glimpse_pos"]
    move = away / 0.2 / np.maximum(1, np.linalg.norm(away / 0.2, axis=1, keepdims=True))
    shown, *_ = own.step({"action": move, "prediction": np.zeros((B, 2), np.float32)})
    seen, *_ = env.step(still() | {"fixation": target})
    np.testing.assert_allclose(seen["glimpse"][:, 0], shown["glimpse"].reshape(B, -1), atol=1e-5)
    np.testing.assert_allclose(seen["fixation"], shown["glimpse_pos"], atol=1e-6)
    own.close(), env.close()


def test_the_two_deck_agent_trains_on_it():
    env = from_ap_gym("CircleSquare-v0", 8, autoreset_mode="DISABLED")
    network = TwoDeckConfig(
        num_glimpses=15,
        hidden_size=16,
        image_width=16,
        glimpse_width=16,
        location_width=8,
        location_input="observed",
    )
    agent = ReinforceAgent.from_spaces(
        env.single_observation_space,
        env.single_action_space,
        network=network,
        learning=ReinforceConfig(optimizer="adam", learning_rate=1e-3, glimpse_loss=0.5),
        device="cpu",
    )
    before = agent.network.classification.linear.weight.clone()
    for step in range(3):
        metrics = agent.update(collect(env, agent, seed=step, grad=True))
        assert np.isfinite(list(metrics.values())).all()
    assert not torch.equal(before, agent.network.classification.linear.weight)
    env.close()


def test_what_is_asked_wrongly_is_refused():
    env = from_ap_gym("CircleSquare-v0", B, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded):
        env.step(still())
    env.reset(seed=0)
    for bad in ({"label": np.zeros(B, int)}, still(2), still() | {"fixation": np.zeros(2)}):
        with pytest.raises(InvalidAction):
            env.step(bad)
    with pytest.raises(ValueError, match="reset options"):
        env.reset(options={"image": 3})
    with pytest.raises(TypeError, match="image classifications"):
        from_ap_gym("LightDark-v0", 2)
    with pytest.raises(ValueError, match="SAME_STEP or DISABLED"):
        from_ap_gym("CircleSquare-v0", 2, autoreset_mode="NEXT_STEP")
    env.close()
