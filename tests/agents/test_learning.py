"""The agent learns to look where the context says, and a fixed gaze cannot make up for it."""

from functools import partial

import pytest
import torch

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reference.agent import ReferenceAgent, center, uniform
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from tests.agents.toys import TargetEnv

CHANCE = 0.25


def config(**changes) -> TwoDeckConfig:
    sizes = {
        "feature_size": 16,
        "num_resolutions": 1,
        "num_classes": 4,
        "num_glimpses": 1,
        "hidden_size": 64,
        "image_width": 64,
        "location_width": 32,
        "glimpse_width": 64,
    }
    return TwoDeckConfig(**(sizes | changes))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums of another order would be other numbers: the seed fixes the result on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(agent, updates) -> tuple[float, float]:
    """Accuracy by the mean location on fresh images, and the spread of the fixations there."""
    env = TargetEnv(128, agent.config.num_glimpses)
    trajectory = collect(env, agent, seed=0, grad=True)
    for _ in range(updates):
        agent.update(trajectory)
        trajectory = collect(env, agent, observation=trajectory.next_observation, grad=True)
    held_out = TargetEnv(1024, agent.config.num_glimpses)
    trajectory = collect(held_out, agent, seed=1, deterministic=True)
    spread = trajectory.fixations.std(dim=1).mean().item()
    return trajectory.success.double().mean().item(), spread


slowly = partial(pytest.param, marks=pytest.mark.slow)  # each trains two agents


@pytest.mark.parametrize(
    ("changes", "learning", "updates"),
    [
        pytest.param({}, {}, 600, id="mix"),
        slowly({"num_glimpses": 2}, {}, 500, id="two-glimpses"),
        slowly({}, {"location_gradient": "policy"}, 600, id="policy"),
        slowly({}, {"reward": "log_likelihood"}, 600, id="log-likelihood"),
        slowly({"location_density": "mixture"}, {"learning_rate": 0.03}, 800, id="mixture"),
        slowly(
            {"core": "lstm", "combine": "multiply"},
            {"optimizer": "adam", "learning_rate": 2e-3},
            600,
            id="lstm-multiply-adam",
        ),
    ],
)
def test_learned_fixations_beat_the_center_by_a_wide_margin(changes, learning, updates):
    network = config(**changes)
    agent = ReinforceAgent(network, ReinforceConfig(**learning), device="cpu")
    learned, spread = train(agent, updates)
    fixed, _ = train(
        ReferenceAgent(center, network, ReinforceConfig(**learning), device="cpu"), 300
    )
    assert learned > 0.85
    assert learned > fixed + 0.3
    # Targets lie on a circle of radius 0.7: a spread of 0.49 is perfect, 0 is collapse.
    assert spread > 0.25


@pytest.mark.slow
def test_without_the_policy_gradient_it_learns_far_less():
    """Pixels give no gradient: through W_loc alone the classes hardly say where to look."""
    agent = ReinforceAgent(config(), ReinforceConfig(location_gradient="backprop"), device="cpu")
    learned, _ = train(agent, 600)
    assert learned < 0.7


@pytest.mark.slow
def test_random_fixations_are_no_substitute():
    learned, _ = train(ReferenceAgent(uniform, config(), device="cpu"), 600)
    assert CHANCE < learned < 0.7
