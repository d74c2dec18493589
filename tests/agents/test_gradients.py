"""Which path gets which gradient, against finite differences and against quadrature.

The reference below is model.md's forward pass written out with plain matrix products, so it shares
no code with the network but its parameters.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from agents.configs import ReinforceConfig
from agents.reinforce import ReinforceAgent
from tests.agents.toys import observations, play, tiny

LABELS = torch.tensor([0, 2, 1, 0])


def make_agent(seed=3, **learning) -> ReinforceAgent:
    config = tiny(
        activation=learning.pop("activation", "relu"),
        sigma=0.3,
        num_glimpses=learning.pop("T", 2),
        choose_scale=learning.pop("choose_scale", False),
        scale_sigma=0.6,
    )
    agent = ReinforceAgent(config, ReinforceConfig(**learning), device="cpu", seed=seed)
    agent.network.double()
    g = torch.Generator().manual_seed(seed)
    # Weights large enough for every path to matter: a fresh location head and baseline barely act.
    for parameter in agent.network.parameters():
        noise = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
        parameter.data += 0.4 * noise
    agent.network.location.means.weight.data *= 3.0
    return agent


def forward(weights, steps, activation, enter):
    """Means, r2 and scores; `enter(n, lhat)` gives what W_loc receives after glimpse n's lhat."""

    def linear(name, values):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    r2 = activation(linear("context.linear", steps[0]["context"]))
    r1, means, uppers = torch.zeros_like(r2), [], []
    for n, step in enumerate(steps[1:]):
        uppers.append(r2)
        lhat = linear("location.means", r2 / math.sqrt(r2.shape[1]))
        means.append(lhat)
        what = activation(linear("glimpse.image", step["glimpse"].flatten(1)))
        where = activation(linear("glimpse.location", enter(n, lhat)))
        g = activation(linear("glimpse.combine", torch.cat((what, where), 1)))
        r1 = activation(
            linear("core.lower.input", g) + r1 @ weights["core.lower.recurrent.weight"].T
        )
        r2 = activation(
            linear("core.upper.input", r1) + r2 @ weights["core.upper.recurrent.weight"].T
        )
    return means, uppers, functional.log_softmax(linear("classification.linear", r1), -1)


def log_normal(x, mean, sigma):
    return (-0.5 * ((x - mean) / sigma) ** 2 - (sigma * math.sqrt(2 * math.pi)).log()).sum(-1)


@pytest.mark.parametrize("choose_scale", (False, True))
@pytest.mark.parametrize("glimpses", (1, 2, 3))
@pytest.mark.parametrize("mode", ("mix", "policy", "backprop"))
def test_each_location_gradient_against_finite_differences(mode, glimpses, choose_scale):
    """Every parameter tensor, along random directions, in every mode; the scale is one more place.

    mix       nll(l moves with lhat)           + lambda * policy term (all l held)
    policy    nll(l held)                      + lambda * policy term (all l held)
    backprop  nll(l moves with lhat)
    and the baseline's squared error with r2 held, and the penalty beyond the border. Held means
    held everywhere: in the policy term not even a later lhat may move through an earlier l.
    """
    agent = make_agent(
        location_gradient=mode,
        reinforce_weight=0.7,
        border_weight=0.3,
        T=glimpses,
        choose_scale=choose_scale,
    )
    steps = observations(agent.config, 4)
    trajectory = play(agent, steps, LABELS)
    agent.compute_gradients(trajectory)
    sigma = torch.tensor([0.3, 0.3, 0.6] if choose_scale else [0.3, 0.3], dtype=torch.float64)
    drawn = [state.location.detach() for state in trajectory.states[:-1]]
    noise = [s.location.detach() - s.density.mode().detach() for s in trajectory.states[:-1]]
    baselines = [state.baseline.detach() for state in trajectory.states[:-1]]
    returns = trajectory.returns.double()
    weights0 = {k: v.detach().clone() for k, v in agent.network.named_parameters()}
    _, uppers0, _ = forward(weights0, steps, torch.relu, lambda n, lhat: drawn[n])

    def loss(weights):
        def moving(n, lhat):
            return lhat + noise[n]

        def held(n, lhat):
            return drawn[n]

        enter = held if mode == "policy" else moving
        means, _, scores = forward(weights, steps, torch.relu, enter)
        total = -scores[torch.arange(4), LABELS].mean()
        if mode == "mix":
            means, _, _ = forward(weights, steps, torch.relu, held)
        for mean in means:
            total = total + 0.3 * (mean.abs() - 1).clamp_min(0).square().sum(-1).mean()
        if mode == "backprop":
            return total
        for n in range(glimpses):
            log_density = log_normal(drawn[n], means[n], sigma)
            total = total - 0.7 * ((returns - baselines[n]) * log_density).mean()
            head = weights["baseline.linear.weight"], weights["baseline.linear.bias"]
            b = (uppers0[n] / math.sqrt(6)) @ head[0].T + head[1]
            total = total + (b.squeeze(-1) - returns).square().mean()
        return total

    g = torch.Generator().manual_seed(0)
    checked = 0
    for name, parameter in agent.network.named_parameters():
        direction = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
        h = 1e-6
        up = loss(weights0 | {name: weights0[name] + h * direction})
        down = loss(weights0 | {name: weights0[name] - h * direction})
        expected = ((up - down) / (2 * h)).item()
        got = 0.0 if parameter.grad is None else (parameter.grad * direction).sum().item()
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-7), name
        checked += abs(expected) > 1e-5
    # With one glimpse the recurrent weights are idle; with `backprop` the baseline is.
    assert checked >= 9, "most parameters must take part, or the test shows nothing"


def test_modes_differ_where_they_should():
    """The upper deck learns from the classes in mix and backprop, not in policy."""
    gradients = {}
    for mode in ("mix", "policy", "backprop"):
        # A zero reward weight leaves the classification loss alone.
        agent = make_agent(location_gradient=mode, reinforce_weight=0.0, border_weight=0.0)
        agent.compute_gradients(play(agent, observations(agent.config, 4), LABELS))
        gradient = agent.network.location.means.weight.grad
        gradients[mode] = torch.zeros(2, 6).double() if gradient is None else gradient.clone()
    assert gradients["policy"].abs().max() == 0
    assert gradients["mix"].abs().max() > 1e-4
    torch.testing.assert_close(gradients["mix"], gradients["backprop"])


@pytest.mark.parametrize("mode", ("policy", "mix"))
def test_the_context_gets_a_gradient_from_the_classes_only_where_it_should(mode):
    agent = make_agent(location_gradient=mode)
    steps = observations(agent.config, 4)
    steps[0]["context"].requires_grad_()
    trajectory = play(agent, steps, LABELS)
    scores = trajectory.states[-1].log_probs
    (gradient,) = torch.autograd.grad(scores.square().sum(), steps[0]["context"], allow_unused=True)
    if mode == "policy":
        assert gradient is None or torch.equal(gradient, torch.zeros_like(gradient))
    else:
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("baseline", ("none", "network", "leave_one_out"))
def test_reinforce_is_unbiased_against_quadrature(baseline):
    """E[R] for a smooth R of two locations, l_2's mean depending on l_1, by Gauss-Hermite.

    Its exact gradient must lie within 4 standard errors of the mean estimate, along several
    directions of the policy's parameters.
    """

    def reward(locations):
        first, second = locations[0], locations[1]
        return (
            torch.sin(2 * first[:, 0] + second[:, 1])
            + first[:, 1] * second[:, 0]
            + 0.5 * second[:, 0]
        )

    agent = make_agent(
        location_gradient="policy",
        reward="accuracy",
        baseline=baseline,
        samples=4 if baseline == "leave_one_out" else 1,
        activation="tanh",
    )
    sigma, network = agent.config.sigma, agent.network
    one = observations(agent.config, 1)
    names = ("location.means.weight", "core.upper.input.weight", "context.linear.weight")
    weights = dict(network.named_parameters())
    parameters = [weights[name] for name in names]

    nodes, quadrature = np.polynomial.hermite_e.hermegauss(10)
    z = torch.tensor(np.stack(np.meshgrid(*[nodes] * 4, indexing="ij"), -1).reshape(-1, 4))
    mass = (
        np.prod(np.stack(np.meshgrid(*[quadrature] * 4, indexing="ij"), -1).reshape(-1, 4), -1)
        / (2 * np.pi) ** 2
    )
    many = [{k: v.expand(len(z), *v.shape[1:]) for k, v in step.items()} for step in one]
    drawn = {}

    def enter(n, lhat):
        drawn[n] = lhat + sigma * z[:, 2 * n : 2 * n + 2]
        return drawn[n]

    forward(weights, many, torch.tanh, enter)
    expectation = (torch.tensor(mass) * reward([drawn[0], drawn[1]])).sum()
    exact = torch.autograd.grad(expectation, parameters)

    g = torch.Generator().manual_seed(5)
    directions = [
        [torch.randn(p.shape, generator=g).double() for p in parameters] for _ in range(4)
    ]
    estimates = []
    rows = 10_000
    batch = [{k: v.expand(rows, *v.shape[1:]) for k, v in step.items()} for step in one]
    for _ in range(40):
        trajectory = play(agent, batch, torch.zeros(rows, dtype=torch.int64), reward=reward)
        if baseline == "leave_one_out":
            images = torch.arange(rows) // 4
            trajectory = type(trajectory)(**(vars(trajectory) | {"images": images}))
        surrogate = agent.objective(trajectory).policy
        gradient = torch.autograd.grad(surrogate, parameters)
        estimates.append(
            [-sum((a * b).sum() for a, b in zip(gradient, d, strict=True)) for d in directions]
        )
    estimates = torch.tensor(estimates)
    expected = torch.stack(
        [sum((a * b).sum() for a, b in zip(exact, d, strict=True)) for d in directions]
    ).detach()
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert bool(((estimates.mean(0) - expected).abs() < 4 * error).all())
    assert bool((error < 0.05 * expected.abs().max()).all()), "too noisy to mean anything"


def test_a_better_baseline_means_less_variance():
    """The reason for having one: same expectation, narrower spread."""
    spread = {}
    for baseline in ("none", "leave_one_out"):
        agent = make_agent(
            location_gradient="policy", reward="accuracy", baseline=baseline, samples=4
        )
        steps = observations(agent.config, 1)
        batch = [{k: v.expand(64, *v.shape[1:]) for k, v in step.items()} for step in steps]
        gradients = []
        for _ in range(60):
            trajectory = play(
                agent,
                batch,
                torch.zeros(64, dtype=torch.int64),
                reward=lambda locations: 5.0 + locations[0, :, 0],
            )
            images = torch.arange(64) // 4
            trajectory = type(trajectory)(**(vars(trajectory) | {"images": images}))
            (gradient,) = torch.autograd.grad(
                agent.objective(trajectory).policy, agent.network.location.means.bias
            )
            gradients.append(gradient)
        spread[baseline] = torch.stack(gradients).std(0).norm()
    assert spread["leave_one_out"] < 0.3 * spread["none"]
