"""Recurrent policies for RecurrentPPO: sb3-contrib's own mathematics, in fewer calls."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from agents.sb3.recurrent import (
    FastRecurrentMultiInputPolicy,
    HybridRecurrentPolicy,
    run_lstm,
)

stock = RecurrentActorCriticPolicy._process_sequence


def draw(n_seq, length, share, layers=1, seed=0):
    """Features, states and starts; a share of the steps is an episode's first."""
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    lstm = nn.LSTM(5, 7, num_layers=layers).double()
    features = torch.randn(n_seq * length, 5, generator=g, dtype=torch.float64)
    states = tuple(torch.randn(layers, n_seq, 7, generator=g).double() for _ in range(2))
    starts = (torch.rand(n_seq * length, generator=g) < share).double()
    return lstm, features, states, starts


def results(function, lstm, features, states, starts):
    """Outputs, final states, and the gradients of all inputs and weights."""
    inputs = [features.clone().requires_grad_(), *(s.clone().requires_grad_() for s in states)]
    outputs, after = function(inputs[0], tuple(inputs[1:]), starts, lstm)
    g = torch.Generator().manual_seed(1)
    loss = sum(
        (part * torch.randn(part.shape, generator=g, dtype=part.dtype)).sum()
        for part in (outputs, *after)
    )
    weights = list(lstm.parameters())
    grads = torch.autograd.grad(loss, inputs + weights, allow_unused=True)
    zeros = [
        torch.zeros_like(g) if grad is None else grad
        for grad, g in zip(grads, inputs + weights, strict=True)
    ]
    return [outputs, *after, *zeros]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (6, 1), (1, 9), (4, 8), (16, 4)])
@pytest.mark.parametrize("layers", [1, 2])
def test_equals_the_loop_of_sb3_contrib(share, shape, layers):
    for seed in range(3):
        given = draw(*shape, share, layers, seed)
        ours, theirs = results(run_lstm, *given), results(stock, *given)
        assert len(ours) == len(theirs) == 3 + 3 + 4 * layers
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.shape == other.shape
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_equals_the_loop_in_single_precision():
    lstm, features, states, starts = draw(32, 16, 0.25)
    given = lstm.float(), features.float(), tuple(s.float() for s in states), starts.float()
    for mine, other in zip(results(run_lstm, *given), results(stock, *given), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_lstm_is_called_once(share):
    lstm, features, states, starts = draw(8, 12, share)
    starts[0] = 1.0  # the stock loop would begin
    calls = []
    lstm.register_forward_hook(lambda *_: calls.append(1))
    run_lstm(features, states, starts, lstm)
    assert len(calls) == 1
    stock(features, states, starts, lstm)
    assert len(calls) == 1 + 12


def test_what_came_before_a_start_is_forgotten():
    lstm, features, states, starts = draw(2, 6, 0.0)
    starts[3] = 1.0  # of the first sequence
    outputs, _ = run_lstm(features, states, starts, lstm)
    changed = features.clone()
    changed[:3] += 1.0
    other, _ = run_lstm(changed, states, starts, lstm)
    assert not torch.allclose(outputs[:3], other[:3])
    assert torch.equal(outputs[3:], other[3:])


class Uneven(gymnasium.Env):
    """Episodes of 1 to 6 steps, so that starts fall anywhere in a rollout."""

    observation_space = spaces.Dict(
        {"a": spaces.Box(-1, 1, (3,), np.float32), "b": spaces.Box(-1, 1, (2, 2), np.float32)}
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self, *, seed=None, options=None):
        self.left = self.rng.integers(1, 7)
        return self._look(), {}

    def step(self, action):
        self.left -= 1
        return self._look(), float(action[0]), bool(self.left == 0), False, {}

    def _look(self):
        return {
            key: self.rng.uniform(-1, 1, space.shape).astype(np.float32)
            for key, space in self.observation_space.items()
        }


def trained(policy, env, **options):
    model = RecurrentPPO(
        policy,
        env,
        n_steps=32,
        batch_size=24,
        n_epochs=3,
        seed=0,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": 8, **options},
    )
    return model.learn(256)


@pytest.mark.parametrize(
    "options",
    [{}, {"shared_lstm": True, "enable_critic_lstm": False}, {"n_lstm_layers": 2}],
    ids=["two lstms", "shared lstm", "two layers"],
)
def test_training_goes_the_same_way_as_with_the_stock_policy(options):
    weights = []
    for policy in ("MultiInputLstmPolicy", FastRecurrentMultiInputPolicy):
        env = DummyVecEnv([lambda seed=seed: Uneven(seed) for seed in range(4)])
        weights.append(trained(policy, env, **options).policy.state_dict())
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


def test_it_is_saved_and_predicts_with_its_memory(tmp_path):
    env = DummyVecEnv([lambda: Uneven(0)])
    model = trained(FastRecurrentMultiInputPolicy, env)
    model.save(tmp_path / "model.zip")
    again = RecurrentPPO.load(tmp_path / "model.zip", env=env)
    observation = env.reset()
    first, state = model.predict(observation, deterministic=True)
    second, other = again.predict(observation, deterministic=True)
    np.testing.assert_array_equal(first, second)
    # Inside an episode the state matters, at its start it does not.
    begun = np.ones(1, bool)
    third, _ = model.predict(observation, state, begun, deterministic=True)
    np.testing.assert_array_equal(first, third)
    fourth, _ = model.predict(observation, state, ~begun, deterministic=True)
    assert not np.array_equal(first, fourth)


class Recall(gymnasium.Env):
    """The class is shown once, before the first look; the answer comes two looks later."""

    num_classes = 4
    observation_space = spaces.Dict(
        {
            "context": spaces.Box(0, 1, (num_classes,), np.float32),
            "remaining": spaces.Box(0, 1, (1,), np.float32),
        }
    )
    action_space = spaces.Box(-1, 1, (2 + num_classes,), np.float32)

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self, *, seed=None, options=None):
        self.taken, self.label = 0, self.rng.integers(self.num_classes)
        return self._look(), {}

    def step(self, action):
        if self.taken == 2:
            right = action[2:].argmax() == self.label
            return self._look(), float(right), True, False, {"is_success": bool(right)}
        self.taken += 1
        return self._look(), 0.0, False, False, {}

    def _look(self):
        shown = np.eye(self.num_classes, dtype=np.float32)[self.label] * (self.taken == 0)
        remaining = np.array([1 - self.taken / 2], np.float32)
        return {"context": shown.astype(np.float32), "remaining": remaining}


def recall(policy=HybridRecurrentPolicy, steps=0, **options):
    env = DummyVecEnv([lambda seed=seed: Recall(seed) for seed in range(16)])
    model = RecurrentPPO(
        policy,
        env,
        n_steps=24,
        batch_size=384,
        n_epochs=6,
        learning_rate=1e-2,
        gamma=1.0,
        seed=0,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": 24} | options,
    )
    return model.learn(steps) if steps else model


def play(model, episodes=64):
    """Share of right answers of the policy without noise, carrying its memory."""
    env, right = Recall(99), 0
    for _ in range(episodes):
        observation, _ = env.reset()
        state, start, done = None, np.ones(1, bool), False
        while not done:
            action, state = model.predict(observation, state, start, deterministic=True)
            observation, reward, done, _, _ = env.step(action)
            start = np.zeros(1, bool)
        right += reward
    return right / episodes


def test_the_hybrid_policy_learns_to_remember():
    assert play(recall()) < 0.6
    assert play(recall(steps=8000)) > 0.95


def rollout_inputs(model, batch=12):
    g = torch.Generator().manual_seed(3)
    obs = {
        "context": torch.rand(batch, 4, generator=g),
        "remaining": torch.tensor([1.0, 0.5, 0.0]).repeat(batch // 3)[:, None],
    }
    zeros = torch.zeros(1, batch, 24)
    states = RNNStates((zeros, zeros), (zeros, zeros))
    return obs, states, torch.ones(batch)


@pytest.mark.parametrize("mask_idle", [True, False])
def test_log_probability_and_entropy_against_closed_forms(mask_idle):
    policy = recall(mask_idle=mask_idle, log_std_init=-0.5).policy
    obs, states, starts = rollout_inputs(policy)
    actions, values, log_prob, _ = policy(obs, states, starts)
    assert actions.shape == (12, 6) and torch.equal(actions[:, 2:].sum(1), torch.ones(12))
    again, evaluated, entropy = policy.evaluate_actions(obs, actions, states, starts)
    torch.testing.assert_close(again, values)
    torch.testing.assert_close(evaluated, log_prob)

    latent, _ = run_lstm(policy.extract_features(obs), states.pi, starts, policy.lstm_actor)
    raw = policy.action_net(policy.mlp_extractor.forward_actor(latent))
    where = torch.distributions.Normal(raw[:, :2], float(np.exp(-0.5)))
    what = torch.distributions.Categorical(logits=raw[:, 2:])
    label = actions[:, 2:].argmax(1)
    parts = [where.log_prob(actions[:, :2]).sum(1), what.log_prob(label)]
    entropies = [where.entropy().sum(1), what.entropy()]
    last = obs["remaining"][:, 0] == 0
    if mask_idle:
        expected = torch.where(last, parts[1], parts[0])
        expected_entropy = torch.where(last, entropies[1], entropies[0])
    else:
        expected, expected_entropy = sum(parts), sum(entropies)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-5, atol=1e-5)


def test_a_fast_policy_saved_by_itself_comes_back(tmp_path):
    policy = recall(FastRecurrentMultiInputPolicy, shared_lstm=True, enable_critic_lstm=False)
    policy.policy.save(tmp_path / "policy.zip")
    again = FastRecurrentMultiInputPolicy.load(tmp_path / "policy.zip", device="cpu")
    assert again.lstm_actor.hidden_size == 24 and again.lstm_critic is None


def test_a_hybrid_policy_saved_by_itself_comes_back(tmp_path):
    policy = recall(mask_idle=False, n_lstm_layers=2).policy
    policy.save(tmp_path / "policy.zip")
    again = HybridRecurrentPolicy.load(tmp_path / "policy.zip", device="cpu")
    assert again.lstm_actor.hidden_size == 24 and again.mask_idle is False
    observation, _ = Recall(5).reset()
    first, _ = policy.predict(observation, deterministic=True)
    second, _ = again.predict(observation, deterministic=True)
    np.testing.assert_array_equal(first, second)


def test_a_dict_of_actions_is_refused_with_the_remedy():
    actions = spaces.Dict({"label": spaces.Discrete(4)})
    with pytest.raises(TypeError, match="FlatAction"):
        HybridRecurrentPolicy(Recall.observation_space, actions, lambda _: 1e-3)


def test_onednn_is_as_it_was():
    before = torch.backends.mkldnn.enabled
    lstm, features, states, starts = draw(2, 3, 0.3)
    run_lstm(features, states, starts, lstm)
    assert torch.backends.mkldnn.enabled == before
    with pytest.raises(RuntimeError):
        run_lstm(features.float(), states, starts, lstm)  # the LSTM is of double precision
    assert torch.backends.mkldnn.enabled == before
