"""Ctrl-C and SIGTERM: finish the step, save, and end; asked twice, end at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; handled like Ctrl-C, with exit status 143."""


class Stop:
    """A flag: has somebody asked for the end?"""

    def __init__(self) -> None:
        """Start with the flag not set."""
        self.asked: type[KeyboardInterrupt] | None = None

    def check(self) -> None:
        """Raise what was asked for.

        Raises:
            KeyboardInterrupt, Terminated: If it was.
        """
        if self.asked is not None:
            raise self.asked


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM where nothing need be finished first."""
    raise Terminated


Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handling(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals otherwise meanwhile.

    In a thread other than the main one, which gets no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred(*numbers: signal.Signals) -> Iterator[None]:
    """Hold signals back meanwhile, from processes started here too; they come at the end."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    # Only what is handled: what is ignored stays so.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        with handling(dict.fromkeys(heard, note)):
            # The handlers too, since another thread of this process may get a signal.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        for number in dict.fromkeys(seen):
            signal.raise_signal(number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Take note of signals meanwhile, for a loop that asks at the end of each step.

    A second signal ends it in the midst of a step.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if stop.asked is not None:
            raise kind
        stop.asked = kind

    with handling({signal.SIGINT: note, signal.SIGTERM: note}):
        yield stop
