"""Small environments whose right behaviour is known, written with Gymnasium alone."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.lattice import Everywhere
from agents.networks import TwoDeckConfig
from agents.tensor_store import load_checkpoint, save_checkpoint
from agents.trajectory import Trajectory


def resave(folder, change):
    """Write a checkpoint again with other metadata: another's or an older, not a damaged one."""
    tensors, metadata = load_checkpoint(folder)
    change(metadata)
    save_checkpoint(folder, tensors, metadata)


class TargetEnv(VectorEnv):
    """Each image has a target off the centre. The context tells where, the glimpse tells the label
    there.

    Features of a glimpse: the label's one-hot, fading with the distance from the target, beside
    noise. Features of the context: the target, as bumps over the plane. At the centre nothing is
    seen.
    """

    def __init__(
        self, num_envs=128, num_glimpses=1, num_classes=4, mode=AutoresetMode.SAME_STEP, width=0.35
    ):
        self.num_envs, self.T, self.K, self.width = num_envs, num_glimpses, num_classes, width
        self.D = 16
        self.metadata = {"autoreset_mode": mode}
        axis = np.linspace(-0.8, 0.8, 4)
        self.bumps = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        self.single_observation_space = spaces.Dict(
            {
                "context": spaces.Box(-np.inf, np.inf, (self.D,), np.float32),
                "glimpse": spaces.Box(-np.inf, np.inf, (1, self.D), np.float32),
                "fixation": spaces.Box(-1, 1, (2,), np.float32),
                "remaining": spaces.Box(0, 1, (1,), np.float32),
            }
        )
        self.single_action_space = spaces.Dict(
            {
                "fixation": spaces.Box(-1, 1, (2,), np.float32),
                "label": spaces.Discrete(num_classes),
            }
        )
        self.rng = np.random.default_rng(0)
        self.image = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
            self.image = 0
        self._begin()
        return self._observe(np.zeros((self.num_envs, 1, self.D))), {"image": self.images.copy()}

    def step(self, actions):
        assert actions["fixation"].dtype == np.float32, actions["fixation"].dtype
        assert actions["label"].dtype == np.int64, actions["label"].dtype
        no, yes = np.zeros(self.num_envs, bool), np.ones(self.num_envs, bool)
        if self.taken < self.T:
            self.taken += 1
            self.fixation = actions["fixation"].copy()
            distance = np.square(self.fixation - self.target).sum(-1)
            seen = self.rng.normal(size=(self.num_envs, 1, self.D))
            fade = np.exp(-0.5 * distance / self.width**2)
            seen[np.arange(self.num_envs), 0, self.labels] += 4.0 * fade
            return self._observe(seen), np.zeros(self.num_envs), no, no, {"image": self.images}
        success = actions["label"] == self.labels
        info = {"label": self.labels, "is_success": success, "image": self.images}
        info |= {f"_{key}": yes for key in info}
        observation = self._observe(np.zeros((self.num_envs, 1, self.D)))
        if self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            final = observation
            self._begin()
            observation = self._observe(np.zeros((self.num_envs, 1, self.D)))
            info = {"final_obs": final, "final_info": info, "image": self.images}
        return observation, success.astype(float), yes, no, info

    def _begin(self):
        self.taken = 0
        self.fixation = np.zeros((self.num_envs, 2), np.float32)
        self.labels = self.rng.integers(self.K, size=self.num_envs)
        angle = self.rng.uniform(0, 2 * np.pi, self.num_envs)
        self.target = 0.7 * np.stack((np.cos(angle), np.sin(angle)), -1)
        self.images = np.arange(self.image, self.image + self.num_envs)
        self.image += self.num_envs

    def _observe(self, glimpse):
        distance = np.square(self.target[:, None] - self.bumps).sum(-1)
        return {
            "context": np.exp(-distance / 0.2).astype(np.float32),
            "glimpse": glimpse.astype(np.float32),
            "fixation": self.fixation.copy(),
            "remaining": np.full((self.num_envs, 1), 1 - self.taken / self.T, np.float32),
        }


def tiny(**changes) -> TwoDeckConfig:
    """A network small enough for finite differences."""
    sizes = {
        "feature_size": 5,
        "num_resolutions": 2,
        "num_classes": 3,
        "num_glimpses": 2,
        "hidden_size": 6,
        "image_width": 4,
        "location_width": 3,
        "glimpse_width": 5,
    }
    return TwoDeckConfig(**(sizes | changes))


def observations(config: TwoDeckConfig, batch: int, seed=0, dtype=torch.float64):
    """T + 1 observations whose features do not depend on where one looks: pixels give no
    gradient."""
    g = torch.Generator().manual_seed(seed)
    total = config.num_glimpses
    context = torch.rand(batch, *config.context_shape, generator=g, dtype=dtype)
    shape = (batch, config.num_resolutions, config.feature_size)
    return [
        {
            "context": context,
            "glimpse": torch.rand(shape, generator=g, dtype=dtype) * min(n, 1),
            "fixation": torch.zeros(batch, 2, dtype=dtype),
            "remaining": torch.full((batch, 1), (total - n) / total, dtype=dtype),
        }
        for n in range(total + 1)
    ]


def play(agent, steps, labels, *, deterministic=False, reward=None) -> Trajectory:
    """A rollout on given observations, without an environment.

    `reward(fixations [T, B, 2]) -> [B]` replaces the accuracy if given.
    """
    batch = labels.shape[0]
    state, states, fixations, scales = agent.initial_state(batch), [], [], []
    for observation in steps:
        action, state = agent.act(observation, state, deterministic=deterministic)
        states.append(state)
        fixations.append(action["fixation"])
        if "scale" in action:
            scales.append(action["scale"][:, 0].float())
    fixations = torch.stack(fixations[:-1]).float()
    right = action["label"] == labels
    locations = torch.stack([state.location for state in states[:-1]])
    returns = right.float() if reward is None else reward(locations)
    return Trajectory(
        steps=tuple(steps),
        states=tuple(states),
        fixations=fixations,
        answers=action["label"],
        labels=labels,
        images=torch.arange(batch),
        returns=returns.detach(),
        success=right,
        next_observation=None,
        scales=torch.stack(scales[:-1]) if scales else None,
    )


def play_on_lattice(agent, context, everywhere: Everywhere, labels) -> Trajectory:
    """A rollout in which each image shows, at the nearest point of a lattice, what it has there."""
    points, glimpses = everywhere.lattice.points.to(context), everywhere.glimpses
    batch, total = len(labels), agent.config.num_glimpses
    rows = torch.arange(batch)
    seen, fixation = torch.zeros_like(glimpses[0]), torch.zeros(batch, 2).to(context)
    state, steps, states, fixations = agent.initial_state(batch), [], [], []
    for n in range(total + 1):
        observation = {
            "context": context,
            "glimpse": seen,
            "fixation": fixation,
            "remaining": torch.full((batch, 1), (total - n) / total).to(context),
        }
        action, state = agent.act(observation, state)
        steps.append(observation)
        states.append(state)
        if n < total:
            nearest = torch.cdist(action["fixation"], points).argmin(1)
            seen, fixation = glimpses[nearest, rows], points[nearest]
            fixations.append(fixation)
    right = action["label"] == labels
    return Trajectory(
        steps=tuple(steps),
        states=tuple(states),
        fixations=torch.stack(fixations),
        answers=action["label"],
        labels=labels,
        images=torch.arange(batch) // agent.learning.samples,
        returns=right.float(),
        success=right,
        next_observation=None,
        everywhere=everywhere,
    )


class AnswerInTurn(gym.Env):
    """One look, then one answer, acted in `FlatAction`'s Box(2 + K). The cue says where and what.

    The return is half for the right label, and half for a fixation near the cue's place.
    """

    observation_space = spaces.Dict(
        {"cue": spaces.Box(0, 1, (4,)), "remaining": spaces.Box(0, 1, (1,))}
    )
    action_space: spaces.Space = spaces.Box(-1, 1, (6,))
    places = np.array([[-0.6, -0.6], [0.6, -0.6], [-0.6, 0.6], [0.6, 0.6]], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.truth, self.near = int(self.np_random.integers(4)), 0.0
        return self._observe(1.0), {}

    def step(self, action):
        if self.looking:
            self.near = float(np.exp(-4 * np.square(action[:2] - self.places[self.truth]).sum()))
            return self._observe(0.0), 0.0, False, False, {}
        right = float(np.argmax(action[2:]) == self.truth)
        return self._observe(0.0), (right + self.near) / 2, True, False, {}

    def _observe(self, remaining):
        self.looking = remaining > 0
        cue = np.eye(4, dtype=np.float32)[self.truth]
        return {"cue": cue, "remaining": np.array([remaining], np.float32)}
