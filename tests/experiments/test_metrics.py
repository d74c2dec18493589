from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binom, norm

from experiments.metrics import (
    Estimate,
    accuracy,
    bootstrap_interval,
    class_mean_difference,
    mean_class_accuracy,
    mean_estimate,
    wilson,
)


def scored(right: list[int], wrong: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions with so many right and wrong in each class."""
    labels, predictions = [], []
    for label, (hits, misses) in enumerate(zip(right, wrong, strict=True)):
        labels += [label] * (hits + misses)
        predictions += [label] * hits + [(label + 1) % len(right)] * misses
    return np.array(labels), np.array(predictions)


def test_mean_class_accuracy_weighs_classes_not_images() -> None:
    labels, predictions = scored([90, 1], [0, 9])
    assert mean_class_accuracy(labels, predictions, 2) == pytest.approx((1.0 + 0.1) / 2)
    assert accuracy(labels, predictions) == pytest.approx(91 / 100)


def test_classes_without_images_are_left_out() -> None:
    labels, predictions = np.array([0, 0, 3]), np.array([0, 1, 3])
    assert mean_class_accuracy(labels, predictions, 120) == pytest.approx((0.5 + 1.0) / 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_mean_class_accuracy_against_the_definition(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    shares = [np.mean(predictions[labels == k] == k) for k in range(5) if (labels == k).any()]
    assert mean_class_accuracy(labels, predictions, 5) == pytest.approx(np.mean(shares))


@given(st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=20)
def test_balanced_classes_make_both_accuracies_equal(first: int, second: int) -> None:
    labels, predictions = scored([first, second], [60 - first, 60 - second])
    assert mean_class_accuracy(labels, predictions, 2) == pytest.approx(
        accuracy(labels, predictions)
    )


@pytest.mark.parametrize(("right", "wrong"), [(30, 10), (5, 15), (99, 1)])
def test_interval_of_one_class_is_that_of_the_binomial(right: int, wrong: int) -> None:
    labels, predictions = scored([right, 1], [wrong, 0])
    alone = labels == 0
    low, high = bootstrap_interval(labels[alone], predictions[alone], 2)
    total = right + wrong
    exact = np.array(binom(total, right / total).ppf([0.025, 0.975])) / total
    assert (low, high) == pytest.approx(tuple(exact), abs=1.01 / total)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_interval_of_many_classes_is_that_of_the_normal(confidence: float) -> None:
    # mA is the mean of K independent shares: variance sum_k p_k (1 - p_k) / n_k / K^2.
    right, wrong = np.array([15, 10, 18, 4] * 30), np.array([5, 10, 2, 36] * 30)
    labels, predictions = scored(right.tolist(), wrong.tolist())
    share, count = right / (right + wrong), right + wrong
    deviation = np.sqrt(np.sum(share * (1 - share) / count)) / len(share)
    reach = norm.ppf((1 + confidence) / 2) * deviation
    low, high = bootstrap_interval(labels, predictions, 120, confidence=confidence)
    assert low == pytest.approx(share.mean() - reach, abs=0.06 * deviation)
    assert high == pytest.approx(share.mean() + reach, abs=0.06 * deviation)


def test_interval_agrees_with_resampling_images_one_by_one() -> None:
    labels, predictions = scored([7, 3, 12], [3, 9, 0])
    rng = np.random.default_rng(1)
    means = []
    for _ in range(4000):
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(3)]
        )
        means.append(mean_class_accuracy(labels[chosen], predictions[chosen], 3))
    assert bootstrap_interval(labels, predictions, 3) == pytest.approx(
        tuple(np.quantile(means, [0.025, 0.975])), abs=0.02
    )


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 0.9, size=30)
    labels = np.repeat(np.arange(30), 20)
    covered = 0
    for trial in range(300):
        hit = rng.random(len(labels)) < truth[labels]
        predictions = np.where(hit, labels, (labels + 1) % 30)
        low, high = bootstrap_interval(labels, predictions, 30, resamples=500, seed=trial)
        covered += low <= truth.mean() <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_certain_results_have_no_width() -> None:
    labels = np.arange(5)
    assert bootstrap_interval(labels, labels, 5) == (1.0, 1.0)
    assert bootstrap_interval(labels, (labels + 1) % 5, 5) == (0.0, 0.0)


def test_same_seed_same_interval() -> None:
    labels, predictions = scored([7, 3, 12], [3, 9, 5])
    same = [bootstrap_interval(labels, predictions, 3, resamples=99, seed=s) for s in (0, 0, 1)]
    assert same[0] == same[1] != same[2]


@pytest.mark.parametrize(
    ("labels", "predictions"), [([], []), ([0, 3], [0, 0]), ([0, 1], [0, 3]), ([-1, 0], [0, 0])]
)
def test_bad_input(labels: list[int], predictions: list[int]) -> None:
    arrays = np.array(labels, dtype=np.int64), np.array(predictions, dtype=np.int64)
    with pytest.raises(ValueError):
        mean_class_accuracy(*arrays, 3)
    with pytest.raises(ValueError):
        bootstrap_interval(*arrays, 3)


def test_nothing_to_score() -> None:
    with pytest.raises(ValueError):
        accuracy(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError):
        bootstrap_interval(one, one, 1, confidence=1.0)
    with pytest.raises(ValueError):
        bootstrap_interval(one, one, 1, resamples=0)


def test_wilson_as_published() -> None:
    """Values as tables give them (Newcombe 1998, method 3)."""
    for (successes, count), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        found = wilson(successes, count)
        assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
        assert found.value == successes / count


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_its_share_and_mirrors(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    one, other = wilson(successes, count), wilson(count - successes, count)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))


@pytest.mark.parametrize("successes, count", [(0, 0), (3, 2), (-1, 2)])
def test_wilson_of_nothing(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(successes, count)


def test_a_mean_and_its_standard_errors() -> None:
    found = mean_estimate(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 1.96 * math.sqrt((2.25 + 0.25) * 2 / 3 / 4)
    assert (found.value, found.low) == pytest.approx((2.5, 2.5 - half), rel=1e-4)
    assert mean_estimate(np.array([2.0])) == Estimate(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="at least one"):
        mean_estimate(np.zeros(0))


def test_the_difference_of_two_ma() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    first = np.where(rng.random(400) < 0.5, labels, (labels + 1) % 5)
    second = np.where(rng.random(400) < 0.7, labels, (labels + 1) % 5)
    found = class_mean_difference(labels, first == labels, second == labels)
    expected = mean_class_accuracy(labels, second, 5) - mean_class_accuracy(labels, first, 5)
    assert found.value == pytest.approx(expected)
    # Two independent shares, in five classes of about 80.
    half = 1.96 * math.sqrt((0.25 + 0.21) / 400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.12)
    same = class_mean_difference(labels, first == labels, first == labels)
    assert (same.value, same.low, same.high) == (0, 0, 0)
