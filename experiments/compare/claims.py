"""Trials in the hands of one of several workers: nobody else takes them up while it lives."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


class Claims:
    """Trials of an agent that a worker holds; a claim ends with its process, however that ends.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> one, other = Claims(folder), Claims(folder)
        >>> one.take(3), other.take(3), other.take(4)
        (True, False, True)
        >>> one.give_back()
        >>> other.take(3)
        True
    """

    def __init__(self, folder: Path) -> None:
        """Hold nothing yet.

        Args:
            folder: Folder of the agent's trials, on a disk that all workers share.
        """
        self._folder = folder
        self._held: dict[int, FileLock] = {}

    def take(self, trial: int) -> bool:
        """Take a trial; returns False where another worker has it.

        Raises:
            OSError: The folder cannot be written to.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self._folder / f"trial-{trial}.claim"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        self._held[trial] = lock
        return True

    def give_back(self) -> None:
        """Give back all that is held."""
        for lock in self._held.values():
            lock.release()
        self._held.clear()
