"""Where the agent chooses the scale too: a third coordinate of the location, and nothing else."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reference.agent import ReferenceAgent, center, uniform
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from tests.agents.toys import TargetEnv, observations, play, resave, tiny

LABELS = torch.tensor([0, 2, 1, 0])


class ScaleEnv(TargetEnv):
    """The label shows at one scale, +0.8 or -0.8, wherever one looks; the context tells which."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.single_action_space["scale"] = spaces.Box(-1, 1, (1,), np.float32)

    def step(self, actions):
        if self.taken < self.T:
            assert actions["scale"].dtype == np.float32
            assert actions["scale"].shape == (self.num_envs, 1)
            self.scales = actions["scale"][:, 0].copy()
        return super().step(actions)

    def _observe(self, glimpse):
        sign = np.sign(self.target[:, 0])
        if self.taken:
            fade = np.exp(-0.5 * ((self.scales - 0.8 * sign) / 0.4) ** 2)
            glimpse = self.rng.normal(size=(self.num_envs, 1, self.D))
            glimpse[np.arange(self.num_envs), 0, self.labels] += 4.0 * fade
        context = np.zeros((self.num_envs, self.D), np.float32)
        context[:, 0], context[:, 1] = sign > 0, sign < 0
        return super()._observe(glimpse) | {"context": context}


def make(activation="relu", **learning) -> ReinforceAgent:
    network = tiny(choose_scale=True, sigma=0.4, scale_sigma=0.9, activation=activation)
    return ReinforceAgent(network, ReinforceConfig(**learning), device="cpu")


def steps_of(agent):
    return observations(agent.config, 4, dtype=torch.float32)


def small(**changes) -> TwoDeckConfig:
    widths = {"hidden_size": 64, "image_width": 64, "location_width": 32, "glimpse_width": 64}
    return TwoDeckConfig(**(widths | changes))


def test_actions_hold_a_scale_that_the_retina_clips_and_the_network_does_not():
    agent = make()
    agent.network.location.means.bias.data[2] = 1.2
    trajectory = play(agent, steps_of(agent), LABELS)
    locations = torch.stack([state.location for state in trajectory.states[:-1]]).detach()
    assert locations.shape == (2, 4, 3) and locations[..., 2].max() > 1.0
    assert torch.equal(trajectory.scales, locations[..., 2].clamp(-1, 1))
    assert torch.equal(trajectory.fixations, locations[..., :2].clamp(-1, 1))
    action, _ = agent.act(steps_of(agent)[-1], trajectory.states[-2])
    assert torch.equal(action["scale"], torch.zeros(4, 1)), "an answer looks nowhere"


def test_the_network_knows_the_scale_it_chose():
    agent = make()
    glimpses = torch.rand(2, 4, 2, 5)
    places = torch.zeros(2, 4, 3)
    scored = agent.score(glimpses, places)
    assert torch.equal(scored, agent.score(glimpses, places[..., :2])), "scale 0 if none is given"
    places[..., 2] = 0.7
    assert not torch.allclose(scored, agent.score(glimpses, places))


def test_without_it_nothing_has_a_third_coordinate():
    agent = ReinforceAgent(tiny(scale_sigma=9.0), device="cpu")
    trajectory = play(agent, steps_of(agent), LABELS)
    assert trajectory.scales is None
    assert trajectory.states[0].location.shape == (4, 2)
    assert trajectory.states[0].density.mode().shape == (4, 2)


def test_metrics_tell_the_scales_apart_from_the_places():
    agent = make(activation="tanh")
    weight, bias = agent.network.location.means.weight, agent.network.location.means.bias
    weight.data[:] = 0.0
    bias.data[:] = torch.tensor([0.1, 0.2, -0.5])
    metrics = agent.update(play(agent, steps_of(agent), LABELS))
    assert metrics["scale_mean"] == pytest.approx(-0.5)
    assert metrics["scale_spread"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["fixation_spread"] == pytest.approx(0.0, abs=1e-7)
    weight.data[:] = 0.0
    weight.data[2] = torch.tensor([1.0, -1.0] * 3)
    trajectory = play(agent, steps_of(agent), LABELS)
    modes = np.stack([s.density.mode().detach().numpy() for s in trajectory.states[:-1]])
    metrics = agent.update(trajectory)
    spread = modes[..., 2].clip(-1, 1).std(axis=1).mean()
    assert spread > 1e-3
    assert metrics["scale_spread"] == pytest.approx(spread, rel=1e-4)
    assert metrics["scale_mean"] == pytest.approx(modes[..., 2].clip(-1, 1).mean(), rel=1e-4)
    assert metrics["fixation_spread"] == pytest.approx(0.0, abs=1e-7)
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_border_penalty_calls_a_scale_back():
    agent = make(border_weight=0.5)
    agent.network.location.means.weight.data[:] = 0.0
    agent.network.location.means.bias.data[:] = torch.tensor([0.0, 0.0, -1.4])
    objective = agent.objective(play(agent, steps_of(agent), LABELS))
    assert objective.regulariser.item() == pytest.approx(0.5 * 2 * 0.4**2, rel=1e-5)


def test_mixtures_start_on_a_ring_at_the_ordinary_scale():
    network = tiny(choose_scale=True, location_density="mixture", num_components=3)
    bias = ReinforceAgent(network, device="cpu").network.location.means.bias.view(3, 3)
    plain = ReinforceAgent(tiny(location_density="mixture", num_components=3), device="cpu")
    torch.testing.assert_close(bias[:, :2], plain.network.location.means.bias.view(3, 2))
    assert not bias[:, 2].any()


def test_references_look_at_the_ordinary_scale():
    for chooser in (center, uniform):
        agent = ReferenceAgent(chooser, tiny(choose_scale=True), device="cpu")
        trajectory = play(agent, steps_of(agent), LABELS)
        assert torch.equal(trajectory.scales, torch.zeros(2, 4))
        assert all(math.isfinite(value) for value in agent.update(trajectory).values())


def test_from_spaces_follows_the_action_space():
    for env, chooses in ((ScaleEnv(4), True), (TargetEnv(4), False)):
        agent = ReinforceAgent.from_spaces(
            env.single_observation_space, env.single_action_space, network=small(), device="cpu"
        )
        assert agent.config.choose_scale is chooses


def test_a_checkpoint_of_before_there_were_scales_goes_on(tmp_path):
    agent = ReinforceAgent(tiny(), device="cpu", seed=5)
    agent.update(play(agent, steps_of(agent), LABELS))
    agent.save(tmp_path)

    def forget(metadata):
        for name in ("choose_scale", "scale_sigma"):
            del metadata["agent"]["network"][name]

    resave(tmp_path, forget)
    again = ReinforceAgent.load(tmp_path, device="cpu")
    metrics = [each.update(play(each, steps_of(each), LABELS)) for each in (agent, again)]
    assert metrics[0] == metrics[1]


def test_a_saved_agent_goes_on_exactly(tmp_path):
    agent = make()
    agent.update(play(agent, steps_of(agent), LABELS))
    agent.save(tmp_path)
    again = ReinforceAgent.load(tmp_path, device="cpu")
    assert again.config == agent.config
    metrics = [each.update(play(each, steps_of(each), LABELS)) for each in (agent, again)]
    assert metrics[0] == metrics[1]


def test_it_learns_which_scale_to_look_at():
    """The ordinary scale shows little, and no place makes up for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of another order would be other numbers
    try:
        scores = {}
        for name in ("learned", "center"):
            env = ScaleEnv(64)
            spaces_of = env.single_observation_space, env.single_action_space
            learning = ReinforceConfig(learning_rate=0.05)
            agent = ReinforceAgent.from_spaces(
                *spaces_of, network=small(num_glimpses=1), learning=learning, device="cpu"
            )
            if name == "center":
                agent = ReferenceAgent(center, agent.config, learning, device="cpu")
            trajectory = collect(env, agent, seed=0, grad=True)
            for _ in range(200 if name == "learned" else 100):
                agent.update(trajectory)
                trajectory = collect(env, agent, observation=trajectory.next_observation, grad=True)
            held_out = ScaleEnv(1024)
            trajectory = collect(held_out, agent, seed=1, deterministic=True)
            scores[name] = trajectory.success.double().mean().item()
            if name == "learned":
                right = trajectory.steps[0]["context"][:, 0] > 0.5
                assert trajectory.scales.shape == (1, 1024)
                assert trajectory.scales[0, right].mean() > 0.4
                assert trajectory.scales[0, ~right].mean() < -0.4
    finally:
        torch.set_num_threads(threads)
    assert scores["learned"] > max(0.85, scores["center"] + 0.3), scores
