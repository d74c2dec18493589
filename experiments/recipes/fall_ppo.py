"""PPO with a critic of its own, paid by the fall of cross-entropy at every look.

The recipe is AdaptiveNN's (Wang et al., *Emulating Human-like Adaptive Vision for Efficient and
Flexible Machine Visual Perception*): a look earns what it takes off the classifier's cross-entropy,
the classifier learns from the label after every look and hands the policy no gradient, the context
keeps its layout, and the policy is a Gaussian whose sigma falls from 0.25 to 0.10.

    glimpse train --policy experiments.recipes.fall_ppo:FallPPO
    glimpse compare look-synthetic --players fall-ppo

On the look track another classifier answers, and the fall of *its* cross-entropy is what the
environment pays; elsewhere it is the fall of this policy's own.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from agents.networks import standardise
from agents.trajectory import Action, Observation, Trajectory


class FallPPO(nn.Module):
    """The policy: a recurrent trunk over looks, with heads for place, value and class."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Dict,
        *,
        num_glimpses: int = 3,
        seed: int = 0,
        paid_by: Literal["self", "environment"] = "self",
        width: int = 256,
        learning_rate: float = 1e-3,
        epochs: int = 4,
        clip: float = 0.2,
        sigmas: tuple[float, float] = (0.25, 0.10),
        updates: int = 500,
        scale: str = "root",
    ) -> None:
        """Build the networks.

        Args:
            observation_space: Of one environment, features.
            action_space: Of one environment.
            num_glimpses: T.
            seed: Of draws.
            paid_by: Whose cross-entropy must fall: this policy's own, or that of the environment,
                which says by how much it did.
            width: Units of each layer.
            learning_rate: Adam's.
            epochs: Passes of PPO over each batch.
            clip: How far a probability ratio may move.
            sigmas: Of the Gaussian at first, and after so many `updates`.
            updates: See there.
            scale: Of features, as `TwoDeckConfig.normalise_features`.
        """
        super().__init__()
        self.num_glimpses, self.paid_by, self.epochs, self.clip = (
            num_glimpses,
            paid_by,
            epochs,
            clip,
        )
        self.sigmas, self.last_update, self.scale = sigmas, updates, scale
        context = math.prod(observation_space["context"].shape or ())
        glimpse = math.prod(observation_space["glimpse"].shape or ())
        self.classes = int(action_space["label"].n)  # type: ignore[attr-defined]
        self.see_context = nn.Sequential(nn.Linear(context, width), nn.ReLU())
        self.see = nn.Sequential(nn.Linear(glimpse + 2, width), nn.ReLU())
        self.memory = nn.GRUCell(width, width)
        self.classify = nn.Linear(width, self.classes)
        self.actor = _head(2 * width + 1, width, 2)
        self.critic = _head(2 * width + 1, width, 1)
        self.done = 0
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Memory before anything is seen."""
        return {"memory": torch.zeros(batch, self.memory.hidden_size)}

    def act(
        self, observation: Observation, state: dict[str, Tensor], *, deterministic: bool = False
    ) -> tuple[Action, dict[str, Tensor]]:
        """Take a look in, choose the next place, and say what class it is so far."""
        with torch.no_grad():
            memory, inputs = self._take_in(observation, state["memory"])
            mean = self.actor(inputs).tanh()
        noise = torch.randn(mean.shape, generator=self.generator)
        place = mean if deterministic else mean + self.sigma * noise
        action = {
            "fixation": place.clamp(-1.0, 1.0),
            "label": self.classify(memory).argmax(-1),
        }
        return action, {"memory": memory, "place": place, "mean": mean}

    def class_log_probs(self, state: dict[str, Tensor]) -> Tensor:
        """Class log-probabilities after the looks so far."""
        return self.classify(state["memory"]).log_softmax(-1)

    def _take_in(self, observation: Observation, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory after an observation, and what actor and critic read."""
        context = self.see_context(standardise(observation["context"].flatten(1), self.scale))
        remaining = observation["remaining"]
        glimpse = standardise(observation["glimpse"], self.scale).flatten(1)
        seen = self.memory(self.see(torch.cat((glimpse, observation["fixation"]), 1)), memory)
        memory = torch.where(remaining < 1.0, seen, memory)  # there was no look before the first
        return memory, torch.cat((context, memory.detach(), remaining), 1)

    @property
    def sigma(self) -> float:
        """Standard deviation of the places, falling evenly."""
        share = min(1.0, self.done / self.last_update)
        return self.sigmas[0] + share * (self.sigmas[1] - self.sigmas[0])

    def update(self, trajectory: Trajectory) -> dict[str, float]:
        """Some passes of PPO and of the label loss over one batch of episodes."""
        looks = trajectory.num_glimpses
        places = torch.stack([state["place"] for state in trajectory.states[:looks]])
        old_means = torch.stack([state["mean"] for state in trajectory.states[:looks]])
        old = self._log_prob(old_means, places)
        rewards = self._rewards(trajectory)
        to_go = rewards.flip(0).cumsum(0).flip(0)
        for _ in range(self.epochs):
            means, values, logits = self._replay(trajectory)
            advantage = to_go - values.detach()
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
            ratio = (self._log_prob(means, places) - old).exp()
            clipped = ratio.clamp(1.0 - self.clip, 1.0 + self.clip)
            policy = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            value = (values - to_go).square().mean()
            label = functional.cross_entropy(logits.flatten(0, 1), trajectory.labels.repeat(looks))
            loss = policy + 0.5 * value + label
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            self.optimizer.step()
        self.done += 1
        return {
            "policy_loss": policy.item(),
            "value_loss": value.item(),
            "label_loss": label.item(),
            "earned": rewards.sum(0).mean().item(),
            "sigma": self.sigma,
        }

    def _replay(self, trajectory: Trajectory) -> tuple[Tensor, Tensor, Tensor]:
        """Means and values [T, B] before each look, logits [T, B, K] after it."""
        memory = self.initial_state(trajectory.batch)["memory"]
        means, values, logits = [], [], []
        for number, observation in enumerate(trajectory.steps):
            memory, inputs = self._take_in(observation, memory)
            if number:
                logits.append(self.classify(memory))
            if number < trajectory.num_glimpses:
                means.append(self.actor(inputs).tanh())
                values.append(self.critic(inputs.detach()).squeeze(-1))
        return torch.stack(means), torch.stack(values), torch.stack(logits)

    def _rewards(self, trajectory: Trajectory) -> Tensor:
        """Return what each look took off the cross-entropy [T, B]."""
        if self.paid_by == "environment":
            assert trajectory.rewards is not None
            return trajectory.rewards
        with torch.no_grad():
            told = [self.class_log_probs(state) for state in trajectory.states[1:]]
        truth = [each.gather(1, trajectory.labels[:, None]).squeeze(1) for each in told]
        unknown = torch.full_like(truth[0], -math.log(self.classes))
        return torch.diff(torch.stack([unknown, *truth]), dim=0)

    def _log_prob(self, means: Tensor, places: Tensor) -> Tensor:
        return -((places - means) / self.sigma).square().sum(-1) / 2.0

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Weights, and how far sigma has fallen."""
        return {"weights": dict(super().state_dict(*args, **kwargs)), "done": self.done}

    def load_state_dict(self, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Take them over; the optimiser begins anew."""
        self.done = int(state["done"])
        return super().load_state_dict(state["weights"], *args, **kwargs)


def _head(inputs: int, width: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(width, outputs)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), last)
