"""The measures of Agarwal et al. against an independent, slow implementation of their formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from experiments.run_statistics import (
    efficiency_curve,
    has_converged,
    interquartile_mean,
    normalised,
    performance_profile,
    probability_of_improvement,
    resample,
    stratified_bootstrap,
)


def slow_iqm(scores: np.ndarray) -> float:
    values = sorted(float(each) for each in scores.ravel())
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    return sum(kept) / len(kept)


def slow_improvement(one: np.ndarray, two: np.ndarray) -> float:
    shares = []
    for task in range(one.shape[1]):
        pairs = list(itertools.product(one[:, task], two[:, task]))
        shares.append(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs))
    return sum(shares) / len(shares)


def all_resamples(scores: np.ndarray) -> list[np.ndarray]:
    """Every resample that a stratified bootstrap can draw, each as likely as another."""
    runs, tasks = scores.shape
    columns = [list(itertools.product(scores[:, task], repeat=runs)) for task in range(tasks)]
    return [np.array(each).T for each in itertools.product(*columns)]


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, 2))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (5, 1), (3, 2), (5, 3), (8, 4)])
def test_interquartile_mean(shape):
    scores = np.random.default_rng(0).normal(size=shape)
    assert float(interquartile_mean(scores)) == pytest.approx(slow_iqm(scores))
    stack = np.random.default_rng(1).normal(size=(6, *shape))
    np.testing.assert_allclose(interquartile_mean(stack), [slow_iqm(each) for each in stack])


def test_a_resample_draws_runs_within_their_task(scores):
    drawn = resample(scores, np.random.default_rng(0), 200)
    assert drawn.shape == (200, 3, 2)
    for task in range(2):
        assert set(drawn[:, :, task].ravel()) == set(scores[:, task])
    # Tasks are drawn for themselves: rows of a resample are not rows of the scores.
    assert any(tuple(row) not in set(map(tuple, scores)) for row in drawn.reshape(-1, 2))


def test_the_interval_is_that_of_all_resamples(scores):
    every = np.array([slow_iqm(each) for each in all_resamples(scores)])
    found = stratified_bootstrap(scores, resamples=40_000)
    assert found.value == pytest.approx(slow_iqm(scores))
    low, high = np.quantile(every, [0.025, 0.975])
    spread = every.std()
    assert found.low == pytest.approx(low, abs=0.1 * spread)
    assert found.high == pytest.approx(high, abs=0.1 * spread)


def test_probability_of_improvement_with_ties_and_other_numbers_of_runs():
    one = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]])
    two = np.array([[1.0, 2.0], [2.0, 4.0]])
    found = probability_of_improvement(one, two)
    assert found.value == pytest.approx(slow_improvement(one, two))
    assert found.low <= found.value <= found.high
    back = probability_of_improvement(two, one)
    assert back.value == pytest.approx(1 - found.value)
    assert probability_of_improvement(one, one).value == pytest.approx(0.5)
    sure = probability_of_improvement(one + 10, two)
    assert (sure.value, sure.low, sure.high) == (1.0, 1.0, 1.0)


def test_the_interval_of_an_improvement_is_that_of_all_resamples():
    one, two = np.array([[1.0], [2.5]]), np.array([[2.0], [0.5]])
    pairs = itertools.product(all_resamples(one), all_resamples(two))
    every = np.array([slow_improvement(a, b) for a, b in pairs])
    found = probability_of_improvement(one, two, resamples=40_000)
    ends = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    assert (found.low, found.high) == tuple(ends)


def test_a_performance_profile_counts_runs_above(scores):
    thresholds = np.array([-9.0, 0.0, 0.5, 9.0])
    share, band = performance_profile(scores, thresholds)
    expected = [np.mean([value > each for value in scores.ravel()]) for each in thresholds]
    np.testing.assert_allclose(share, expected)
    assert band.shape == (2, 4)
    assert (band[0] <= share).all() and (share <= band[1]).all()
    every = np.array([(each > 0.0).mean() for each in all_resamples(scores)])
    low, high = np.quantile(every, [0.025, 0.975])
    assert band[0, 1] == pytest.approx(low, abs=0.17) and band[1, 1] == pytest.approx(
        high, abs=0.17
    )


def test_a_curve_has_an_estimate_at_each_point():
    curves = np.random.default_rng(0).normal(size=(4, 3, 2)) + np.arange(4)[:, None, None]
    found = efficiency_curve(curves, resamples=200)
    assert [each.value for each in found] == pytest.approx([slow_iqm(each) for each in curves])
    assert all(each.low <= each.value <= each.high for each in found)


def test_scores_as_shares_of_the_way_to_the_oracle():
    found = normalised(
        np.array([[1.0, 10.0], [2.0, 30.0]]), np.array([1.0, 10.0]), np.array([3, 20])
    )
    np.testing.assert_allclose(found, [[0.0, 0.0], [0.5, 2.0]])


def test_whether_a_run_has_converged():
    rising = np.linspace(0, 1, 11)
    flat = 1 - np.exp(-2 * np.arange(11))
    assert not has_converged(rising) and has_converged(flat)
    assert not has_converged(flat[:5]), "too few points to tell"
    assert has_converged(np.zeros(11)), "what never learns has settled too"


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="runs and tasks"):
        stratified_bootstrap(np.zeros((0, 1)))
