"""What an agent answered on a split, and its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from experiments.metrics import accuracy, bootstrap_interval, mean_class_accuracy


@dataclass(frozen=True)
class Score:
    """How one agent did on one split, in percent."""

    ma: float
    """mA: mean over the classes of the accuracy within each."""
    low: float
    """Lower end of the 95% bootstrap interval of mA."""
    high: float
    """Upper end."""
    accuracy: float
    """Share of pictures that are right."""
    num_images: int
    """Pictures."""


@dataclass(frozen=True)
class Answers:
    """What an agent did on every picture of a split, in the split's order."""

    labels: Integer[np.ndarray, " N"]
    """The truth."""
    log_probs: Float[np.ndarray, "N K"] | None
    """Class log-probabilities at the answer, in nats; None for a policy that tells its answer
    alone."""
    fixations: Float[np.ndarray, "T N 2"]
    """Where it looked."""
    scales: Float[np.ndarray, "T N"] | None = None
    """At which zoom it looked, if it chose; those of a bank are whole numbers."""

    answers: Integer[np.ndarray, " N"] | None = None
    """Classes named, where there are no log-probabilities."""

    @property
    def predictions(self) -> Integer[np.ndarray, " N"]:
        """Classes named."""
        if self.log_probs is not None:
            return self.log_probs.argmax(axis=1)
        assert self.answers is not None, "log-probabilities or answers, one of them is there"
        return self.answers

    def score(self) -> Score:
        """Sum up."""
        if self.log_probs is not None:
            classes = self.log_probs.shape[1]
        else:  # a class that no picture has and nobody named changes nothing
            classes = 1 + int(max(self.labels.max(), self.predictions.max()))
        low, high = bootstrap_interval(self.labels, self.predictions, classes)
        return Score(
            ma=100 * mean_class_accuracy(self.labels, self.predictions, classes),
            low=100 * low,
            high=100 * high,
            accuracy=100 * accuracy(self.labels, self.predictions),
            num_images=len(self.labels),
        )
