"""Scoring an agent in the middle of its training leaves the training's draws where they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from experiments.compare.run import own_draws
from experiments.train.external_policy import ExternalPolicy


class Drawing:
    """A policy with a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def initial_state(self, batch: int) -> None:
        """Return no memory."""

    def act(self, observation: Any, state: None, *, deterministic: bool = False) -> Any:
        """Never called here."""
        raise NotImplementedError


def outside() -> ExternalPolicy:
    """The same policy as `glimpse compare` and the tracks hold it."""
    return ExternalPolicy(Drawing(), "drawing", spaces.Dict({"label": spaces.Discrete(2)}))


def draw(player: Any) -> tuple[float, ...]:
    """One number from every generator that a policy may draw from."""
    own = float(torch.rand((), generator=player.generator))
    return own, float(torch.rand(())), float(np.random.rand()), random.random()


@pytest.mark.parametrize("make", [Drawing, outside])
@pytest.mark.parametrize("fails", [False, True])
def test_draws_are_seeded_meanwhile_and_put_back(make: Callable[[], Any], fails: bool) -> None:
    def seeded() -> Any:
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        return make()

    undisturbed = draw(seeded())
    player, meanwhile = seeded(), []
    for _ in range(2):
        try:
            with own_draws(player, 5):
                meanwhile.append(draw(player))
                if fails:
                    raise ValueError("scoring fails")
        except ValueError:
            assert fails
    assert meanwhile[0] == meanwhile[1] != undisturbed
    assert draw(player) == undisturbed
