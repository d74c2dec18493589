"""PPO as one file of plain torch, in the manner of CleanRL's, on the vector environment."""

from __future__ import annotations

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

import glimpse_env  # noqa: F401
from glimpse_env.wrappers import VectorFlatAction, VectorFlatObservation
from tests.clients.helpers import GAME

COPIES, STEPS, EPOCHS = 8, 12, 2


class Agent(nn.Module):
    def __init__(self, num_observations: int, num_actions: int) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(num_observations, 32), nn.Tanh())
        self.mean = nn.Linear(32, num_actions)
        self.critic = nn.Linear(num_observations, 1)
        self.log_std = nn.Parameter(torch.zeros(num_actions))

    def forward(self, seen: Tensor, action: Tensor | None = None) -> tuple[Tensor, ...]:
        normal = torch.distributions.Normal(self.mean(self.actor(seen)), self.log_std.exp())
        action = normal.sample() if action is None else action
        return action, normal.log_prob(action).sum(1), self.critic(seen).squeeze(1)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_ppo_in_one_file(mode: AutoresetMode) -> None:
    torch.manual_seed(0)
    envs = gymnasium.make_vec(
        "SyntheticDogsGlimpse-v0",
        num_envs=COPIES,
        vectorization_mode="vector_entry_point",
        split="train",
        array="torch",
        autoreset_mode=mode,
        **GAME,
    )
    envs = VectorFlatObservation(VectorFlatAction(envs))
    size, actions = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    agent = Agent(size, actions)
    optimiser = torch.optim.Adam(agent.parameters(), lr=1e-3)
    before = [value.detach().clone() for value in agent.parameters()]

    seen = torch.as_tensor(envs.reset(seed=0)[0])
    started = torch.zeros(COPIES)
    episodes, returns = 0, set()
    for _ in range(2):
        kept: list[tuple[Tensor, ...]] = []
        with torch.no_grad():
            for _ in range(STEPS):
                action, log_prob, value = agent(seen)
                after, reward, terminated, truncated, _ = envs.step(action)
                kept.append((seen, action, log_prob, value, reward.float(), started))
                seen, started = after, torch.logical_or(terminated, truncated).float()
                episodes += int(started.sum())
                returns |= set(reward[started.bool()].tolist())
            advantage, following = torch.zeros(COPIES), agent(seen)[2]
            advantages, ended = [], started
            for _, _, _, value, reward, begun in reversed(kept):
                delta = reward + 0.99 * following * (1 - ended) - value
                advantage = delta + 0.99 * 0.95 * (1 - ended) * advantage
                advantages.insert(0, advantage)
                following, ended = value, begun
        parts = [torch.cat(values) for values in zip(*kept, strict=True)]
        observations, given, old, values = parts[:4]
        gained = torch.cat(advantages)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(gained)).split(32):
                _, new, estimate = agent(observations[rows], given[rows])
                ratio = (new - old[rows]).exp()
                scaled = (gained[rows] - gained[rows].mean()) / (gained[rows].std() + 1e-8)
                surrogate = torch.min(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled)
                target = gained[rows] + values[rows]
                loss = -surrogate.mean() + 0.5 * (estimate - target).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                assert torch.isfinite(loss)
    # An episode is two steps; under NEXT_STEP one more passes between episodes.
    length = 2 if mode == AutoresetMode.SAME_STEP else 3
    assert episodes == COPIES * 2 * STEPS // length and returns <= {0.0, 1.0}
    assert any(
        not torch.equal(old, new) for old, new in zip(before, agent.parameters(), strict=True)
    )
    envs.close()
