"""One process a folder: whoever comes second is told, and touches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.runs import RunError

LOCK = ".lock"
"""Name of the file that is locked; the system gives it free when its process ends, however."""


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, as long as the context lasts.

    Raises:
        RunError: Another process holds it.
        OSError: The folder cannot be made or written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder / LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"another process is at work in {folder}: wait until it ends, or give another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
