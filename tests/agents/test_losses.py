import math

import pytest
import torch
from torch import distributions

from agents import losses


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_gaussian_log_prob_agrees_with_torch_distributions():
    location, mean = random(3, 5, 2, seed=1), random(3, 5, 2, seed=2)
    expected = distributions.Independent(distributions.Normal(mean, 0.3), 1).log_prob(location)
    torch.testing.assert_close(losses.gaussian_log_prob(location, mean, 0.3), expected)


def test_mixture_log_prob_agrees_with_torch_distributions():
    location, logits, means = random(4, 6, 2), random(4, 6, 3, seed=1), random(4, 6, 3, 2, seed=2)
    components = distributions.Independent(distributions.Normal(means, 0.4), 1)
    mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=logits), components)
    torch.testing.assert_close(
        losses.mixture_log_prob(location, logits, means, 0.4), mixture.log_prob(location)
    )


def test_a_location_with_a_scale_agrees_with_torch_distributions():
    location, logits, means = random(4, 6, 3), random(4, 6, 2, seed=1), random(4, 6, 2, 3, seed=2)
    sigmas = torch.tensor([0.4, 0.4, 0.7], dtype=torch.float64)
    components = distributions.Independent(distributions.Normal(means, sigmas), 1)
    mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=logits), components)
    torch.testing.assert_close(
        losses.mixture_log_prob(location, logits, means, 0.4, 0.7), mixture.log_prob(location)
    )


def test_a_mixture_of_one_is_the_gaussian_whatever_its_logit():
    location, mean = random(7, 2), random(7, 2, seed=1)
    torch.testing.assert_close(
        losses.mixture_log_prob(location, random(7, 1, seed=2), mean[:, None], 0.2),
        losses.gaussian_log_prob(location, mean, 0.2),
    )


def test_the_density_integrates_to_one():
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logits = torch.tensor([0.3, -1.0], dtype=torch.float64).expand(len(grid), 2)
    means = torch.tensor([[0.5, -0.5], [-1.0, 0.2]], dtype=torch.float64).expand(len(grid), 2, 2)
    density = losses.mixture_log_prob(grid, logits, means, 0.3).exp()
    assert float(density.sum()) * 0.02**2 == pytest.approx(1.0, abs=1e-9)


def test_reinforce_loss_weighs_log_probabilities_with_constants():
    log_prob = random(2, 3).requires_grad_()
    advantages = random(2, 3, seed=2).requires_grad_()
    loss = losses.reinforce_loss(log_prob, advantages)
    loss.backward()
    torch.testing.assert_close(log_prob.grad, -advantages.detach() / 3)
    assert advantages.grad is None


def test_exact_policy_loss_is_the_expected_reward_negated():
    masses = random(2, 3, 4).softmax(-1).requires_grad_()
    rewards = random(2, 3, 4, seed=1).requires_grad_()
    loss = losses.exact_policy_loss(masses, rewards)
    by_hand = (
        sum(
            masses[n, b, k].item() * rewards[n, b, k].item()
            for n in range(2)
            for b in range(3)
            for k in range(4)
        )
        / 3
    )
    assert loss.item() == pytest.approx(-by_hand)
    loss.backward()
    assert rewards.grad is None
    torch.testing.assert_close(masses.grad, -rewards.detach() / 3)


def test_returns_to_go_add_up_what_is_still_to_come():
    rewards = torch.tensor([[1.0, 0.0], [2.0, 4.0], [4.0, 8.0]])
    assert losses.returns_to_go(rewards).tolist() == [[7.0, 12.0], [6.0, 12.0], [4.0, 8.0]]
    halved = losses.returns_to_go(rewards, 0.5)
    assert halved.tolist() == [[3.0, 4.0], [4.0, 8.0], [4.0, 8.0]]
    assert losses.returns_to_go(rewards, 0.0).tolist() == rewards.tolist()


def test_baseline_loss_sums_over_glimpses_and_leaves_the_returns_alone():
    baselines = torch.tensor([[0.0, 1.0], [0.5, 0.5]], requires_grad=True)
    returns = torch.tensor([1.0, 0.0], requires_grad=True)
    loss = losses.baseline_loss(baselines, returns)  # row 1: 1 + 1/4; row 2: 1 + 1/4
    loss.backward()
    assert loss.item() == pytest.approx(1.25)
    assert returns.grad is None


def test_classification_loss_of_even_scores_is_log_k():
    even = torch.full((4, 7), -math.log(7))
    assert losses.classification_loss(even, torch.arange(4)).item() == pytest.approx(math.log(7))


def test_leave_one_out_is_the_mean_of_the_others():
    returns = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    expected = torch.tensor([0.0, 0.5, 0.5, 1.0, 1.0, 1.0])
    torch.testing.assert_close(losses.leave_one_out(returns, 3), expected)
    by_glimpse = torch.stack((returns, 2 * returns))
    torch.testing.assert_close(
        losses.leave_one_out(by_glimpse, 3), torch.stack((expected, 2 * expected))
    )
    for samples in (1, 4):
        with pytest.raises(ValueError, match="blocks of at least 2"):
            losses.leave_one_out(returns, samples)


def test_fixation_spread_and_entropy_watch_for_collapse():
    same = torch.full((2, 64, 2), 0.3)
    assert losses.fixation_spread(same).tolist() == [0.0, 0.0]
    assert losses.fixation_entropy(same).tolist() == [0.0, 0.0]
    # One fixation in the middle of every cell of an 8 x 8 grid: uniform.
    axis = (torch.arange(8) + 0.5) / 4 - 1
    even = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(1, 64, 2)
    assert losses.fixation_entropy(even).item() == pytest.approx(2 * math.log(8), rel=1e-6)
    # Half the batch at (-a, 0), half at (a, 0): variance a^2 along x, none along y.
    two = torch.tensor([[[-0.6, 0.0], [0.6, 0.0]]])
    assert losses.fixation_spread(two).item() == pytest.approx(0.6 / math.sqrt(2))


def test_fixation_entropy_takes_the_border_as_part_of_its_cell():
    corners = torch.tensor([[[1.0, 1.0], [-1.0, -1.0], [1.5, 1.0], [-1.0, -3.0]]])
    assert losses.fixation_entropy(corners).item() == pytest.approx(math.log(2))


def test_explained_variance():
    returns = torch.tensor([1.0, 0.0, 1.0, 0.0])
    perfect, blind = returns.expand(3, 4), torch.full((3, 4), 0.5)
    assert losses.explained_variance(perfect, returns).item() == pytest.approx(1.0)
    assert losses.explained_variance(blind, returns).item() == pytest.approx(0.0)
    assert losses.explained_variance(blind, torch.ones(4)).item() == 0.0


def test_smoothed_classification_loss_is_the_cross_entropy_with_a_mixed_target() -> None:
    scores, labels = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 6, 3, 3, 1])
    log_probs = scores.log_softmax(-1)
    for share in (0.0, 0.1, 0.5):
        target = torch.nn.functional.one_hot(labels, 7) * (1 - share) + share / 7
        expected = -(target * log_probs).sum(1).mean()
        found = losses.classification_loss(log_probs, labels, share)
        torch.testing.assert_close(found, expected)
