"""Stable-Baselines3 on the same game: a VecEnv, a hybrid distribution, policies, features."""

from __future__ import annotations

from typing import Any

from agents.sb3.distribution import HybridDistribution
from agents.sb3.features import FlatGlimpseExtractor, GlimpseExtractor
from agents.sb3.hindsight import check_goals
from agents.sb3.loading import load
from agents.sb3.policies import HybridPolicy
from agents.sb3.vec_env import SB3VecEnv

__all__ = [
    "FlatGlimpseExtractor",
    "GlimpseExtractor",
    "HybridDistribution",
    "HybridPolicy",
    "HybridRecurrentPolicy",  # pyright: ignore[reportUnsupportedDunderAll]
    "SB3VecEnv",
    "load",
]

check_goals()


def __getattr__(name: str) -> Any:
    # sb3-contrib loads only where its policy is asked for.
    if name == "HybridRecurrentPolicy":
        from agents.sb3.recurrent import HybridRecurrentPolicy

        return HybridRecurrentPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
