"""What a process holds: memory, open files, threads. From /proc, so on Linux only."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MEASURABLE = sys.platform == "linux"


@dataclass(frozen=True)
class Holdings:
    """What this process holds at one moment."""

    resident: int
    """Resident memory in bytes, mapped files included."""
    anonymous: int
    """Of that what no file backs, in bytes: the heap, so where a leak would be."""
    descriptors: tuple[str, ...]
    """What each open descriptor points to, sorted."""
    mappings: int
    """Mapped regions: a leaked memory map that was never read shows here alone."""
    threads: int
    """Threads, those of libraries included."""


def holdings(*, collect: bool = True) -> Holdings:
    """Look, having collected garbage or not: that takes a third of a second with torch imported."""
    if collect:
        gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Holdings(
        resident=_bytes(status["VmRSS"]),
        anonymous=_bytes(status["RssAnon"]),
        descriptors=descriptors(),
        mappings=len(Path("/proc/self/maps").read_text().splitlines()),
        threads=int(status["Threads"]),
    )


def descriptors() -> tuple[str, ...]:
    """Return what the open descriptors point to; the one that lists the folder is left out."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return tuple(sorted(found))


def settled_threads(wanted: int, seconds: float = 5.0) -> int:
    """Return how many threads of Python are left, having waited for those that are ending."""
    end = time.monotonic() + seconds
    while threading.active_count() > wanted and time.monotonic() < end:
        time.sleep(0.01)
    return threading.active_count()


def _bytes(amount: str) -> int:
    number, unit = amount.split()
    assert unit == "kB"
    return 1024 * int(number)
