"""What agents see and do in one step, and the record of whole episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.lattice import Everywhere

Observation = dict[str, Tensor]
"""context, glimpse, fixation and remaining, each `[B, ...]`; see the environment's spaces."""
Action = dict[str, Tensor]
"""fixation, float32 `[B, 2]` in [-1, 1], and label, int64 `[B]`; where the environment's action
space has a scale, also scale, float32 `[B, 1]` in [-1, 1]."""


@dataclass(frozen=True)
class Trajectory:
    """B whole episodes of T glimpses, in step with one another, time-major.

    Observations number T + 1: the first shows the context before any look, each of the T looks
    adds one, and the label is given on the last. The one returned together with the reward adds
    nothing that was not seen before, so it is not kept. States number T + 1 too: `states[t]` is
    what the policy made of `steps[t]`; collected with `grad=True` they carry the graph, and
    learning needs no second forward pass.
    """

    steps: tuple[Observation, ...]
    """T + 1 observations, each a dict of `[B, ...]`."""
    states: tuple[Any, ...]
    """T + 1 states, each as `act` returned it."""
    fixations: Float[Tensor, "T B 2"]
    """Where the retina looked, within [-1, 1]: the action, or what a bank's lattice made of it."""
    answers: Int[Tensor, " B"]
    """The classes named."""
    labels: Int[Tensor, " B"]
    """The true classes."""
    images: Int[Tensor, " B"]
    """Indices of the images."""
    returns: Float[Tensor, " B"]
    """Sum of an episode's rewards: 1 when the answer was right, where no look is rewarded."""
    success: Bool[Tensor, " B"]
    """Whether the answer was right, as the environment says."""
    next_observation: Mapping[str, Any] | None
    """First observation, as the environment gave it, of the next episodes where the environment
    has already begun them (SAME_STEP): pass it to the next `collect`, or those images are lost.
    Otherwise None."""
    scales: Float[Tensor, "T B"] | None = None
    """The zooms chosen, within [-1, 1], where the policy chooses them; a bank rounds them."""
    rewards: Float[Tensor, "T B"] | None = None
    """What each look earned, the answer's reward added to the last: zeros before it where the
    environment rewards the answer alone."""
    everywhere: Everywhere | None = None
    """The images at all points of a bank's lattice, for the exact policy gradient."""

    @property
    def num_glimpses(self) -> int:
        """T, the number of glimpses of an episode."""
        return self.fixations.shape[0]

    @property
    def batch(self) -> int:
        """B, the number of episodes."""
        return self.fixations.shape[1]

    @cached_property
    def observations(self) -> dict[str, Tensor]:
        """The observations stacked to `[T + 1, B, ...]`, copied on first use."""
        return {key: torch.stack([step[key] for step in self.steps]) for key in self.steps[0]}
