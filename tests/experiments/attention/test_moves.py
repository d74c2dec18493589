"""Fixations that move, or do not, on images worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.attention import moves
from experiments.attention.moves import frame_histogram, mirrored_fixations, moved


def test_a_fixation_that_stays_and_one_that_moves() -> None:
    first = np.array([[0.0, 0.0], [0.05, 0.0], [0.5, 0.0], [0.0, -0.5]])
    second = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 0.05], [0.0, 0.5]])
    one, two = moved(np.stack([first, second]))
    assert set(one) == {"from_centre"} and one["from_centre"]["value"] == 0.5
    assert two["from_centre"]["value"] == 0.75 and two["from_previous"]["value"] == 0.5


def test_a_histogram_of_places_in_the_box() -> None:
    places = np.array([[-1.4, -1.4], [0.1, -0.6], [0.1, -0.6], [0.1, 0.6], [0.1, 0.0], [3.0, 0.0]])
    found = frame_histogram(places)
    share = np.array(found["share"])
    assert share.shape == (12, 12) and share[0, 0] == pytest.approx(1 / 6, abs=1e-5)
    # Rows are y from the top: -0.6 is the fourth of the bins of 0.25 from -1.5 on.
    assert share[3, 6] == pytest.approx(2 / 6, abs=1e-5)
    assert found["beyond"] == pytest.approx(1 / 6, abs=1e-5)
    # In the box: two above, one below, one on the line.
    assert found["upper_half"]["value"] == pytest.approx(2.5 / 4)
    assert frame_histogram(places[:1])["upper_half"] is None


@pytest.mark.parametrize("follows", (True, False))
def test_a_mirrored_image_gets_the_mirrored_fixation(follows, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    plain = rng.choice([-0.7, 0.0, 0.7], (2, 10, 2))
    flipped = np.arange(10) % 2 == 0
    seen = plain.copy()
    if follows:
        seen[:, flipped, 0] *= -1

    def played(agent, env, images, *, seed):
        for start in (0, 5):
            env.mirrored = flipped[start : start + 5]
            yield SimpleNamespace(fixations=torch.tensor(seen[:, start : start + 5])), 5

    monkeypatch.setattr(moves, "episodes", played)
    agent, env = SimpleNamespace(seed=lambda seed: None), SimpleNamespace()
    found = mirrored_fixations(agent, env, np.arange(10), plain, 0)
    assert found["images"] == 5
    for row, here in zip(found["glimpses"], plain, strict=True):
        aside = np.abs(here[flipped, 0]) > 0.1
        assert row["count_off_the_line"] == aside.sum()
        assert row["off_the_line"]["value"] == float(follows)
        expected = 1.0 if follows else (~aside).mean()
        assert row["agrees"]["value"] == pytest.approx(expected)
