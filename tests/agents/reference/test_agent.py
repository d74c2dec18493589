import pytest
import torch

from agents.configs import ReinforceConfig
from agents.reference.agent import (
    ReferenceAgent,
    center,
    given,
    lattice_points,
    lattice_scan,
    oracle_fixations,
    scripted,
    uniform,
)
from agents.reinforce import ReinforceAgent
from tests.agents.toys import observations, play, tiny

LABELS = torch.tensor([0, 2, 1, 0])


def make(chooser, **changes) -> ReferenceAgent:
    return ReferenceAgent(chooser, tiny(**changes), device="cpu")


def looks(agent, seed=0):
    steps = observations(agent.config, 4, seed, dtype=torch.float32)
    return play(agent, steps, LABELS)


def test_choosers_look_where_they_say():
    assert looks(make(center)).fixations.abs().max() == 0
    points = torch.tensor([[0.5, -0.5], [1.0, 0.0]])
    expected = points[:, None].expand(2, 4, 2)
    assert torch.equal(looks(make(scripted(points))).fixations, expected)
    mine = torch.rand(2, 4, 2) * 2 - 1
    assert torch.equal(looks(make(given(mine))).fixations, mine)
    scan = looks(make(lattice_scan(2, extent=0.5), num_glimpses=4)).fixations[:, 0]
    assert scan.tolist() == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]


def test_uniform_covers_the_plane_and_replays():
    g = torch.Generator().manual_seed(0)
    draws = uniform(torch.zeros(40_000, dtype=torch.int64), {}, g)
    assert draws.abs().max() <= 1
    # Standard errors: 0.577 / 200 for the mean, a quarter of the points in each quadrant.
    assert draws.mean(0).abs().max() < 0.015
    assert (draws > 0).all(1).double().mean().item() == pytest.approx(0.25, abs=0.01)
    agent = make(uniform)
    first = looks(agent).fixations
    assert not torch.equal(looks(agent).fixations, first)
    agent.seed(0)
    assert torch.equal(looks(agent).fixations, first)


def test_it_learns_as_the_learned_agent_does_but_for_the_locations():
    """Same seed, same fixations: the lower deck gets the same gradient in both."""
    learned = ReinforceAgent(
        tiny(),
        ReinforceConfig(reinforce_weight=0.0, border_weight=0.0, location_gradient="policy"),
        device="cpu",
        seed=1,
    )
    trajectory = looks(learned)
    locations = torch.stack([state.location for state in trajectory.states[:-1]])
    reference = ReferenceAgent(given(locations), tiny(), device="cpu", seed=1)
    learned.compute_gradients(trajectory)
    reference.compute_gradients(looks(reference))
    theirs = dict(learned.network.named_parameters())
    trained = []
    for name, parameter in reference.network.named_parameters():
        if parameter.grad is not None:
            trained.append(name)
            torch.testing.assert_close(parameter.grad, theirs[name].grad, msg=name)
    lower = ("glimpse.", "core.lower.", "classification.")
    assert trained == [n for n in theirs if n.startswith(lower)]


def test_it_learns_and_its_metrics_are_numbers():
    agent = make(center)
    history = [agent.update(looks(agent)) for _ in range(200)]
    assert history[-1]["classification_loss"] < 0.3 * history[0]["classification_loss"]
    assert {"accuracy", "gradient_norm", "learning_rate"} <= set(history[0])


def test_rows_out_of_step_get_the_point_of_their_own_step():
    points = torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    agent = make(scripted(points), num_glimpses=3)
    steps = observations(agent.config, 3, dtype=torch.float32)
    with torch.no_grad():
        _, state = agent.act(steps[0], agent.initial_state(3))
        _, state = agent.act(steps[1], state)
        mixed = {key: value.clone() for key, value in steps[2].items()}
        mixed["remaining"] = torch.tensor([[1.0], [2 / 3], [1 / 3]])
        action, _ = agent.act(mixed, state)
    torch.testing.assert_close(action["fixation"], points)


def test_bad_choices_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"within \[-1, 1\]"):
        scripted(torch.tensor([[0.0, 1.5]]))
    with pytest.raises(ValueError, match="holds 1 fixations, but glimpse 2"):
        looks(make(scripted(torch.zeros(1, 2))))
    with pytest.raises(ValueError, match="given are for 3 rows, the batch has 4"):
        looks(make(given(torch.zeros(2, 3, 2))))
    with pytest.raises(ValueError, match="chooser must return"):
        looks(make(lambda step, observation, generator: torch.zeros(2)))
    with pytest.raises(ValueError, match="side of at least 1"):
        lattice_points(0)


def test_lattice_points():
    assert lattice_points(1).tolist() == [[0.0, 0.0]]
    points = lattice_points(3)
    assert points.shape == (9, 2) and points[1].tolist() == [0.0, -1.0]
    assert points.min() == -1 and points.max() == 1


def score_near(targets):
    """log p(true label 0) grows as the two glimpses near their targets, each with its own."""

    def evaluate(fixations):
        distance = (fixations - targets).square().sum((0, 2))
        truth = -0.1 - distance
        return torch.stack((truth, torch.zeros_like(truth)), 1)

    return evaluate


def test_the_oracle_finds_the_lattice_point_nearest_to_each_target():
    lattice = lattice_points(5)
    g = torch.Generator().manual_seed(0)
    targets = torch.rand(2, 30, 2, generator=g) * 2 - 1
    labels = torch.zeros(30, dtype=torch.int64)
    start = torch.zeros(2, 30, 2)
    found, log_prob = oracle_fixations(score_near(targets), labels, lattice, start)
    nearest = lattice[torch.cdist(targets, lattice).argmin(-1)]
    assert torch.equal(found, nearest)
    torch.testing.assert_close(log_prob, score_near(targets)(found)[:, 0])
    assert start.abs().max() == 0, "the start is the caller's"


def test_the_oracle_is_never_worse_than_its_start():
    g = torch.Generator().manual_seed(1)
    targets = torch.rand(2, 30, 2, generator=g) * 2 - 1
    labels = torch.zeros(30, dtype=torch.int64)
    found, log_prob = oracle_fixations(score_near(targets), labels, lattice_points(2), targets)
    assert torch.equal(found, targets)
    torch.testing.assert_close(log_prob, torch.full((30,), -0.1))


def test_the_oracle_works_with_an_agents_own_score():
    agent = ReinforceAgent(tiny(), device="cpu")
    g = torch.Generator().manual_seed(2)
    features = torch.rand(2, 4, 2, 5, generator=g)
    start = torch.zeros(2, 4, 2)

    def evaluate(fixations):
        return agent.score(features * fixations.sum(-1)[..., None, None], fixations)

    before = evaluate(start).gather(1, LABELS[:, None]).squeeze(1).detach()
    found, log_prob = oracle_fixations(evaluate, LABELS, lattice_points(3), start)
    assert bool((log_prob >= before).all()) and bool((log_prob > before).any())
    after = evaluate(found).gather(1, LABELS[:, None]).squeeze(1).detach()
    torch.testing.assert_close(log_prob, after)
