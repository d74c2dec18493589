from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from glimpse_env.datasets.split import stratified_split

LABELS = st.lists(st.integers(0, 6), max_size=200).map(lambda x: np.array(x, dtype=np.int64))


def test_the_papers_cut() -> None:
    labels = np.repeat(np.arange(120), 100)
    kept, held_out = stratified_split(labels)
    assert (np.bincount(labels[kept]) == 80).all()
    assert (np.bincount(labels[held_out]) == 20).all()


@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_is_a_partition_in_order_and_stratified(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    kept, held_out = stratified_split(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(labels)))
    assert (np.diff(kept) > 0).all() and (np.diff(held_out) > 0).all()
    for label in np.unique(labels):
        total, held = (labels == label).sum(), (labels[held_out] == label).sum()
        assert abs(held - fraction * total) <= 0.5 + 1e-9 or held in (1, total - 1)
        assert 0 < held < total or (total == 1 and held == 0)


@given(LABELS)
def test_nothing_is_held_out_of_a_zero_share(labels: np.ndarray) -> None:
    kept, held_out = stratified_split(labels, 0.0)
    assert np.array_equal(kept, np.arange(len(labels))) and len(held_out) == 0


def test_is_decided_by_the_seed() -> None:
    labels = np.repeat(np.arange(5), 40)
    first, again, other = (stratified_split(labels, seed=seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_stays_the_same_on_every_machine_and_version() -> None:
    # Written down once: results on a validation cut mean nothing if the cut moves.
    _, held_out = stratified_split(np.repeat(np.arange(3), 10), 0.2, seed=0)
    assert held_out.tolist() == [2, 3, 11, 13, 20, 21]


def test_every_image_is_held_out_equally_often() -> None:
    labels = np.repeat(np.arange(2), 10)
    times = np.zeros(20)
    for seed in range(2000):
        times[stratified_split(labels, 0.2, seed)[1]] += 1
    # Binomial(2000, 0.2): mean 400, deviation 17.9.
    assert np.abs(times - 400).max() < 5 * 17.9


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_share_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(np.zeros(3, dtype=np.int64), fraction)
