"""The hybrid distribution against torch's own parts, integration and enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.distributions import Categorical, Normal
from torch.nn.functional import one_hot

from agents.sb3 import HybridDistribution, HybridPolicy
from tests.agents.toys import AnswerInTurn

A, K, B = 2, 5, 7


def parameters(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, A + K, generator=generator), torch.randn(A, generator=generator) * 0.3


def actions(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    where = torch.randn(B, A, generator=generator)
    label = torch.randint(K, (B,), generator=generator)
    return where, label, torch.cat([where, one_hot(label, K).float()], dim=1)


def made(answering: torch.Tensor | None = None, times: int = 1) -> HybridDistribution:
    """The distribution; with `times`, all rows that often one after another."""
    params, log_std = parameters()
    repeated = params.repeat(times, 1)
    return HybridDistribution(A, K).proba_distribution(repeated, log_std, answering)


def test_log_probability_is_that_of_the_two_parts() -> None:
    params, log_std = parameters()
    where, label, action = actions()
    expected = Normal(params[:, :A], log_std.exp()).log_prob(where).sum(1)
    expected = expected + Categorical(logits=params[:, A:]).log_prob(label)
    torch.testing.assert_close(made().log_prob(action), expected)


def test_any_vector_stands_for_its_largest_entry() -> None:
    where, label, action = actions()
    soft = torch.cat([where, 0.3 * one_hot(label, K) - 0.7], dim=1)
    torch.testing.assert_close(made().log_prob(soft), made().log_prob(action))


def test_probabilities_over_everything_add_up_to_one() -> None:
    distribution = HybridDistribution(1, 3).proba_distribution(
        torch.tensor([[0.2, 1.0, -1.0, 0.5]]), torch.tensor([-0.5])
    )
    points = torch.linspace(-6, 6, 4001)
    total = 0.0
    for label in range(3):
        one = one_hot(torch.tensor(label), 3).float().expand(len(points), 3)
        grid = torch.cat([points[:, None], one], dim=1)
        spread = HybridDistribution(1, 3).proba_distribution(
            torch.tensor([[0.2, 1.0, -1.0, 0.5]]).expand(len(points), 4), torch.tensor([-0.5])
        )
        total += float(torch.trapezoid(spread.log_prob(grid).exp(), points))
    assert total == pytest.approx(1.0, abs=1e-5)
    assert distribution.log_prob(torch.tensor([[0.2, 1.0, 0, 0]])).exp() < 1


def test_entropy_is_the_closed_form_and_the_mean_of_minus_log_probability() -> None:
    params, log_std = parameters()
    gaussian = A / 2 * math.log(2 * math.pi * math.e) + log_std.sum()
    expected = gaussian + Categorical(logits=params[:, A:]).entropy()
    distribution = made()
    torch.testing.assert_close(distribution.entropy(), expected)
    torch.manual_seed(0)
    many = made(times=4000)
    draws = many.log_prob(many.sample()).view(4000, B)
    torch.testing.assert_close(-draws.mean(0), expected, atol=0.1, rtol=0)


def test_what_is_idle_counts_for_nothing() -> None:
    params, log_std = parameters()
    where, label, action = actions()
    answering = torch.tensor([True, False, True, False, False, True, False])
    what = Categorical(logits=params[:, A:])
    place = Normal(params[:, :A], log_std.exp())
    distribution = made(answering)
    torch.testing.assert_close(
        distribution.log_prob(action),
        torch.where(answering, what.log_prob(label), place.log_prob(where).sum(1)),
    )
    torch.testing.assert_close(
        distribution.entropy(),
        torch.where(answering, what.entropy(), place.entropy().sum(1)),
    )


def test_no_gradient_reaches_the_idle_part() -> None:
    params, log_std = parameters()
    params.requires_grad_()
    answering = torch.arange(B) % 2 == 0
    distribution = HybridDistribution(A, K).proba_distribution(params, log_std, answering)
    (distribution.log_prob(actions()[2]).sum() + distribution.entropy().sum()).backward()
    gradient = params.grad
    assert gradient is not None
    assert (gradient[answering, :A] == 0).all() and (gradient[~answering, A:] == 0).all()
    assert (gradient[answering, A:] != 0).any(1).all()


def test_samples_follow_the_probabilities_and_the_mode_is_the_likeliest() -> None:
    params, log_std = parameters()
    torch.manual_seed(0)
    draws = made(times=6000).sample().view(6000, B, A + K)
    assert ((draws[..., A:] == 0) | (draws[..., A:] == 1)).all()
    assert (draws[..., A:].sum(-1) == 1).all()
    shares = draws[..., A:].mean(0)
    torch.testing.assert_close(shares, params[:, A:].softmax(1), atol=0.03, rtol=0)
    torch.testing.assert_close(draws[..., :A].mean(0), params[:, :A], atol=0.1, rtol=0)
    mode = made().mode()
    torch.testing.assert_close(mode[:, :A], params[:, :A])
    assert (mode[:, A:].argmax(1) == params[:, A:].argmax(1)).all()
    assert (made().log_prob(mode) >= torch.stack([made().log_prob(d) for d in draws[:50]])).all()


@pytest.mark.parametrize(
    "algorithm, settings",
    [
        (PPO, {"n_steps": 16, "batch_size": 128, "learning_rate": 6e-3, "n_epochs": 6}),
        (A2C, {"n_steps": 8, "learning_rate": 5e-3, "use_rms_prop": False}),
    ],
)
def test_stock_algorithms_learn_where_and_what(algorithm: type, settings: dict) -> None:
    model = algorithm(
        HybridPolicy,
        DummyVecEnv([AnswerInTurn] * 8),
        seed=0,
        policy_kwargs={"log_std_init": -1.0},
        **settings,
    )
    model.learn(6000 if algorithm is PPO else 8000)
    env = AnswerInTurn()
    rewards = []
    for _ in range(30):
        observation, _ = env.reset()
        for _ in range(2):
            action, _ = model.predict(observation, deterministic=True)
            assert env.action_space.contains(action)
            observation, reward, *_ = env.step(action)
        rewards.append(reward)
    assert np.mean(rewards) > 0.8  # 1 is perfect; a random label 0.25, at a random place less


@torch.no_grad()
def test_the_policy_tells_rows_that_answer_from_rows_that_look() -> None:
    env = AnswerInTurn()
    model = PPO(HybridPolicy, env, n_steps=8, batch_size=8)
    looking = {"cue": torch.zeros(1, 4), "remaining": torch.ones(1, 1)}
    answering = looking | {"remaining": torch.zeros(1, 1)}
    action = torch.tensor([[0.1, -0.2, 0, 1, 0, 0.0]])
    policy = model.policy
    _, at_look, _ = policy.evaluate_actions(looking, action)
    _, at_answer, _ = policy.evaluate_actions(answering, action)
    other_label = torch.tensor([[0.1, -0.2, 1, 0, 0, 0.0]])
    other_place = torch.tensor([[0.9, 0.7, 0, 1, 0, 0.0]])
    assert policy.evaluate_actions(looking, other_label)[1] == at_look
    assert policy.evaluate_actions(looking, other_place)[1] != at_look
    assert policy.evaluate_actions(answering, other_place)[1] == at_answer
    _, _, log_prob = policy.forward(answering)
    assert log_prob == pytest.approx(math.log(0.25), abs=0.05)  # first weights are small


def test_a_saved_policy_acts_the_same(tmp_path) -> None:
    env = AnswerInTurn()
    model = PPO(
        HybridPolicy, env, n_steps=8, batch_size=8, policy_kwargs={"mask_idle": False}, seed=0
    )
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=env)
    assert again.policy.mask_idle is False
    observation, _ = env.reset(seed=3)
    one, two = (each.predict(observation, deterministic=True)[0] for each in (model, again))
    np.testing.assert_array_equal(one, two)


def test_other_action_spaces_are_refused_with_the_remedy() -> None:
    class Other(AnswerInTurn):
        action_space = spaces.MultiDiscrete([4, 4])

    with pytest.raises(TypeError, match="FlatAction"):
        PPO(HybridPolicy, Other())
    with pytest.raises(ValueError, match="no class beside"):
        PPO(HybridPolicy, AnswerInTurn(), policy_kwargs={"num_coordinates": 6})
    with pytest.raises(ValueError, match="use_sde"):
        PPO(HybridPolicy, AnswerInTurn(), use_sde=True)


def test_an_observation_that_was_rescaled_is_refused() -> None:
    model = PPO(HybridPolicy, VecNormalize(DummyVecEnv([AnswerInTurn])), n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="norm_obs_keys"):
        model.learn(8)
    env = VecNormalize(DummyVecEnv([AnswerInTurn]), norm_obs_keys=["cue"])
    PPO(HybridPolicy, env, n_steps=8, batch_size=8, n_epochs=1).learn(8)
