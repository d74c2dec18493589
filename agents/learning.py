"""Parts of a learning step besides the losses: optimiser, learning rate, clipping, metrics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents import losses
from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.networks import TwoDeckNetwork
from agents.objective import Objective
from agents.trajectory import Trajectory


def make_optimizer(
    named: Iterable[tuple[str, torch.nn.Parameter]], learning: ReinforceConfig
) -> torch.optim.Optimizer:
    """Make Nesterov SGD or AdamW, with weight decay on matrices only.

    Fused, that is one pass over memory for each tensor: AdamW steps 3 to 8 times as fast on CPU.
    """
    parameters = [parameter for _, parameter in named]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": learning.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if learning.optimizer == "adam":
        betas = (learning.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=learning.learning_rate, betas=betas, fused=True)
    return torch.optim.SGD(
        groups, lr=learning.learning_rate, momentum=learning.momentum, nesterov=True, fused=True
    )


def decay_learning_rate(
    optimizer: torch.optim.Optimizer, learning: ReinforceConfig, epoch: int
) -> None:
    """Set the learning rate of an epoch: the first one's, times the decay for each epoch since."""
    rate = learning.learning_rate * learning.learning_rate_decay**epoch
    for group in optimizer.param_groups:
        group["lr"] = rate


def drop_classifier_gradients(network: TwoDeckNetwork) -> None:
    """Leave the classifier as it is in this step: what reads glimpses, r1 and the classes."""
    for part in (network.glimpse, network.core.lower, network.classification):
        part.zero_grad(set_to_none=True)


def clip_gradients(network: nn.Module, max_norm: float | None, update: int) -> Float[Tensor, ""]:
    """Scale the gradient of all parameters together to at most `max_norm` (None: not at all).

    Returns:
        The norm before.

    Raises:
        FloatingPointError: It is not finite; names the update and the tensors.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for _, p in named if p.grad is not None])
    if not bool(norm.isfinite()):
        bad = [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()]
        raise FloatingPointError(
            f"Update {update}: the gradient of "
            f"{', '.join(bad) or 'all tensors together'} is not finite. Lower the learning "
            "rate, raise sigma, or look for extreme features."
        )
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_([p for _, p in named], max_norm, norm)
    return norm


def check_trajectory(
    trajectory: Trajectory,
    network: TwoDeckConfig,
    learning: ReinforceConfig,
    *,
    learns_where: bool = True,
) -> None:
    """Check that a trajectory can be learned from.

    Args:
        trajectory: Of whole episodes.
        network: Says how many glimpses they have.
        learning: Says how many rows an image has, where its scanpaths are compared.
        learns_where: Whether they are: not by an agent whose fixations are given.

    Raises:
        ValueError: Another number of glimpses, no graph, or no blocks of one image a block.
    """
    if trajectory.num_glimpses != network.num_glimpses:
        raise ValueError(
            f"The network is set to {network.num_glimpses} glimpses, the episodes have "
            f"{trajectory.num_glimpses}: give both the same num_glimpses."
        )
    log_probs = getattr(trajectory.states[-1], "log_probs", None)
    if log_probs is None or not log_probs.requires_grad:
        raise ValueError(
            "The trajectory carries no graph of this agent to learn from: use "
            "collect(env, agent, grad=True), once for each update."
        )
    if learns_where and learning.samples > 1:
        blocks = trajectory.images.unflatten(0, (-1, learning.samples))
        if bool((blocks != blocks[:, :1]).any()):
            raise ValueError(
                f"samples={learning.samples} asks for blocks of that many rows of one "
                f"image: reset the environment with options={{'image': ...}}, each index "
                "repeated so often."
            )


@torch.no_grad()
def batch_metrics(
    trajectory: Trajectory,
    objective: Objective,
    norm: Float[Tensor, ""],
    *,
    learns_where: bool,
) -> dict[str, float]:
    """The metrics of one batch, as `ReinforceAgent.update` lists them."""
    right = trajectory.states[-1].log_probs.argmax(-1) == trajectory.labels
    values = {
        "classification_loss": objective.classification,
        "accuracy": right.double().mean(),
        "gradient_norm": norm,
        "fixation_entropy": losses.fixation_entropy(trajectory.fixations).mean(),
    }
    if learns_where:
        states = trajectory.states[:-1]
        locations = torch.stack([state.location for state in states])
        log_density = torch.stack([s.density.log_prob(s.location) for s in states])
        modes = torch.stack([state.density.mode() for state in states])
        values |= {
            "reinforce_loss": objective.policy,
            "baseline_loss": objective.baseline,
            "regulariser": objective.regulariser,
            "return": objective.returns.mean(),
            "advantage": (objective.to_go - objective.baselines).mean(),
            "explained_variance": losses.explained_variance(objective.baselines, objective.to_go),
            "entropy": -log_density.mean(),
            "fixation_spread": losses.fixation_spread(modes[..., :2]).mean(),
            "clipped_fixations": (locations[..., :2].abs() > 1.0).any(-1).double().mean(),
        }
        if modes.shape[-1] > 2:
            scales = modes[..., 2:].clamp(-1.0, 1.0)
            values |= {
                "scale_mean": scales.mean(),
                "scale_spread": losses.fixation_spread(scales).mean(),
            }
    numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))
