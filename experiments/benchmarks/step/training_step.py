"""One agent and its free environment: a training step as users take it, and in parts."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.learning import batch_metrics, clip_gradients
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from agents.trajectory import Trajectory
from experiments.benchmarks.free_env import FreeVectorEnv
from experiments.benchmarks.step.step_work import products_of_step
from experiments.benchmarks.timing import wait

PARTS = ("collect", "losses", "first pass", "backward", "clip", "optimiser", "metrics")
"""A step's, in order."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measured step; the defaults are the claim's."""

    widths: tuple[int, ...] = (4096, 512)
    """Units a deck: the paper's first, then the experiments' table's."""
    batch: int = 128
    """B, environments, each of which gives one episode a step."""
    features: int = 1024
    """D, the features of a patch."""
    classes: int = 120
    """K, the number of classes."""
    inner: dict[str, Any] = field(default_factory=dict)
    """Other sizes of the network than its defaults."""
    squares: tuple[int, ...] = (1024, 2048, 4096)
    """Sides of the square products among which the peak is looked for."""
    moved: int = 64 * 2**20
    """Numbers that are moved to measure the bandwidth: more than any cache holds."""
    windows: int = 7
    seconds: float = 1.0
    """Least length of a window."""


QUICK = Sizes(
    widths=(8, 4),
    batch=4,
    features=16,
    classes=5,
    squares=(16, 32),
    moved=1024,
    windows=2,
    seconds=0.005,
    inner={"image_width": 12, "location_width": 6, "glimpse_width": 10},
)


class TrainingStep:
    """One agent and its environment: a step as users take it, and the same step in parts."""

    def __init__(
        self, width: int, sizes: Sizes, device: torch.device, batch: int | None = None
    ) -> None:
        """Build the agent with the paper's settings (vanilla core, Nesterov SGD, `mix`)."""
        network = TwoDeckConfig(hidden_size=width, **sizes.inner)
        self.env = FreeVectorEnv(
            batch or sizes.batch,
            features=sizes.features,
            resolutions=network.num_resolutions,
            classes=sizes.classes,
            num_glimpses=network.num_glimpses,
        )
        self.agent = ReinforceAgent.from_spaces(
            self.env.game.observation_space,
            self.env.game.action_space,
            network=network,
            learning=ReinforceConfig(),
            device=device,
        )
        self.observation: Mapping[str, Any] | None = None
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        self.parameters = sum(parameter.numel() for parameter in self.agent.network.parameters())
        self.products = products_of_step(self.agent.config, self.agent.learning, self.env.num_envs)

    def collect(self) -> Trajectory:
        """One episode of every environment."""
        trajectory = collect(self.env, self.agent, observation=self.observation, grad=True)
        self.observation = trajectory.next_observation
        return trajectory

    def whole(self) -> int:
        """One step; what the claim is about. A unit is an episode."""
        self.agent.update(self.collect())
        wait(self.agent.device)
        return self.env.num_envs

    def in_parts(self) -> int:
        """The same step by the same calls as `ReinforceAgent.update`, the clock read between."""
        agent, marks = self.agent, [self._now()]
        trajectory = self.collect()
        marks.append(self._now())
        objective = agent.objective(trajectory)
        agent.optimizer.zero_grad(set_to_none=True)
        marks.append(self._now())
        locations = [state.location for state in trajectory.states[:-1]]
        agent.path.keep_class_gradient(objective.classification, locations)
        marks.append(self._now())
        (
            objective.classification + objective.policy + objective.baseline + objective.regulariser
        ).backward()
        marks.append(self._now())
        norm = clip_gradients(agent.network, agent.learning.max_gradient_norm, agent.updates)
        marks.append(self._now())
        agent.optimizer.step()
        marks.append(self._now())
        batch_metrics(trajectory, objective, norm, learns_where=True)
        marks.append(self._now())
        for part, spent in zip(PARTS, np.diff(marks), strict=True):
            self.seconds[part].append(float(spent))
        return self.env.num_envs

    def counted_flops(self) -> dict[str, int]:
        """FLOPs of a real step, as torch counts them, of the rollout and of the update."""
        with FlopCounterMode(display=False) as rollout:
            trajectory = self.collect()
        with FlopCounterMode(display=False) as update:
            self.agent.update(trajectory)
        return {"collect": rollout.get_total_flops(), "update": update.get_total_flops()}

    def calls(self) -> dict[str, int]:
        """Count the torch operators and the Python and C functions that one step calls."""
        for _ in range(2):  # the first steps also allocate the optimiser's state
            self.whole()
        with _OperatorCount() as operators:
            self.whole()
        functions = 0

        def count(_frame: Any, event: str, _argument: Any) -> None:
            nonlocal functions
            functions += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            self.whole()
        finally:
            sys.setprofile(before)
        return {"operators": operators.count, "functions": functions}

    def _now(self) -> float:
        wait(self.agent.device)
        return time.perf_counter()


class _OperatorCount(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))
