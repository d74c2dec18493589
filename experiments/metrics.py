"""Accuracy, mean class accuracy (mA) and their bootstrap confidence intervals."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer


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

    Classes without pictures have no accuracy and are left out of the mean. On a complete split of
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
    """Percentile bootstrap interval of mA: how much it owes to the choice of pictures.

    Pictures are resampled within each class, since the splits are stratified. A resample of n
    pictures of which k are right has Binomial(n, k / n) right ones, so counts are drawn directly.
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


def _by_class(
    labels: Integer[np.ndarray, " N"],
    predictions: Integer[np.ndarray, " N"],
    num_classes: int,
) -> tuple[Integer[np.ndarray, " present"], Integer[np.ndarray, " present"]]:
    """Right predictions and pictures of each class that has pictures."""
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
