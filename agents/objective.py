"""What one batch teaches: the terms of equation 12 (Ba et al. 2014), from a rollout's graph."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from agents import losses
from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.densities.base import LatticeDensity
from agents.lattice import Everywhere
from agents.location import told_location
from agents.networks import TwoDeckNetwork
from agents.trajectory import Trajectory


class Objective(NamedTuple):
    """The terms of equation 12 for one batch, each with its weight."""

    classification: Float[Tensor, ""]
    policy: Float[Tensor, ""]
    baseline: Float[Tensor, ""]
    regulariser: Float[Tensor, ""]
    """Penalty on means beyond the border, less the bonus on the density's entropy."""
    returns: Float[Tensor, " B"]
    """R, what an episode earned in all."""
    to_go: Float[Tensor, "T B"]
    """What the sampled location of each glimpse is credited with."""
    baselines: Float[Tensor, "T B"]
    """b of each location; zeros without a baseline."""

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum of the weighted terms, which is minimised."""
        return self.classification + self.policy + self.baseline + self.regulariser


def build_objective(
    trajectory: Trajectory,
    network: TwoDeckNetwork,
    learning: ReinforceConfig,
    *,
    learns_where: bool,
) -> Objective:
    """Return the losses of one batch, on the graph of its rollout.

    Args:
        trajectory: Collected with `grad=True`, checked by `agents.learning.check_trajectory`.
        network: That acted; the exact policy gradient asks it about other places.
        learning: Weights and estimators.
        learns_where: Whether locations came from the location network, and are to be learned.
    """
    states = trajectory.states
    classification = _classification(trajectory, learning)
    rewards = step_rewards(trajectory, learning)
    returns = rewards.sum(0)
    none = torch.zeros_like(classification)
    nothing = torch.zeros_like(rewards)
    if not learns_where:
        return Objective(classification, none, none, none, returns, nothing, nothing)

    densities = [state.density for state in states[:-1]]
    regulariser = none
    if learning.border_weight > 0:
        excess = torch.stack([density.border_excess() for density in densities])
        regulariser = learning.border_weight * excess.sum(0).mean()
    if learning.entropy_weight > 0:
        bonus = torch.stack([density.entropy() for density in densities]).sum(0).mean()
        regulariser = regulariser - learning.entropy_weight * bonus
    to_go = losses.returns_to_go(rewards, learning.discount)
    if learning.location_gradient == "backprop":
        return Objective(classification, none, none, regulariser, returns, to_go, nothing)

    exact = none
    if learning.policy_gradient == "exact":
        # What a glimpse earns itself is summed over all places; its sample keeps the rest.
        to_go = to_go - rewards
        exact = _exact_loss(trajectory, network, learning)
    baselines, baseline = nothing, none
    if learning.baseline_kind == "network":
        baselines = torch.stack([state.baseline for state in states[:-1]])
        if learning.policy_gradient == "exact":  # nothing follows the last glimpse
            baselines = torch.cat((baselines[:-1], nothing[-1:]))
        baseline = learning.baseline_weight * losses.baseline_loss(baselines, to_go)
    elif learning.baseline_kind == "leave_one_out":
        baselines = losses.leave_one_out(to_go, learning.samples)
    log_prob = torch.stack(
        [state.density.log_prob(state.location.detach()) for state in states[:-1]]
    )
    policy = learning.reinforce_weight * (
        losses.reinforce_loss(log_prob, to_go - baselines) + exact
    )
    return Objective(classification, policy, baseline, regulariser, returns, to_go, baselines)


def _classification(trajectory: Trajectory, learning: ReinforceConfig) -> Float[Tensor, ""]:
    """Cross-entropy of the answer, and with a weight that after every earlier glimpse."""

    def loss(state: Any) -> Float[Tensor, ""]:
        return losses.classification_loss(
            state.log_probs, trajectory.labels, learning.label_smoothing
        )

    *earlier, last = trajectory.states[1:]
    total = loss(last)
    if learning.glimpse_loss > 0:
        for state in earlier:
            total = total + learning.glimpse_loss * loss(state)
    return total


def step_rewards(trajectory: Trajectory, learning: ReinforceConfig) -> Float[Tensor, "T B"]:
    """Return the reward of each glimpse: by `gain` its own share, else all at the last one.

    By `accuracy` it is the environment's own, which may reward each look.

    Before the first glimpse nothing is known: p_0(y) = 1 / K.
    """
    kind, labels = learning.reward_kind, trajectory.labels[:, None]
    last = trajectory.states[-1].log_probs
    if kind == "gain":
        told = [
            state.log_probs.detach().gather(1, labels).squeeze(1) for state in trajectory.states[1:]
        ]
        unknown = torch.full_like(told[0], -math.log(last.shape[1]))
        return torch.diff(torch.stack([unknown, *told]), dim=0)
    if kind == "accuracy" and trajectory.rewards is not None:
        return trajectory.rewards.to(last)
    rewards = last.new_zeros(trajectory.num_glimpses, trajectory.batch)
    if kind == "log_likelihood":
        rewards[-1] = last.detach().gather(1, labels).squeeze(1)
    else:
        rewards[-1] = trajectory.returns.to(last.dtype)
    return rewards


def _exact_loss(
    trajectory: Trajectory, network: TwoDeckNetwork, learning: ReinforceConfig
) -> Float[Tensor, ""]:
    """Policy loss of what each glimpse earns itself, summed over the places of a lattice."""
    everywhere = trajectory.everywhere
    if everywhere is None:
        raise ValueError(
            "policy_gradient='exact' asks what the images show at every point of a lattice, and "
            "this trajectory does not say: train from a feature bank, or use 'sampled'."
        )
    gains = learning.reward_kind == "gain"
    glimpses = range(trajectory.num_glimpses) if gains else [trajectory.num_glimpses - 1]
    masses, rewards = [], []
    for n in glimpses:
        state = trajectory.states[n]
        if not isinstance(state.density, LatticeDensity):
            raise ValueError(
                f"policy_gradient='exact' needs a density with cell_masses, which "
                f"{type(state.density).__name__} has not: use policy_gradient='sampled'."
            )
        masses.append(state.density.cell_masses(everywhere.lattice))
        rewards.append(rewards_everywhere(network, everywhere, state, trajectory.labels, learning))
    return losses.exact_policy_loss(torch.stack(masses), torch.stack(rewards))


@torch.no_grad()
def rewards_everywhere(
    network: TwoDeckNetwork,
    everywhere: Everywhere,
    state: Any,
    labels: Tensor,
    learning: ReinforceConfig,
) -> Float[Tensor, "B L"]:
    """Compute what the next glimpse would earn at each place, after what was seen so far.

    Without dropout. By `gain` up to log p of the glimpse before, which is the same at every place
    and so has no gradient.
    """
    config: TwoDeckConfig = network.config
    found = []
    for point, features in zip(everywhere.lattice.points, everywhere.glimpses, strict=True):
        features = features.to(state.location)
        place = point.to(features).expand(len(features), -1)
        told = told_location(place, place, config.location_input)
        log_probs = network.classify(network.look(features, told, state.memory, upper=False))
        if learning.reward_kind == "accuracy":
            found.append((log_probs.argmax(-1) == labels).to(log_probs))
        else:
            found.append(log_probs.gather(1, labels[:, None]).squeeze(1))
    return torch.stack(found, 1)
