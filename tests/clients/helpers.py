"""What the tests of clients share: a small game, and who saw which images."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import pytest

ROOT = Path(__file__).resolve().parents[2]
GAME: dict[str, Any] = {"resolutions": ("high",), "num_glimpses": 1, "device": "cpu"}
"""Options under which an episode is two steps and an encoder call is of one patch."""
PIXELS: dict[str, Any] = {**GAME, "observation": "pixels", "storage": "demand"}
IMAGES = 2400
"""Of the synthetic training split."""


def client(name: str) -> ModuleType:
    """Import a client, or skip what needs it."""
    return pytest.importorskip(
        name, reason=f"{name} is not installed (`make test-clients` installs it)"
    )


def expected_images(copies: int, episodes: float, images: int = IMAGES) -> float:
    """Distinct images that so many independent orders show, each without replacement."""
    return images * (1 - (1 - episodes / images) ** copies)


def assert_independent(seen: list[int], copies: int) -> None:
    """Check that copies saw 95% of the images that independent orders would have shown them."""
    assert len(set(seen)) >= 0.95 * expected_images(copies, len(seen) / copies), sorted(seen)


class Recorder(gymnasium.Wrapper):
    """Writes the index of every image into `seen`, and into the file that `$SEEN_IMAGES` names."""

    def __init__(self, env: gymnasium.Env, seen: list[int] | None = None) -> None:
        super().__init__(env)
        self.seen = [] if seen is None else seen

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.seen.append(info["image"])
        if "SEEN_IMAGES" in os.environ:
            with open(os.environ["SEEN_IMAGES"], "a") as file:
                file.write(f"{info['image']}\n")
        return observation, info
