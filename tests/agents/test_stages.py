"""What changes from epoch to epoch: who learns, how far samples stray, and what W_loc is told."""

import pytest
import torch

from agents.configs import ReinforceConfig
from agents.location import told_location
from agents.reference import ReferenceAgent, center
from agents.reinforce import ReinforceAgent
from tests.agents.toys import observations, play, tiny

LABELS = torch.tensor([0, 2, 1, 0])
CLASSIFIER = ("glimpse", "core.lower", "classification")


def make(network=None, **learning) -> ReinforceAgent:
    settings = {"sigma": 0.4, "dropout": 0.2} | (network or {})
    return ReinforceAgent(tiny(**settings), ReinforceConfig(**learning), device="cpu", seed=3)


def step(agent):
    steps = observations(agent.config, 4, dtype=torch.float32)
    before = {k: v.detach().clone() for k, v in agent.network.named_parameters()}
    trajectory = play(agent, steps, LABELS)
    metrics = agent.update(trajectory)
    moved = {
        k for k, v in agent.network.named_parameters() if not torch.equal(v.detach(), before[k])
    }
    return trajectory, metrics, moved


@pytest.mark.parametrize("mode", ("policy", "mix"))
@pytest.mark.parametrize("optimizer", ("sgd", "adam"))
def test_first_the_classifier_learns_then_the_policy_then_both(mode, optimizer) -> None:
    agent = make(
        classifier_epochs=2,
        policy_epochs=1,
        location_gradient=mode,
        optimizer=optimizer,
        weight_decay=0.1,
        samples=1,
    )
    for epoch, stage in enumerate(("classifier", "classifier", "policy", "both", "both")):
        agent.set_epoch(epoch)
        assert agent.stage == stage
        _, metrics, moved = step(agent)
        own = {name for name in moved if name.startswith(CLASSIFIER)}
        assert bool(own) == (stage != "policy")
        assert bool(moved - own) == (stage != "classifier")
        assert ("reinforce_loss" in metrics) == (stage != "classifier")


def test_the_classifier_alone_learns_on_random_places() -> None:
    agent = make(classifier_epochs=1)
    agent.network.location.means.bias.data.fill_(0.9)
    steps = observations(agent.config, 512, dtype=torch.float32)
    labels = torch.zeros(512, dtype=torch.long)
    random = play(agent, steps, labels).fixations
    assert random.mean().abs() < 0.1 and random.std().item() == pytest.approx(3**-0.5, abs=0.05)
    evaluated = play(agent, steps, labels, deterministic=True).fixations
    assert (evaluated > 0.5).all(), "evaluation looks where the policy says"
    agent.set_epoch(1)
    assert play(agent, steps, labels).fixations.mean() > 0.5


def test_a_reference_keeps_its_places_in_every_stage() -> None:
    learning = ReinforceConfig(classifier_epochs=1, policy_epochs=1)
    agent = ReferenceAgent(center, tiny(), learning, device="cpu")
    for epoch in range(3):
        agent.set_epoch(epoch)
        trajectory, _, moved = step(agent)
        assert not trajectory.fixations.any()
        assert moved, "its classifier learns in every epoch"


def test_sigma_falls_to_its_floor() -> None:
    agent = make(sigma_decay=0.5, sigma_floor=0.1)
    found = []
    for epoch in range(4):
        agent.set_epoch(epoch)
        steps = observations(agent.config, 4, dtype=torch.float32)
        found.append(play(agent, steps, LABELS).states[0].density.sigmas.plane)
    assert found == pytest.approx([0.4, 0.2, 0.1, 0.1])
    # A floor above sigma raises nothing.
    agent = make(sigma_decay=0.5, sigma_floor=0.9)
    agent.set_epoch(2)
    assert agent.network.location.sigma_factor == 1.0


@pytest.mark.parametrize(
    "learning",
    [
        {"sigma_decay": 0.7, "classifier_epochs": 1, "policy_epochs": 1},
        {"samples": 2, "reward": "gain", "glimpse_loss": 0.5},
    ],
)
@pytest.mark.parametrize("epoch", (0, 1, 2))
def test_a_saved_agent_goes_on_exactly(tmp_path, learning, epoch) -> None:
    """In the midst of an epoch too, where nobody calls set_epoch."""
    network = {
        "context_grid": 2,
        "context_channels": 3,
        "location_hidden": 5,
        "context_norm": True,
        "context_dropout": 0.3,
        "location_head": "plain",
    }
    agent = make(network, optimizer="adam", **learning)
    agent.set_epoch(epoch)

    def go_on(each):
        steps = observations(each.config, 4, dtype=torch.float32)
        trajectory = play(each, steps, LABELS)
        images = torch.arange(4) // agent.learning.samples
        return each.update(type(trajectory)(**(vars(trajectory) | {"images": images})))

    go_on(agent)
    agent.save(tmp_path)
    again = ReinforceAgent.load(tmp_path, device="cpu")
    assert again.config == agent.config and again.learning == agent.learning
    for _ in range(2):
        assert go_on(agent) == go_on(again)


def test_w_loc_reads_the_location_as_chosen_as_seen_or_not_at_all() -> None:
    chosen = torch.tensor([[1.4, 0.2, -1.3]], requires_grad=True)
    seen = torch.tensor([[1.0, 0.35]])
    assert told_location(chosen, seen, "intended") is chosen
    assert not told_location(chosen, seen, "none").any()
    told = told_location(chosen, seen, "observed")
    assert told.tolist() == torch.tensor([[1.0, 0.35, -1.0]]).tolist()
    # Under `mix` what the classes say of the place passes clipping and snapping.
    told.sum().backward()
    assert chosen.grad.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("told", ("intended", "observed", "none"))
def test_scores_at_given_places_are_those_of_the_rollout(told) -> None:
    agent = make({"location_input": told, "dropout": 0.0})
    steps = observations(agent.config, 4, dtype=torch.float32)
    with torch.no_grad():
        trajectory = play(agent, steps, LABELS)
        glimpses = torch.stack([each["glimpse"] for each in steps[1:]])
        places = {
            "intended": torch.stack([state.location for state in trajectory.states[:-1]]),
            "observed": torch.stack([each["fixation"] for each in steps[1:]]),
            "none": torch.rand(2, 4, 2),
        }[told]
        scores = agent.score(glimpses, places)
    torch.testing.assert_close(trajectory.states[-1].log_probs, scores)


def test_more_than_one_scanpath_brings_its_own_defaults() -> None:
    one, four = ReinforceConfig(), ReinforceConfig(samples=4)
    assert (one.reward_kind, one.baseline_kind) == ("accuracy", "network")
    assert (four.reward_kind, four.baseline_kind) == ("log_likelihood", "leave_one_out")
    asked = ReinforceConfig(samples=4, reward="accuracy", baseline="none")
    assert (asked.reward_kind, asked.baseline_kind) == ("accuracy", "none")


@pytest.mark.parametrize("head", ("scaled", "plain"))
def test_first_fixations_lie_near_the_centre_whatever_the_head(head) -> None:
    agent = make({"hidden_size": 512, "location_head": head, "location_hidden": 64})
    steps = observations(agent.config, 64, dtype=torch.float32)
    means = play(agent, steps, torch.zeros(64, dtype=torch.long), deterministic=True).fixations[0]
    assert means.abs().max() < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 1.5}, "discount is at least 0 and at most 1"),
        ({"glimpse_loss": -1.0}, "glimpse_loss is at least 0"),
        ({"classifier_epochs": -1}, "classifier_epochs is at least 0"),
        ({"sigma_decay": 0.0}, "sigma_decay is above 0"),
        ({"reward": "fame"}, "reward must be one of auto"),
    ],
)
def test_wrong_settings_are_told(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        ReinforceConfig(**changes)
