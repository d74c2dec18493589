"""What the policy is taught, against an enumeration of all scanpaths over a small lattice.

The reference plays every scanpath with plain matrix products and torch's distributions: it shares
nothing with the agent but its parameters.
"""

import itertools
import math

import pytest
import torch
from torch import distributions
from torch.nn import functional

from agents.configs import ReinforceConfig
from agents.lattice import Everywhere, Lattice
from agents.reinforce import ReinforceAgent
from tests.agents.toys import play_on_lattice, tiny

X, Y = (-0.5, 0.1, 0.6), (-0.3, 0.4)
POINTS = torch.tensor(list(itertools.product(X, Y)))
POLICY = (
    "location.means.weight",
    "location.means.bias",
    "context.linear.weight",
    "core.upper.input.weight",
    "core.upper.recurrent.weight",
)
LABELS = torch.tensor([0, 2, 1])


def make_agent(num_glimpses=2, told="observed", density="gaussian", **learning) -> ReinforceAgent:
    network = tiny(
        num_glimpses=num_glimpses,
        sigma=0.35,
        location_input=told,
        activation="tanh",
        location_density=density,
        num_components=2,
    )
    learning = {"location_gradient": "policy", "border_weight": 0.0} | learning
    agent = ReinforceAgent(network, ReinforceConfig(**learning), device="cpu", seed=1)
    agent.network.double()
    g = torch.Generator().manual_seed(2)
    for parameter in agent.network.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    return agent


def images(config):
    """Contexts [B, D] and what three images show at every point [L, B, S, D]."""
    g = torch.Generator().manual_seed(3)
    context = torch.rand(3, config.feature_size, generator=g, dtype=torch.float64)
    shape = (len(POINTS), 3, config.num_resolutions, config.feature_size)
    return context, 2.0 * torch.rand(shape, generator=g, dtype=torch.float64)


def snapped(mean: torch.Tensor, sigma: float) -> torch.Tensor:
    """Probability of each point [B, L] when N(mean, sigma) is moved to the nearest."""

    def along(axis, lines):
        normal = distributions.Normal(mean[:, axis, None], sigma)
        middle = [(a + b) / 2 for a, b in itertools.pairwise(lines)]
        edges = torch.tensor([-1e6, *middle, 1e6], dtype=torch.float64)
        return normal.cdf(edges).diff(dim=1)

    return (along(0, X)[:, :, None] * along(1, Y)[:, None, :]).flatten(1)


def expected_return(agent, weights, context, glimpses) -> torch.Tensor:
    """Mean over images of E[log p(y) at the end], every scanpath played."""
    config = agent.config

    def linear(name, values):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    total = torch.zeros(3, dtype=torch.float64)
    for path in itertools.product(range(len(POINTS)), repeat=config.num_glimpses):
        r1, chance = None, torch.ones(3, dtype=torch.float64)
        r2 = torch.tanh(linear("context.linear", context))
        for k in path:
            mean = linear("location.means", r2 / math.sqrt(r2.shape[1]))
            chance = chance * snapped(mean, config.sigma)[:, k]
            place = POINTS[k].double().expand(3, 2) * (config.location_input != "none")
            what = torch.tanh(linear("glimpse.image", glimpses[k].flatten(1)))
            where = torch.tanh(linear("glimpse.location", place))
            g = torch.tanh(linear("glimpse.combine", torch.cat((what, where), 1)))
            lower = linear("core.lower.input", g)
            if r1 is not None:
                lower = lower + r1 @ weights["core.lower.recurrent.weight"].T
            r1 = torch.tanh(lower)
            r2 = torch.tanh(
                linear("core.upper.input", r1) + r2 @ weights["core.upper.recurrent.weight"].T
            )
        scores = functional.log_softmax(linear("classification.linear", r1), -1)
        total = total + chance * scores[torch.arange(3), LABELS]
    return total.mean()


def exact_gradients(agent, context, glimpses) -> dict[str, torch.Tensor]:
    weights = dict(agent.network.named_parameters())
    chosen = [name for name in POLICY if agent.config.num_glimpses > 1 or "upper" not in name]
    value = expected_return(agent, weights, context, glimpses)
    found = torch.autograd.grad(value, [weights[name] for name in chosen])
    return dict(zip(chosen, found, strict=True))


@pytest.mark.parametrize("told", ("observed", "none"))
@pytest.mark.parametrize("reward", ("log_likelihood", "gain"))
def test_with_one_glimpse_the_exact_gradient_is_that_of_the_expectation(told, reward) -> None:
    agent = make_agent(1, told, reward=reward, policy_gradient="exact", baseline="none")
    context, glimpses = images(agent.config)
    expected = exact_gradients(agent, context, glimpses)
    trajectory = play_on_lattice(agent, context, Everywhere(Lattice(POINTS), glimpses), LABELS)
    weights = dict(agent.network.named_parameters())
    found = torch.autograd.grad(
        agent.objective(trajectory).policy, [weights[name] for name in expected]
    )
    for (name, gradient), value in zip(expected.items(), found, strict=True):
        torch.testing.assert_close(-value, gradient, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    "learning",
    [
        {"samples": 4},
        {"samples": 4, "reward": "gain"},
        {"reward": "gain", "baseline": "network"},
        {"samples": 4, "policy_gradient": "exact"},
        {"samples": 4, "reward": "gain", "policy_gradient": "exact"},
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
def test_every_estimator_is_unbiased_over_two_glimpses(learning) -> None:
    """Within 4.5 standard errors of the mean of many, along several directions."""
    agent = make_agent(**learning)
    context, glimpses = images(agent.config)
    expected = exact_gradients(agent, context, glimpses)
    weights = dict(agent.network.named_parameters())
    parameters = [weights[name] for name in expected]
    g = torch.Generator().manual_seed(5)
    directions = [
        [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in parameters]
        for _ in range(3)
    ]
    each = 1200
    rows = torch.arange(3).repeat_interleave(each)
    everywhere = Everywhere(Lattice(POINTS), glimpses[:, rows])
    estimates = []
    for _ in range(30):
        trajectory = play_on_lattice(agent, context[rows], everywhere, LABELS[rows])
        gradient = torch.autograd.grad(agent.objective(trajectory).policy, parameters)
        estimates.append(
            [-sum((a * b).sum() for a, b in zip(gradient, d, strict=True)) for d in directions]
        )
    estimates = torch.tensor(estimates)
    truth = torch.stack(
        [sum((a * b).sum() for a, b in zip(expected.values(), d, strict=True)) for d in directions]
    ).detach()
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert bool(((estimates.mean(0) - truth).abs() < 4.5 * error).all()), (estimates.mean(0), truth)
    assert bool((error < 0.2 * truth.abs().max()).all()), "too noisy to mean anything"


def spread_of(**learning) -> float:
    """Standard deviation of the policy's gradient over batches."""
    agent = make_agent(1, **learning)
    context, glimpses = images(agent.config)
    rows = torch.arange(3).repeat_interleave(16)
    everywhere = Everywhere(Lattice(POINTS), glimpses[:, rows])
    found = []
    for _ in range(40):
        trajectory = play_on_lattice(agent, context[rows], everywhere, LABELS[rows])
        (gradient,) = torch.autograd.grad(
            agent.objective(trajectory).policy, agent.network.location.means.bias
        )
        found.append(gradient)
    return torch.stack(found).std(0).norm().item()


def test_the_exact_gradient_has_no_noise_and_leave_one_out_less_than_none() -> None:
    assert spread_of(policy_gradient="exact", reward="log_likelihood") < 1e-12
    noisy = spread_of(reward="log_likelihood", baseline="none")
    assert spread_of(samples=4) < 0.6 * noisy


def test_gains_add_up_to_the_log_probability_and_are_credited_from_their_glimpse_on() -> None:
    agent = make_agent(reward="gain", baseline="none", discount=0.5)
    context, glimpses = images(agent.config)
    trajectory = play_on_lattice(agent, context, Everywhere(Lattice(POINTS), glimpses), LABELS)
    rows = torch.arange(3)
    after = [state.log_probs.detach()[rows, LABELS] for state in trajectory.states[1:]]
    gain = [after[0] + math.log(3), after[1] - after[0]]
    objective = agent.objective(trajectory)
    torch.testing.assert_close(objective.returns, after[1] + math.log(3))
    torch.testing.assert_close(objective.to_go, torch.stack((gain[0] + 0.5 * gain[1], gain[1])))


def test_the_loss_after_every_glimpse_is_their_weighted_sum() -> None:
    agent = make_agent(glimpse_loss=0.3, label_smoothing=0.1)
    context, glimpses = images(agent.config)
    trajectory = play_on_lattice(agent, context, Everywhere(Lattice(POINTS), glimpses), LABELS)
    target = 0.9 * functional.one_hot(LABELS, 3) + 0.1 / 3
    losses = []
    for state in trajectory.states[1:]:
        scores = agent.network.classify(state.memory)
        torch.testing.assert_close(state.log_probs, scores)
        losses.append(-(target * scores).sum(1).mean())
    expected = 0.3 * losses[0] + losses[1]
    torch.testing.assert_close(agent.objective(trajectory).classification, expected)


def test_a_mixture_can_be_taught_exactly_too() -> None:
    agent = make_agent(density="mixture", samples=4, policy_gradient="exact")
    context, glimpses = images(agent.config)
    rows = torch.arange(3).repeat_interleave(4)
    everywhere = Everywhere(Lattice(POINTS), glimpses[:, rows])
    trajectory = play_on_lattice(agent, context[rows], everywhere, LABELS[rows])
    assert math.isfinite(agent.update(trajectory)["reinforce_loss"])


def test_the_exact_gradient_says_what_it_lacks() -> None:
    agent = make_agent(policy_gradient="exact")
    context, glimpses = images(agent.config)
    trajectory = play_on_lattice(agent, context, Everywhere(Lattice(POINTS), glimpses), LABELS)
    blind = type(trajectory)(**(vars(trajectory) | {"everywhere": None}))
    with pytest.raises(ValueError, match="train from a feature bank, or use 'sampled'"):
        agent.update(blind)
    with pytest.raises(ValueError, match="location_input='observed' or 'none'"):
        make_agent(told="intended", policy_gradient="exact")
    with pytest.raises(ValueError, match="backprop"):
        ReinforceConfig(policy_gradient="exact", location_gradient="backprop")
