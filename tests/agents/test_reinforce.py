import copy
import json
import math

import pytest
import torch
from gymnasium import spaces

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.policy import AttentionPolicy, LearningPolicy
from agents.reference.agent import ReferenceAgent, center
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from agents.tensor_store import CheckpointError, load_checkpoint, save_checkpoint
from tests.agents.toys import TargetEnv, observations, play, resave, tiny

LABELS = torch.tensor([0, 2, 1, 0])


def make(network=None, seed=0, **learning) -> ReinforceAgent:
    return ReinforceAgent(
        tiny(**(network or {})), ReinforceConfig(**learning), device="cpu", seed=seed
    )


def small(**changes) -> TwoDeckConfig:
    sizes = {
        "feature_size": 16,
        "num_resolutions": 1,
        "num_classes": 4,
        "num_glimpses": 2,
        "hidden_size": 32,
        "image_width": 32,
        "location_width": 16,
        "glimpse_width": 32,
    }
    return TwoDeckConfig(**(sizes | changes))


def steps_of(config, batch=4, seed=0):
    return observations(config, batch, seed, dtype=torch.float32)


def test_it_is_a_policy_that_learns():
    agent = make()
    assert isinstance(agent, AttentionPolicy) and isinstance(agent, LearningPolicy)


def test_sampled_locations_replay_under_a_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    agent = make({"dropout": 0.5, "feature_dropout": 0.2})
    steps = steps_of(agent.config)
    first = play(agent, steps, LABELS)
    agent.seed(0)
    again = play(agent, steps, LABELS)
    other = play(agent, steps, LABELS)
    assert torch.equal(first.fixations, again.fixations)
    assert torch.equal(first.states[-1].log_probs, again.states[-1].log_probs)
    assert not torch.equal(first.fixations, other.fixations)
    assert torch.equal(before, torch.get_rng_state())


def test_two_agents_of_one_seed_are_the_same_agent():
    for (name, a), b in zip(
        make(seed=4).network.named_parameters(), make(seed=4).network.parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_deterministic_looks_at_the_mean_without_dropout():
    agent = make({"dropout": 0.5})
    steps = steps_of(agent.config)
    a, b = (play(agent, steps, LABELS, deterministic=True) for _ in range(2))
    assert torch.equal(a.states[-1].log_probs, b.states[-1].log_probs)
    for fixation, state in zip(a.fixations, a.states, strict=False):
        torch.testing.assert_close(fixation, state.density.mode())


def test_dropout_belongs_to_training():
    agent = make({"dropout": 0.5})
    steps = steps_of(agent.config)
    with torch.no_grad():
        trajectory = play(agent, steps, LABELS)
        glimpses = torch.stack([step["glimpse"] for step in steps[1:]])
        locations = torch.stack([state.location for state in trajectory.states[:-1]])
        torch.testing.assert_close(
            trajectory.states[-1].log_probs, agent.score(glimpses, locations)
        )
    trained = play(agent, steps, LABELS)
    locations = torch.stack([state.location for state in trained.states[:-1]])
    assert not torch.allclose(trained.states[-1].log_probs, agent.score(glimpses, locations))


def test_the_retina_clips_and_the_network_does_not():
    agent = make()
    agent.network.location.means.bias.data.fill_(2.5)
    trajectory = play(agent, steps_of(agent.config), LABELS, deterministic=True)
    assert trajectory.fixations.unique().tolist() == [1.0]
    assert trajectory.states[0].location.min() > 2.0


@pytest.mark.parametrize("core", ("rnn", "lstm", "gru"))
def test_rows_out_of_step_act_as_if_alone(core):
    """Three environments, each a step ahead of the one before, over two episodes each."""
    agent = make({"core": core, "num_glimpses": 3})
    episode = 4  # T + 1 steps
    alone = []
    walks = [
        [s for seed in (row, row + 10) for s in steps_of(agent.config, 1, seed)] for row in range(3)
    ]
    with torch.no_grad():
        for walk in walks:
            state, actions = agent.initial_state(1), []
            for observation in walk:
                action, state = agent.act(observation, state, deterministic=True)
                actions.append(action)
            alone.append(actions)
        # Row r starts r steps late: until then it shows its first observation, and starts again.
        state = agent.initial_state(3)
        for t in range(2 * episode):
            rows = [max(t - row, 0) for row in range(3)]
            observation = {
                key: torch.cat([walks[row][n][key] for row, n in enumerate(rows)])
                for key in walks[0][0]
            }
            action, state = agent.act(observation, state, deterministic=True)
            for row, n in enumerate(rows):
                torch.testing.assert_close(action["fixation"][row], alone[row][n]["fixation"][0])
                assert action["label"][row] == alone[row][n]["label"][0]


def test_a_state_from_elsewhere_is_refused():
    agent = make()
    with pytest.raises(ValueError, match="mid-episode"):
        agent.act(steps_of(agent.config)[1], agent.initial_state(4))
    with pytest.raises(ValueError, match="act first"):
        agent.class_log_probs(agent.initial_state(4))


def test_class_log_probs_are_there_after_any_glimpse():
    agent = make()
    trajectory = play(agent, steps_of(agent.config), LABELS)
    early = agent.class_log_probs(trajectory.states[1])
    assert early.shape == (4, 3) and not torch.allclose(early, trajectory.states[-1].log_probs)
    assert torch.equal(
        agent.class_log_probs(trajectory.states[-1]), trajectory.states[-1].log_probs
    )


def test_update_lowers_the_loss_on_a_batch_it_has_seen():
    agent = make(learning_rate=0.05)
    steps = steps_of(agent.config)
    history = [agent.update(play(agent, steps, LABELS)) for _ in range(150)]
    assert history[-1]["classification_loss"] < 0.3 * history[0]["classification_loss"]
    assert agent.updates == 150


def test_noise_does_not_drive_the_locations_out_of_the_image():
    """Features that do not depend on where one looks: all the policy gradient holds is noise."""
    furthest = {}
    for weight in (0.0, 1.0):
        agent = make({"hidden_size": 32}, learning_rate=0.05, border_weight=weight)
        steps = steps_of(agent.config, 16)
        labels = torch.arange(16) % 3
        for _ in range(200):
            agent.update(play(agent, steps, labels))
        states = play(agent, steps, labels).states[:-1]
        furthest[weight] = max(state.density.mode().abs().max().item() for state in states)
    assert furthest[0.0] > 1.5, "without the penalty they do leave, or this shows nothing"
    assert furthest[1.0] < 1.2


METRICS = {
    "classification_loss",
    "reinforce_loss",
    "baseline_loss",
    "regulariser",
    "accuracy",
    "return",
    "advantage",
    "explained_variance",
    "gradient_norm",
    "entropy",
    "fixation_spread",
    "fixation_entropy",
    "clipped_fixations",
    "learning_rate",
}


@pytest.mark.parametrize("mode", ("mix", "policy", "backprop"))
@pytest.mark.parametrize("density", ("gaussian", "mixture"))
@pytest.mark.parametrize("reward", ("accuracy", "log_likelihood"))
def test_metrics_are_complete_and_are_numbers(mode, density, reward):
    agent = make({"location_density": density}, location_gradient=mode, reward=reward)
    metrics = agent.update(play(agent, steps_of(agent.config), LABELS))
    assert set(metrics) == METRICS
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    json.dumps(metrics, allow_nan=False)


def test_metrics_describe_the_batch():
    agent = make(baseline="none")
    trajectory = play(agent, steps_of(agent.config), LABELS)
    accuracy = (trajectory.answers == LABELS).double().mean().item()
    modes = torch.stack([state.density.mode() for state in trajectory.states[:-1]])
    spread = modes.var(1, unbiased=False).mean(-1).sqrt().mean().item()
    metrics = agent.update(trajectory)
    assert metrics["accuracy"] == metrics["return"] == metrics["advantage"] == accuracy
    assert metrics["fixation_spread"] == pytest.approx(spread, rel=1e-6)


def test_log_likelihood_rewards_the_log_probability_of_the_truth():
    agent = make(reward="log_likelihood")
    trajectory = play(agent, steps_of(agent.config), LABELS)
    expected = trajectory.states[-1].log_probs[torch.arange(4), LABELS]
    torch.testing.assert_close(agent.objective(trajectory).returns, expected.detach())


def test_entropy_bonus_keeps_components_alive():
    """Alone, the bonus drives uneven weights towards even ones."""
    agent = make(
        {"location_density": "mixture", "num_components": 3},
        entropy_weight=5.0,
        reinforce_weight=0.0,
        learning_rate=0.05,
    )
    agent.network.location.logits.bias.data.copy_(torch.tensor([2.0, 0.0, -2.0]))
    steps = steps_of(agent.config)
    for _ in range(100):
        agent.update(play(agent, steps, LABELS))
    weights = play(agent, steps, LABELS).states[0].density.logits.softmax(-1)
    assert weights.min() > 0.25
    with pytest.raises(ValueError, match="location_density='mixture'"):
        make(entropy_weight=0.1)


def test_learning_rate_falls_by_the_epoch():
    agent = make(learning_rate=0.1, learning_rate_decay=0.5)
    agent.set_epoch(3)
    metrics = agent.update(play(agent, steps_of(agent.config), LABELS))
    assert metrics["learning_rate"] == pytest.approx(0.0125)


def test_weight_decay_spares_the_biases():
    agent = make(weight_decay=0.1)
    decays = {
        p: group["weight_decay"] for group in agent.optimizer.param_groups for p in group["params"]
    }
    for name, parameter in agent.network.named_parameters():
        assert decays[parameter] == (0.0 if name.endswith("bias") or "bias_" in name else 0.1), name


def test_gradients_are_clipped_to_the_norm_asked_for():
    agent = make(max_gradient_norm=0.01, learning_rate=1.0, momentum=1e-6)
    before = copy.deepcopy(agent.network.state_dict())
    metrics = agent.update(play(agent, steps_of(agent.config), LABELS))
    moved = sum((p - before[n]).square().sum() for n, p in agent.network.state_dict().items())
    assert metrics["gradient_norm"] > 0.02
    assert moved.sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_clipping_can_be_switched_off(tmp_path):
    agent = make(max_gradient_norm=None, learning_rate=1.0, momentum=1e-6)
    before = copy.deepcopy(agent.network.state_dict())
    metrics = agent.update(play(agent, steps_of(agent.config), LABELS))
    moved = sum((p - before[n]).square().sum() for n, p in agent.network.state_dict().items())
    assert moved.sqrt().item() == pytest.approx(metrics["gradient_norm"], rel=1e-3)
    agent.save(tmp_path)
    assert ReinforceAgent.load(tmp_path, device="cpu").learning.max_gradient_norm is None


@pytest.mark.parametrize("optimizer", ("sgd", "adam"))
def test_a_restored_agent_goes_on_exactly(tmp_path, optimizer):
    learning = ReinforceConfig(optimizer=optimizer, learning_rate=0.01)
    network = small(dropout=0.3)

    def train(agent, env, trajectory, updates):
        history = []
        for _ in range(updates):
            history.append(agent.update(trajectory))
            trajectory = collect(env, agent, observation=trajectory.next_observation, grad=True)
        return history, trajectory

    agent, env = ReinforceAgent(network, learning, device="cpu"), TargetEnv(32, 2)
    agent.set_epoch(2)
    _, trajectory = train(agent, env, collect(env, agent, seed=0, grad=True), 3)
    # The trajectory at hand was played before the save: the other agent starts at the next.
    agent.update(trajectory)
    agent.save(tmp_path / "checkpoint", {"note": "after four"})
    resumed = ReinforceAgent(network, learning, device="cpu", seed=99)
    assert resumed.restore(tmp_path / "checkpoint") == {"note": "after four"}
    assert (resumed.updates, resumed.epoch) == (4, 2)
    histories = []
    for each in (agent, resumed):
        env = TargetEnv(32, 2)
        histories.append(train(each, env, collect(env, each, seed=5, grad=True), 4)[0])
    assert histories[0] == histories[1]


def test_a_checkpoint_of_another_network_says_what_differs(tmp_path):
    make().save(tmp_path)
    with pytest.raises(CheckpointError, match="hidden_size: checkpoint 6, agent 7"):
        make({"hidden_size": 7}).restore(tmp_path)
    state = make().state_dict()
    with pytest.raises(CheckpointError, match=r"location.means.weight: checkpoint \(2, 6\), .*7"):
        make({"hidden_size": 7}).load_state_dict(state)
    with pytest.raises(CheckpointError, match="location.logits.weight: missing"):
        make({"location_density": "mixture"}).load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: checkpoint 'sgd', agent 'adam'"),
        ({"weight_decay": 0.5}, "weight_decay: checkpoint 0.0, agent 0.5"),
    ],
)
def test_an_optimiser_that_does_not_fit_is_refused_untouched(tmp_path, changes, message):
    saved = make(seed=1)
    saved.update(play(saved, steps_of(saved.config), LABELS))
    saved.save(tmp_path)
    agent = make(seed=2, **changes)
    before = copy.deepcopy(agent.state_dict()["network"])
    with pytest.raises(CheckpointError, match=message):
        agent.restore(tmp_path)
    assert all(torch.equal(before[name], p) for name, p in agent.network.state_dict().items())
    assert agent.updates == 0


def test_a_checkpoint_of_another_version_names_its_unknown_field(tmp_path):
    make().save(tmp_path)
    resave(tmp_path, lambda metadata: metadata["agent"]["learning"].update(warmup=3))
    with pytest.raises(CheckpointError, match="warmup"):
        ReinforceAgent.load(tmp_path, device="cpu")


def test_building_an_agent_reseeds_no_gpu(monkeypatch):
    def reseed(seed):
        raise AssertionError("GPU generators belong to the caller")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseed)
    before = torch.get_rng_state()
    make()
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_holds_both_configurations(tmp_path):
    agent = make({"core": "gru"}, reward="log_likelihood")
    agent.save(tmp_path)
    _, metadata = load_checkpoint(tmp_path)
    assert TwoDeckConfig(**metadata["agent"]["network"]) == agent.config
    assert ReinforceConfig(**metadata["agent"]["learning"]) == agent.learning
    built = ReinforceAgent.load(tmp_path, device="cpu")
    steps = steps_of(agent.config)
    ours, theirs = (play(each, steps, LABELS) for each in (agent, built))
    assert torch.equal(ours.states[-1].log_probs, theirs.states[-1].log_probs)
    reference = ReferenceAgent(center, tiny(), device="cpu")
    reference.save(tmp_path / "reference")
    built = ReferenceAgent.load(tmp_path / "reference", chooser=center, device="cpu")
    assert built.chooser is center and built.config == reference.config


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    save_checkpoint(tmp_path, {"weight": torch.zeros(1)}, {"note": "no agent"})
    with pytest.raises(CheckpointError, match="holds no agent"):
        ReinforceAgent.load(tmp_path)
    with pytest.raises(CheckpointError, match="holds no agent"):
        make().restore(tmp_path)


def test_samples_must_be_of_one_image():
    agent = make(samples=2, baseline="leave_one_out")
    trajectory = play(agent, steps_of(agent.config), LABELS)
    with pytest.raises(ValueError, match="options={'image'"):
        agent.update(trajectory)
    trajectory = type(trajectory)(**(vars(trajectory) | {"images": torch.tensor([3, 3, 5, 5])}))
    assert math.isfinite(agent.update(trajectory)["reinforce_loss"])


@pytest.mark.parametrize("poison", ("loss", "gradient"))
def test_a_number_that_is_not_finite_stops_training_before_it_spreads(poison):
    agent = make()
    steps = steps_of(agent.config)
    if poison == "loss":
        agent.network.classification.linear.weight.data.fill_(math.nan)
        message = "Update 0: the classification loss is nan"
    else:
        agent.network.core.lower.input.weight.register_hook(lambda grad: grad * math.inf)
        message = "Update 0: the gradient of core.lower.input.weight is not finite"
    trajectory = play(agent, steps, LABELS)
    before = copy.deepcopy(agent.network.state_dict())
    with pytest.raises(FloatingPointError, match=message):
        agent.update(trajectory)
    for name, value in agent.network.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_a_trajectory_without_a_graph_is_refused():
    agent = make()
    with torch.no_grad():
        trajectory = play(agent, steps_of(agent.config), LABELS)
    with pytest.raises(ValueError, match="grad=True"):
        agent.update(trajectory)


def test_another_number_of_glimpses_is_refused():
    agent, other = make({"num_glimpses": 3}), make()
    with pytest.raises(ValueError, match="set to 3 glimpses, the episodes have 2"):
        agent.update(play(other, steps_of(other.config), LABELS))


def test_from_spaces_reads_the_sizes():
    env = TargetEnv(4, 2)
    agent = ReinforceAgent.from_spaces(
        env.single_observation_space,
        env.single_action_space,
        network=small(feature_size=1, num_classes=9),
        device="cpu",
    )
    assert (agent.config.feature_size, agent.config.num_classes) == (16, 4)
    assert agent.config.hidden_size == 32
    pixels = spaces.Dict(
        env.single_observation_space.spaces
        | {"glimpse": spaces.Box(0, 255, (3, 96, 96, 3), "uint8")}
    )
    with pytest.raises(ValueError, match="observation='features'"):
        ReinforceAgent.from_spaces(pixels, env.single_action_space, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer must be one of sgd, adam"),
        ({"location_gradient": "both"}, "location_gradient must be one of mix, policy, backprop"),
        ({"learning_rate": 0.0}, "learning_rate is above 0"),
        ({"learning_rate": math.nan}, "learning_rate is above 0"),
        ({"max_gradient_norm": math.inf}, "max_gradient_norm is above 0 and below inf"),
        ({"momentum": 1.0}, "momentum is above 0 and below 1"),
        ({"weight_decay": -1.0}, "weight_decay is at least 0"),
        ({"baseline": "leave_one_out"}, "samples must be at least 2, not 1"),
        ({"samples": 0}, "samples is at least 1"),
    ],
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ReinforceConfig(**changes)
