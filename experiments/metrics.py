"""Accuracy, mean class accuracy (mA), and confidence intervals of these and of other means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

Z95 = 1.959963984540054
"""Half the width of a 95% interval, in standard errors."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval."""

    value: float
    """The estimate itself."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def accuracy(labels: Integer[np.ndarray, " N"], predictions: Integer[np.ndarray, " N"]) -> float:
    """Share of predictions that are right, in [0, 1].

    Raises:
        ValueError: If there is nothing to score.
    """
    if len(labels) == 0:
        raise ValueError("no predictions to score")
    return float(np.mean(labels == predictions))


def mean_class_accuracy(
    labels: Integer[np.ndarray, " N"],
    predictions: Integer[np.ndarray, " N"],
    num_classes: int,
) -> float:
    """Mean over the classes of the accuracy within each: the paper's mA (section 3), in [0, 1].

    Classes without images have no accuracy and are left out of the mean. On a complete split of
    Stanford Dogs there are none; `num_classes` bounds the labels, so that a mix-up is noticed.

    Args:
        labels: True classes.
        predictions: Predicted classes.
        num_classes: K; labels and predictions must be below it.

    Raises:
        ValueError: If there is nothing to score, or a class is out of range.
    """
    right, count = _by_class(labels, predictions, num_classes)
    return float(np.mean(right / count))


def bootstrap_interval(
    labels: Integer[np.ndarray, " N"],
    predictions: Integer[np.ndarray, " N"],
    num_classes: int,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of mA: how much it owes to the choice of images.

    Images are resampled within each class, since the splits are stratified. A resample of n
    images of which k are right has Binomial(n, k / n) right ones, so counts are drawn directly.
    Retraining would vary more: this says nothing about seeds.

    Args:
        labels: True classes.
        predictions: Predicted classes.
        num_classes: K; labels and predictions must be below it.
        confidence: Share of resamples inside, in (0, 1).
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: If there is nothing to score, or an argument is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    right, count = _by_class(labels, predictions, num_classes)
    draws = np.random.default_rng(seed).binomial(count, right / count, (resamples, len(count)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile((draws / count).mean(axis=1), [tail, 1.0 - tail])
    return float(low), float(high)


def wilson(successes: int, count: int) -> Estimate:
    """A share with Wilson's score interval, which stays within [0, 1] and holds near its ends.

    Raises:
        ValueError: nothing was counted, or more successes than trials.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"{successes} of {count} is no share: count at least one image")
    from scipy.stats import binomtest

    interval = binomtest(successes, count).proportion_ci(method="wilson")
    return Estimate(successes / count, float(interval.low), float(interval.high))


def mean_estimate(values: Float[np.ndarray, " N"]) -> Estimate:
    """A mean over images and 1.96 standard errors to either side; of one image no width.

    Raises:
        ValueError: there is nothing to average.
    """
    if len(values) == 0:
        raise ValueError("no values to average: there must be at least one image")
    v = np.asarray(values, np.float64)
    half = Z95 * float(v.std(ddof=1)) / math.sqrt(len(v)) if len(v) > 1 else 0.0
    return Estimate(float(v.mean()), float(v.mean()) - half, float(v.mean()) + half)


def share_estimate(hits: Bool[np.ndarray, " N"]) -> Estimate:
    """Share of true values, with Wilson's interval."""
    return wilson(int(np.sum(hits)), len(hits))


def class_mean_difference(
    labels: Int64[np.ndarray, " N"],
    first: Bool[np.ndarray, " N"],
    second: Bool[np.ndarray, " N"],
    *,
    resamples: int = 4000,
    seed: int = 0,
) -> Estimate:
    """Estimate how much higher mA is by `second` than by `first`, on the same images.

    A paired percentile bootstrap: images are resampled within each class, as
    `bootstrap_interval` does, and what is averaged is each image's change, -1, 0 or 1.

    Args:
        labels: Classes.
        first: Whether one answer was right.
        second: Whether the other was.
        resamples: Number of resamples.
        seed: Seed of the draws.
    """
    if len(labels) == 0:
        raise ValueError("no answers to compare: there must be at least one image")
    change = np.asarray(second, np.int64) - np.asarray(first, np.int64)
    rng, total, value = np.random.default_rng(seed), np.zeros(resamples), 0.0
    classes = np.unique(labels)
    for label in classes.tolist():
        own = change[labels == label]
        counts = np.array([(own == step).sum() for step in (-1, 0, 1)])
        drawn = rng.multinomial(len(own), counts / len(own), size=resamples)
        total += (drawn[:, 2] - drawn[:, 0]) / len(own)
        value += own.mean()
    low, high = np.quantile(total / len(classes), [0.025, 0.975])
    return Estimate(value / len(classes), float(low), float(high))


def _by_class(
    labels: Integer[np.ndarray, " N"],
    predictions: Integer[np.ndarray, " N"],
    num_classes: int,
) -> tuple[Integer[np.ndarray, " present"], Integer[np.ndarray, " present"]]:
    """Right predictions and images of each class that has images."""
    if len(labels) == 0:
        raise ValueError("no predictions to score")
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.min() < 0 or values.max() >= num_classes:
            raise ValueError(
                f"{name} must be in 0..{num_classes - 1}, got {values.min()}..{values.max()}"
            )
    count = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[labels == predictions], minlength=num_classes)
    present = count > 0
    return right[present], count[present]


@dataclass(frozen=True)
class Score:
    """Accuracy of one agent on one split, in percent."""

    ma: float
    """mA: mean over the classes of the accuracy within each."""
    low: float
    """Lower end of the 95% bootstrap interval of mA."""
    high: float
    """Upper end of the interval."""
    accuracy: float
    """Share of images that are right."""
    num_images: int
    """Number of images scored."""


def score(
    labels: Integer[np.ndarray, " N"],
    predictions: Integer[np.ndarray, " N"],
    num_classes: int,
) -> Score:
    """Sum up what was answered.

    Raises:
        ValueError: As `mean_class_accuracy`.
    """
    low, high = bootstrap_interval(labels, predictions, num_classes)
    return Score(
        ma=100 * mean_class_accuracy(labels, predictions, num_classes),
        low=100 * low,
        high=100 * high,
        accuracy=100 * accuracy(labels, predictions),
        num_images=len(labels),
    )


@dataclass(frozen=True)
class Answers:
    """Labels, log-probabilities and fixations of an agent on all images of a split, in order."""

    labels: Integer[np.ndarray, " N"]
    """True class of each image."""
    log_probs: Float[np.ndarray, "N K"] | None
    """Class log-probabilities at the answer, in nats; None for a policy that tells its answer
    alone."""
    fixations: Float[np.ndarray, "T N 2"]
    """Where it looked."""
    scales: Float[np.ndarray, "T N"] | None = None
    """Zoom of each look, if the agent chose it; those of a bank are whole numbers."""

    answers: Integer[np.ndarray, " N"] | None = None
    """Classes named, where there are no log-probabilities."""

    @property
    def predictions(self) -> Integer[np.ndarray, " N"]:
        """Class named for each image."""
        if self.log_probs is not None:
            return self.log_probs.argmax(axis=1)
        assert self.answers is not None, "log-probabilities or answers, one of them is there"
        return self.answers

    def score(self) -> Score:
        """Sum the answers up as a score."""
        if self.log_probs is not None:
            classes = self.log_probs.shape[1]
        else:  # a class that no image has and nobody named changes nothing
            classes = 1 + int(max(self.labels.max(), self.predictions.max()))
        return score(self.labels, self.predictions, classes)
