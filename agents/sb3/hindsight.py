"""Refuse hindsight replay where there are no goals, when the buffer is made."""

from __future__ import annotations

from functools import wraps
from typing import Any

from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer

_PARTS = ("achieved_goal", "desired_goal")


def check_goals() -> None:
    """Let `HerReplayBuffer` say at once that an environment has no goals.

    Stable-Baselines3 does not ask: it fails with `KeyError: 'achieved_goal'` when it first samples,
    after `learning_starts` steps. Where the observations have goals nothing changes. Calling this
    again does nothing.
    """
    made = HerReplayBuffer.__init__
    if getattr(made, "checks_goals", False):
        return

    @wraps(made)
    def checked(self: HerReplayBuffer, *args: Any, **kwargs: Any) -> None:
        space = kwargs.get("observation_space", args[1] if len(args) > 1 else None)
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        missing = [name for name in _PARTS if name not in parts]
        if space is not None and missing:
            raise ValueError(
                f"HerReplayBuffer relabels goals, but the observations have no "
                f"{' and no '.join(map(repr, missing))}: an environment of glimpses asks one "
                "question only, so take another replay buffer (leave replay_buffer_class out)"
            )
        made(self, *args, **kwargs)

    checked.checks_goals = True  # type: ignore[attr-defined]
    HerReplayBuffer.__init__ = checked
