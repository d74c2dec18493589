"""One input to one reader: a good value or a documented error, in time, and nothing outside."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 5.0
"""Seconds that a reader may take for one input."""


class Hang(BaseException):
    """A reader took too long; no `except Exception` of a reader may swallow it."""


@dataclass(frozen=True)
class Target:
    """A reader, and how its inputs are made."""

    name: str
    """As the record calls it."""
    documented: tuple[type[BaseException], ...]
    """Exceptions that its docstring names, and no others."""
    prepare: Callable[[Path], Any]
    """Makes the valid files it starts from, given an empty folder; called once."""
    attempt: Callable[[Any, random.Random, Path], None]
    """Spoils them by a random source, below the folder `inside`; reads; checks a good value."""


@dataclass(frozen=True)
class Place:
    """A folder `inside` for a reader to work in, and what lies beside it and must not change."""

    root: Path
    """The parent of both."""

    @property
    def inside(self) -> Path:
        """Where a reader may write."""
        return self.root / "inside"

    def make(self) -> Place:
        """Make it."""
        self.inside.mkdir(parents=True)
        (self.root / "outside.txt").write_text("untouched")
        return self

    def check(self) -> None:
        """Assert that nothing was written beside `inside`."""
        assert sorted(os.listdir(self.root)) == ["inside", "outside.txt"], os.listdir(self.root)
        assert (self.root / "outside.txt").read_text() == "untouched"


def run_once(target: Target, prepared: Any, seed: int, place: Place) -> str:
    """Give a reader the input that follows from a seed.

    Returns:
        "good", or the name of the documented exception.

    Raises:
        AssertionError: For a bad value, or a file outside the folder.
        Hang: If it takes longer than `LIMIT`.
        Exception: One that is not documented.
    """
    # Of the name too, so that targets do not all draw alike.
    source = random.Random(f"{target.name}-{seed}")
    outcome = "good"
    with warnings.catch_warnings(), _limited():
        warnings.simplefilter("ignore")
        try:
            target.attempt(prepared, source, place.inside)
        except target.documented as error:
            # Not a subclass: a UnicodeDecodeError is a ValueError, but nobody wrote its sentence.
            if type(error) not in target.documented:
                raise
            assert str(error), f"{type(error).__name__} says nothing"
            outcome = type(error).__name__
    place.check()
    return outcome


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise `Hang` once `LIMIT` is over (in a thread other than the main one: not)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ticks = itertools.count(1)

    def tick(number: int, frame: Any) -> None:
        # At the second: a machine that was suspended meanwhile makes for one only.
        if next(ticks) == 2:
            raise Hang(f"more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, LIMIT / 2, LIMIT / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
