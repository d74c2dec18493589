"""What a handful of runs tells: the measures of Agarwal et al., and their intervals.

Agarwal, Schwarzer, Castro, Courville, Bellemare, *Deep Reinforcement Learning at the Edge of the
Statistical Precipice*, NeurIPS 2021: interquartile means, stratified bootstrap intervals,
probability of improvement, performance profiles, sample-efficiency curves. The authors' `rliable`
does not import with the pandas of today (its dependency arch calls what pandas has taken out), so
the formulas are here; tests hold them against another implementation of them.

Scores are a matrix [runs, tasks] for each player or agent; the strata of the bootstrap are the
tasks, which are tracks, or the one environment of a comparison: a resample draws each task's runs
anew, with replacement.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata, trim_mean

from experiments.metrics import Estimate

RESAMPLES = 5_000

Scores = Float[np.ndarray, "runs tasks"]
Measure = Callable[[Float[np.ndarray, "*resamples runs tasks"]], Float[np.ndarray, "*resamples"]]


def interquartile_mean(
    scores: Float[np.ndarray, "*resamples runs tasks"],
) -> Float[np.ndarray, "*resamples"]:
    """Mean of the middle half of all scores, runs and tasks together.

    Whole scores are left out at either end, a quarter of them each, rounded down.
    """
    flat = np.asarray(scores, np.float64).reshape(*scores.shape[:-2], -1)
    return np.asarray(trim_mean(flat, 0.25, axis=-1))


def resample(scores: Scores, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw runs with replacement, within each task by itself: [count, runs, tasks]."""
    runs, tasks = scores.shape
    rows = rng.integers(runs, size=(count, runs, tasks))
    return np.take_along_axis(np.broadcast_to(scores, (count, runs, tasks)), rows, axis=1)


def stratified_bootstrap(
    scores: Scores,
    measure: Measure = interquartile_mean,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return a measure and its 95% percentile interval over stratified resamples of the runs.

    Args:
        scores: Runs of one player.
        measure: From scores, or a stack of resamples of them, to a number each.
        resamples: How many.
        seed: Of the draws.

    Raises:
        ValueError: There are no scores.
    """
    scores = _matrix(scores)
    drawn = measure(resample(scores, np.random.default_rng(seed), resamples))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(measure(scores)), float(low), float(high))


def probability_of_improvement(
    scores: Scores, others: Scores, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Probability that a run of one player beats one of another, averaged over the tasks.

    P(X > Y) + P(X = Y) / 2 on each task (the Mann-Whitney statistic over the number of pairs),
    with the interval over independent stratified resamples of both.

    Args:
        scores: Runs of X.
        others: Runs of Y; as many tasks, perhaps not as many runs.
        resamples: How many.
        seed: Of the draws.
    """
    scores, others = _matrix(scores), _matrix(others)
    rng = np.random.default_rng(seed)
    drawn = _improvement(resample(scores, rng, resamples), resample(others, rng, resamples))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(_improvement(scores, others)), float(low), float(high))


def _improvement(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Mean over tasks of the Mann-Whitney statistic over the number of pairs, from ranks."""
    runs, others = one.shape[-2], two.shape[-2]
    ranks = rankdata(np.concatenate((one, two), axis=-2), axis=-2)[..., :runs, :]
    wins = ranks.sum(axis=-2) - runs * (runs + 1) / 2
    return (wins / (runs * others)).mean(axis=-1)


def performance_profile(
    scores: Scores,
    thresholds: Float[np.ndarray, " n"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "2 n"]]:
    """Share of all runs and tasks with a score above each threshold, and its 95% band.

    Args:
        scores: Runs of one player.
        thresholds: Ascending.
        resamples: How many.
        seed: Of the draws.
    """
    scores = _matrix(scores)
    drawn = resample(scores, np.random.default_rng(seed), resamples).reshape(resamples, -1)
    shares = np.stack([(drawn > each).mean(axis=1) for each in thresholds], axis=1)
    band = np.quantile(shares, [0.025, 0.975], axis=0)
    return np.array([(scores > each).mean() for each in thresholds]), band


def efficiency_curve(
    curves: Float[np.ndarray, "points runs tasks"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Interquartile mean and interval at each point of training, runs resampled point by point."""
    return [
        stratified_bootstrap(each, resamples=resamples, seed=seed + number)
        for number, each in enumerate(curves)
    ]


def normalised(
    scores: Scores, low: Float[np.ndarray, " tasks"], high: Float[np.ndarray, " tasks"]
) -> Scores:
    """Scores as shares of the way from one yardstick (random) to another (the oracle), by task."""
    return (_matrix(scores) - low) / (np.asarray(high) - np.asarray(low))


def has_converged(curve: Float[np.ndarray, " points"], share: float = 0.05) -> bool:
    """Whether the last third of a run's curve brought less than a share of what the whole did.

    Judged by means over thirds, so that the noise of one evaluation decides nothing; a curve of
    fewer than six points tells nothing and has not.
    """
    curve = np.asarray(curve, np.float64)
    if len(curve) < 6:
        return False
    third = len(curve) // 3
    last, before = curve[-third:].mean(), curve[-2 * third : -third].mean()
    return bool(last - before <= share * max(last - curve[0], 0.0) + 1e-12)


def _matrix(scores: Scores) -> Scores:
    found = np.asarray(scores, np.float64)
    if found.ndim != 2 or not found.size:
        raise ValueError(f"scores are a matrix of runs and tasks, not of shape {found.shape}")
    return found
