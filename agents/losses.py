"""The terms of the objective and the diagnostics of the fixations, as pure functions.

Everything is time-major: T glimpses, B batch, C mixture components, K classes; A coordinates of a
location, x and y and, where it is chosen, the scale. Sources: Ba et al. (2014) equations 5, 11 and
12, which Sermanet et al. (2014) extend.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

LOG_TWO_PI = math.log(2.0 * math.pi)


def classification_loss(
    log_probs: Float[Tensor, "B K"], labels: Int[Tensor, " B"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the true classes, in nats: -log p(y | l_1..l_N).

    With smoothing s the target is not the true class alone but 1 - s of it and s of all classes
    alike (Szegedy et al. 2016): the cross-entropy with that mixture.
    """
    loss = functional.nll_loss(log_probs, labels)
    if smoothing == 0.0:
        return loss
    return (1.0 - smoothing) * loss - smoothing * log_probs.mean()


def gaussian_log_prob(
    location: Float[Tensor, "*N A"],
    mean: Float[Tensor, "*N A"],
    sigma: float,
    scale_sigma: float | None = None,
) -> Float[Tensor, "*N"]:
    """Log-density of an isotropic Gaussian over the plane: log N(l; lhat, sigma^2 I), in nats.

    With `scale_sigma` a location has a third coordinate, the scale, independent of the others and
    with a standard deviation of its own.
    """
    plane, middle = location[..., :2], mean[..., :2]
    squared = ((plane - middle) / sigma).square().sum(-1)
    log_density = -0.5 * squared - 2.0 * math.log(sigma) - LOG_TWO_PI
    if scale_sigma is None:
        return log_density
    squared = ((location[..., 2] - mean[..., 2]) / scale_sigma).square()
    return log_density - 0.5 * squared - math.log(scale_sigma) - 0.5 * LOG_TWO_PI


def mixture_log_prob(
    location: Float[Tensor, "*N A"],
    logits: Float[Tensor, "*N C"],
    means: Float[Tensor, "*N C A"],
    sigma: float,
    scale_sigma: float | None = None,
) -> Float[Tensor, "*N"]:
    """Log-density of a mixture of Gaussians that share their sigmas, in nats.

    With one component it is `gaussian_log_prob` exactly, whatever the logit.
    """
    location = location.unsqueeze(-2).expand_as(means)
    component = gaussian_log_prob(location, means, sigma, scale_sigma)
    return torch.logsumexp(functional.log_softmax(logits, -1) + component, -1)


def reinforce_loss(
    log_prob: Float[Tensor, "T B"], advantages: Float[Tensor, "T B"]
) -> Float[Tensor, ""]:
    """Surrogate whose gradient is the policy gradient (Ba et al., equation 12).

    Args:
        log_prob: log p(l_n) of the sampled locations, which the caller holds constant: only the
            parameters of the density receive a gradient.
        advantages: Return less baseline; constants here, whatever graph they come with.

    Returns:
        The sum over glimpses, averaged over the batch.
    """
    return -(advantages.detach() * log_prob).sum(0).mean()


def exact_policy_loss(
    masses: Float[Tensor, "T B L"], rewards: Float[Tensor, "T B L"]
) -> Float[Tensor, ""]:
    """Expected reward of each next glimpse, negated: its gradient needs no sample.

    The sum over places k of pi(k) R(k) has the gradient sum_k pi(k) R(k) grad log pi(k) (mean
    actor-critic, Allen et al. 2017; expected policy gradients, Ciosek and Whiteson 2018).

    Args:
        masses: pi_n(k), probability of each place for glimpse n.
        rewards: What glimpse n earns at each place; a constant here.

    Returns:
        The sum over glimpses, averaged over the batch.
    """
    return -(masses * rewards.detach()).sum(-1).sum(0).mean()


def baseline_loss(
    baselines: Float[Tensor, "T B"], returns: Float[Tensor, "*T B"]
) -> Float[Tensor, ""]:
    """Squared error of the predicted returns, summed over glimpses, averaged over the batch.

    Returns are one an episode, or the returns-to-go of its glimpses.
    """
    return (baselines - returns.detach()).square().sum(0).mean()


def leave_one_out(returns: Float[Tensor, "*T B"], samples: int) -> Float[Tensor, "*T B"]:
    """Mean return of the *other* scanpaths of the same image: a baseline with nothing to learn.

    Args:
        returns: Returns whose rows come in blocks of `samples`, one block an image.
        samples: M, scanpaths an image; at least 2, and it divides B.
    """
    if samples < 2 or returns.shape[-1] % samples:
        raise ValueError(
            "leave_one_out compares the scanpaths of one image, so it needs blocks of at least 2 "
            f"rows; got {returns.shape[-1]} rows and samples={samples}."
        )
    blocks = returns.unflatten(-1, (-1, samples))
    return ((blocks.sum(-1, keepdim=True) - blocks) / (samples - 1)).flatten(-2)


def returns_to_go(rewards: Float[Tensor, "T B"], discount: float = 1.0) -> Float[Tensor, "T B"]:
    """G_n = r_n + discount * G_{n+1}: what an episode still earns from glimpse n on."""
    later, found = torch.zeros_like(rewards[0]), []
    for reward in reversed(rewards.unbind()):
        later = reward + discount * later
        found.append(later)
    return torch.stack(found[::-1])


def fixation_spread(means: Float[Tensor, "T B A"]) -> Float[Tensor, " T"]:
    """Spread of the mean fixations (or scales) of *different images*.

    Root of the axes' mean variance over the batch, in units of the fixation ([-1, 1]). It
    falls to 0 when every image gets the same fixation, the collapse in which a classifier
    memorises before the policy has learnt anything.
    """
    return means.var(dim=1, unbiased=False).mean(-1).sqrt()


def fixation_entropy(fixations: Float[Tensor, "T B 2"], bins: int = 8) -> Float[Tensor, " T"]:
    """Entropy of where the batch looks, over a grid of bins x bins cells, in nats.

    0 when all look into one cell, 2 log(bins) when the plane is covered evenly.
    """
    cell = ((fixations.detach().clamp(-1.0, 1.0) + 1.0) * (0.5 * bins)).long().clamp(max=bins - 1)
    counts = functional.one_hot(cell[..., 0] * bins + cell[..., 1], bins * bins).sum(1)
    share = counts.double() / fixations.shape[1]
    return -torch.special.xlogy(share, share).sum(-1).to(fixations.dtype)


def explained_variance(
    baselines: Float[Tensor, "T B"], returns: Float[Tensor, "*T B"]
) -> Float[Tensor, ""]:
    """Share of the returns' variance that the baseline predicts: 1 - var(R - b) / var(R).

    Variances are over the batch, averaged over glimpses. 0 when the returns do not vary, for then
    there is nothing to explain.
    """
    variance = returns.var(dim=-1, unbiased=False).mean()
    residual = (returns - baselines.detach()).var(dim=1, unbiased=False).mean()
    return torch.where(variance > 0, 1.0 - residual / variance.clamp_min(1e-12), 0.0)
