"""Off-policy SAC with a label loss at every step.

The recipe is APPLE's (*Toward General Active Perception via Reinforcement Learning*, ICLR 2026): a
soft actor-critic whose recurrent trunk is shared by critics and classifier and learns from whole
episodes in a replay buffer, where every step has a classification loss beside the critics'; the
policy reads the trunk without a gradient into it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from agents.networks import standardise
from agents.trajectory import Action, Observation, Trajectory

_KEYS = ("context", "glimpse", "fixation", "remaining")


class Trunk(nn.Module):
    """Takes looks in, one after the other."""

    def __init__(self, context: int, glimpse: int, width: int) -> None:
        """Build the layers."""
        super().__init__()
        self.context = nn.Sequential(nn.Linear(context, width), nn.ReLU())
        self.glimpse = nn.Sequential(nn.Linear(glimpse + 2, width), nn.ReLU())
        self.memory = nn.GRUCell(width, width)

    def forward(self, observation: Observation, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory, and memory, context and time end to end."""
        context = self.context(standardise(observation["context"].flatten(1), "root"))
        glimpse = standardise(observation["glimpse"], "root").flatten(1)
        seen = self.glimpse(torch.cat((glimpse, observation["fixation"]), 1))
        memory = torch.where(observation["remaining"] < 1.0, self.memory(seen, memory), memory)
        return memory, torch.cat((context, memory, observation["remaining"]), 1)


class LabelSAC:
    """The policy, its critics, its classifier and its buffer of episodes."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Dict,
        *,
        seed: int = 0,
        width: int = 256,
        learning_rate: float = 1e-3,
        batch_size: int = 256,
        gradient_steps: int = 4,
        capacity: int = 8_192,
        discount: float = 0.99,
    ) -> None:
        """Build the networks.

        Args:
            observation_space: Of one environment, features.
            action_space: Of one environment.
            seed: Of draws.
            width: Units of each layer.
            learning_rate: Adam's.
            batch_size: Episodes a gradient step.
            gradient_steps: After every batch of episodes.
            capacity: Episodes kept.
            discount: Gamma.
        """
        context, glimpse = (math.prod(observation_space[key].shape or ()) for key in _KEYS[:2])
        self.classes = int(action_space["label"].n)  # type: ignore[attr-defined]
        self.width, self.discount = width, discount
        self.batch_size, self.gradient_steps, self.capacity = batch_size, gradient_steps, capacity
        inputs = 2 * width + 1
        critics = nn.ModuleList([_head(inputs + 2, width, 1) for _ in range(2)])
        parts = {"trunk": Trunk(context, glimpse, width), "critics": critics}
        self.learner = nn.ModuleDict(parts | {"classes": nn.Linear(width, self.classes)})
        self.target = copy.deepcopy(self.learner).requires_grad_(False)
        self.actor = _head(inputs, width, 4)
        self.log_alpha = nn.Parameter(torch.tensor(-3.0))
        groups = (self.learner.parameters(), self.actor.parameters(), [self.log_alpha])
        self.optimizers = [torch.optim.Adam(each, lr=learning_rate) for each in groups]
        self.generator = torch.Generator().manual_seed(seed)
        self.buffer: dict[str, Tensor] = {}
        self.kept, self.place = 0, 0

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Memory before anything is seen."""
        return {"memory": torch.zeros(batch, self.width)}

    @torch.no_grad()
    def act(
        self, observation: Observation, state: dict[str, Tensor], *, deterministic: bool = False
    ) -> tuple[Action, dict[str, Tensor]]:
        """Take a look in, choose the next place, and say what class it is so far."""
        memory, inputs = self.learner["trunk"](observation, state["memory"])
        place, _ = self._sample(inputs, deterministic)
        label = self.learner["classes"](memory).argmax(-1)
        return {"fixation": place, "label": label}, {"memory": memory}

    def _sample(self, inputs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """A place within [-1, 1] and the log of its density."""
        mean, log_std = self.actor(inputs).chunk(2, -1)
        log_std = log_std.clamp(-4.0, 1.0)
        noise = torch.randn(mean.shape, generator=self.generator)
        raw = mean if deterministic else mean + log_std.exp() * noise
        squashed = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        return raw.tanh(), (normal - squashed).sum(-1)

    def update(self, trajectory: Trajectory) -> dict[str, float]:
        """Keep the episodes, then take some gradient steps on episodes kept."""
        self._keep(trajectory)
        for _ in range(self.gradient_steps):
            rows = torch.randint(self.kept, (self.batch_size,), generator=self.generator)
            metrics = self._step({key: value[rows] for key, value in self.buffer.items()})
        return metrics | {"episodes_kept": float(self.kept)}

    def _keep(self, trajectory: Trajectory) -> None:
        assert trajectory.rewards is not None
        fresh = {key: trajectory.observations[key].transpose(0, 1).half() for key in _KEYS}
        fresh |= {"rewards": trajectory.rewards.T, "labels": trajectory.labels}
        rows = (self.place + torch.arange(trajectory.batch)) % self.capacity
        for key, value in fresh.items():
            if key not in self.buffer:
                shape = (self.capacity, *value.shape[1:])
                self.buffer[key] = torch.zeros(shape, dtype=value.dtype)
            self.buffer[key][rows] = value
        self.place = int(rows[-1] + 1) % self.capacity
        self.kept = min(self.capacity, self.kept + trajectory.batch)

    def _step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        looks = batch["rewards"].shape[1]
        memories, inputs = self._replay(self.learner, batch)
        with torch.no_grad():
            _, targets = self._replay(self.target, batch)
            alpha = self.log_alpha.exp()
        critic = label = torch.zeros(())
        for look in range(looks):
            wanted = batch["rewards"][:, look]
            if look + 1 < looks:  # the last look ends what places can earn
                with torch.no_grad():
                    place, log_prob = self._sample(inputs[look + 1])
                    value = self._critics(self.target, targets[look + 1], place).min(0).values
                    wanted = wanted + self.discount * (value - alpha * log_prob)
            taken = batch["fixation"][:, look + 1].float()
            found = self._critics(self.learner, inputs[look], taken)
            critic = critic + (found - wanted).square().mean()
            logits = self.learner["classes"](memories[look + 1])
            label = label + functional.cross_entropy(logits, batch["labels"])
        self._descend(0, critic + label)
        states = torch.cat(inputs[:looks]).detach()
        place, log_prob = self._sample(states)
        actor = (alpha * log_prob - self._critics(self.learner, states, place).min(0).values).mean()
        self._descend(1, actor)
        entropy = -log_prob.detach().mean()
        self._descend(2, self.log_alpha.exp() * (entropy + 2.0))  # SAC's target: -dim(A)
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.learner.parameters(), strict=True):
                old.lerp_(new, 0.005)
        return {"critic_loss": critic.item(), "label_loss": label.item() / looks}

    def _replay(self, nets: Any, batch: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        memory, memories, inputs = torch.zeros(len(batch["labels"]), self.width), [], []
        for step in range(batch["remaining"].shape[1]):
            observation = {key: batch[key][:, step].float() for key in _KEYS}
            memory, read = nets["trunk"](observation, memory)
            memories.append(memory)
            inputs.append(read)
        return memories, inputs

    def _critics(self, nets: Any, inputs: Tensor, place: Tensor) -> Tensor:
        pair = torch.cat((inputs, place), -1)
        return torch.stack([each(pair).squeeze(-1) for each in nets["critics"]])

    def _descend(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[which].step()

    def state_dict(self) -> dict[str, Any]:
        """Return what acts; training begins anew with an empty buffer."""
        learner, actor = dict(self.learner.state_dict()), dict(self.actor.state_dict())
        return {"learner": learner, "actor": actor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""
        self.learner.load_state_dict(state["learner"])
        self.target.load_state_dict(state["learner"])
        self.actor.load_state_dict(state["actor"])


def _head(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))
