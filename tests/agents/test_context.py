"""A context with a layout: cells of the encoder's map, read with their places."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.networks import TwoDeckNetwork
from agents.reinforce import ReinforceAgent
from tests.agents.toys import TargetEnv, observations, play, resave, tiny

LABELS = torch.tensor([0, 2, 1, 0])
CELLS = {"context_grid": 3, "context_channels": 7, "cell_width": 4}


def network(seed=0, **changes) -> TwoDeckNetwork:
    torch.manual_seed(seed)
    return TwoDeckNetwork(tiny(**(CELLS | changes))).double()


def contexts(batch=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 3, 7, generator=g, dtype=torch.float64)


def test_it_is_one_layer_for_all_cells_which_knows_where_they_lie() -> None:
    net, given = network(), contexts()
    weights = dict(net.context.named_parameters())
    units = []
    for row in range(3):
        for column in range(3):
            place = torch.tensor([[-2 / 3, 0.0, 2 / 3][column], [-2 / 3, 0.0, 2 / 3][row]])
            cell = torch.cat((given[:, row, column], place.double().expand(4, 2)), 1)
            units.append(torch.relu(cell @ weights["cell.weight"].T + weights["cell.bias"]))
    flat = torch.cat(units, 1)
    expected = torch.relu(flat @ weights["linear.weight"].T + weights["linear.bias"])
    torch.testing.assert_close(net.begin(given).upper[0], expected)


def test_cells_that_change_places_are_another_context() -> None:
    net, given = network(), contexts()
    start = net.begin(given).upper[0]
    assert not torch.allclose(start, net.begin(given.flip(2)).upper[0])
    # Even where they are alike but for their places: coordinates tell them apart.
    lone = torch.zeros_like(given)
    lone[:, 0, 0] = given[:, 0, 0]
    moved = torch.zeros_like(given)
    moved[:, 2, 1] = given[:, 0, 0]
    assert not torch.allclose(net.begin(lone).upper[0], net.begin(moved).upper[0])


def test_a_norm_and_dropout_may_be_asked_for() -> None:
    normed = network(context_norm=True)
    assert normed.context.norm is not None
    assert normed.context.norm.normalized_shape == (36,)
    dropped = network(context_dropout=0.5)
    given = contexts()
    plain = dropped.begin(given).upper[0]
    noisy = dropped.begin(given, torch.Generator().manual_seed(0)).upper[0]
    again = dropped.begin(given, torch.Generator().manual_seed(0)).upper[0]
    assert torch.equal(noisy, again) and not torch.allclose(plain, noisy)


def test_features_are_brought_to_one_scale_over_all_cells() -> None:
    net, given = network(normalise_features="layer"), contexts()
    start, scaled = net.begin(given).upper[0], net.begin(5 * given - 1).upper[0]
    torch.testing.assert_close(start, scaled, rtol=1e-3, atol=1e-3)
    fainter = given.clone()
    fainter[:, 1, 1] *= 0.1
    assert not torch.allclose(start, net.begin(fainter).upper[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("core", ("rnn", "lstm", "gru"))
def test_the_cells_reach_the_classes_only_through_the_locations(core) -> None:
    net, given = network(core=core), contexts().requires_grad_()
    steps = observations(net.config, 4)
    held, free = net.begin(given), net.begin(given)
    for step in steps[1:]:
        held = net.look(step["glimpse"], torch.zeros(4, 2).double(), held)
        free = net.look(step["glimpse"], net.where(free).mode(), free)
    (gradient,) = torch.autograd.grad(net.classify(held).square().sum(), given, allow_unused=True)
    assert gradient is None or torch.equal(gradient, torch.zeros_like(gradient))
    (gradient,) = torch.autograd.grad(net.classify(free).square().sum(), given)
    assert gradient.abs().sum() > 0, "through the locations there must be a way"


@pytest.mark.parametrize("mode", ("policy", "mix"))
def test_a_step_trains_the_shared_layer_by_the_policy(mode) -> None:
    agent = ReinforceAgent(
        tiny(**CELLS), ReinforceConfig(location_gradient=mode, baseline="none"), device="cpu"
    )
    steps = observations(agent.config, 4, dtype=torch.float32)
    trajectory = play(agent, steps, LABELS, reward=lambda locations: 1.0 + locations[0, :, 0])
    agent.compute_gradients(trajectory)
    assert agent.network.context.cell.weight.grad.abs().sum() > 0


def test_the_grid_follows_the_observation_space() -> None:
    env = TargetEnv(4)
    both = env.single_observation_space, env.single_action_space
    agent = ReinforceAgent.from_spaces(*both, network=tiny(**CELLS), device="cpu")
    assert (agent.config.context_grid, agent.config.context_channels) == (1, None)
    cells = spaces.Box(-np.inf, np.inf, (2, 2, 5), np.float32)
    both = spaces.Dict(dict(env.single_observation_space) | {"context": cells}), both[1]
    agent = ReinforceAgent.from_spaces(*both, network=tiny(), device="cpu")
    assert (agent.config.context_grid, agent.config.context_channels) == (2, 5)
    assert agent.config.context_shape == (2, 2, 5)


def test_a_context_of_another_grid_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"\(3, 3, 7\), the environment shows \(5,\).*context_grid"
    ):
        network().begin(torch.zeros(4, 5).double())


def test_without_a_grid_nothing_is_new(tmp_path) -> None:
    """A checkpoint of before there were grids opens, and goes on as it would have."""
    agent = ReinforceAgent(tiny(), device="cpu", seed=5)
    names = {name for name, _ in agent.network.context.named_parameters()}
    assert names == {"linear.weight", "linear.bias"}
    steps = observations(agent.config, 4, dtype=torch.float32)
    agent.update(play(agent, steps, LABELS))
    agent.save(tmp_path)
    network_names = (
        "context_grid",
        "context_channels",
        "cell_width",
        "context_norm",
        "context_dropout",
        "location_input",
        "location_hidden",
        "location_head",
    )
    learning_names = (
        "discount",
        "policy_gradient",
        "glimpse_loss",
        "sigma_decay",
        "sigma_floor",
        "classifier_epochs",
        "policy_epochs",
    )

    def forget(metadata):
        for name in network_names:
            del metadata["agent"]["network"][name]
        for name in learning_names:
            del metadata["agent"]["learning"][name]
        metadata["agent"]["learning"] |= {"reward": "accuracy", "baseline": "network"}

    resave(tmp_path, forget)
    again = ReinforceAgent.load(tmp_path, device="cpu")
    metrics = [each.update(play(each, steps, LABELS)) for each in (agent, again)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_grid": 0}, "context_grid is at least 1"),
        ({"context_channels": 0}, "context_channels is at least 1"),
        ({"cell_width": 0}, "cell_width is at least 1"),
        ({"context_dropout": 1.0}, "context_dropout is at least 0 and below 1"),
        ({"location_hidden": -1}, "location_hidden is at least 0"),
        ({"location_input": "told"}, "location_input must be one of"),
    ],
)
def test_wrong_settings_are_told(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        TwoDeckConfig(**changes)
