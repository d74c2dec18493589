"""Leases: who among several processes, on several machines, is at which piece of work.

A lease is a file that only one process can make, on network file systems too. Its owner touches it
as long as it lives; one that nobody has touched for a while is anybody's. Two that believe to hold
the same piece cost time and nothing else, since both write the same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Leases:
    """Leases in a folder.

    Example:
        >>> import tempfile
        >>> leases = Leases(Path(tempfile.mkdtemp()))
        >>> with leases.held(3) as ours, leases.held(3) as again:
        ...     print(ours, again)
        True False
    """

    folder: Path
    """Made when it is needed."""
    seconds: float = 60.0
    """Without a sign of life, after which a lease is anybody's."""

    @contextmanager
    def held(self, piece: int) -> Iterator[bool]:
        """Hold a piece of work, if nobody else does.

        Yields:
            Whether it is held.
        """
        path = self.folder / f"{piece}.lease"
        if not self._take(path):
            yield False
            return
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(path, stop), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            path.unlink(missing_ok=True)

    def _take(self, path: Path) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(f"{socket.gethostname()} {os.getpid()}\n")
                return True
            except FileExistsError:
                try:
                    if self._now() - path.stat().st_mtime < self.seconds:
                        return False
                    # Moved and not removed: of several that see it die only one can move it.
                    dead = path.with_suffix(f".{uuid.uuid4().hex}")
                    path.rename(dead)
                    dead.unlink()
                except FileNotFoundError:
                    continue  # given back, or taken by another, meanwhile
        return False

    def _now(self) -> float:
        """The clock of the disk, which all machines share; theirs may differ."""
        mark = self.folder / f".clock-{uuid.uuid4().hex}"
        mark.touch()
        try:
            return mark.stat().st_mtime
        finally:
            mark.unlink()

    def _beat(self, path: Path, stop: threading.Event) -> None:
        while not stop.wait(self.seconds / 6):
            with suppress(OSError):
                os.utime(path)

    # -- who takes part -----------------------------------------------------------------------

    def join(self, share: int, count: int) -> None:
        """Say that a share of the work is done in this folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"share-{share}-of-{count}").touch()

    def members(self, count: int) -> set[int]:
        """The shares that are done in this folder."""
        if not self.folder.is_dir():
            return set()
        names = [path.name for path in self.folder.iterdir()]
        found = (re.fullmatch(rf"share-(\d+)-of-{count}", name) for name in names)
        return {int(each[1]) for each in found if each}

    def remove(self) -> None:
        """Remove the folder: the work is done."""
        # Others do it too, or still give back what they hold.
        for _ in range(3):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)
