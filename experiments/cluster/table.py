"""Progress of all jobs in one table: redrawn on a terminal, a line for each change in a log."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

_REDRAW_SECONDS = 0.5
_ORDER = ("failed", "running", "again", "waiting", "done")


@dataclass
class _Row:
    kind: str = "waiting"
    where: str = ""
    starts: int = 1
    since: float = 0.0


class JobTable:
    """Rows of jobs: name, state, machine, starts, time.

    Example:
        >>> import io
        >>> with JobTable(["a", "b"], ["b"], stream=io.StringIO()) as table:
        ...     table.show("b", "running", "node-1", 1)
        >>> print(table.summary())
        1 of 2 done, 1 running
    """

    def __init__(
        self, names: Sequence[str], left: Sequence[str], stream: TextIO | None = None
    ) -> None:
        """Begin with all jobs, of which some are left to do.

        Args:
            names: Of all jobs.
            left: Of those that are not done.
            stream: Where to write; standard error by default.
        """
        self._rows = {name: _Row("waiting" if name in set(left) else "done") for name in names}
        self._stream = stream or sys.stderr
        # `--quiet` says it so to every progress bar.
        self._silent = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
        self._terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn, self._due = 0, 0.0

    def __enter__(self) -> JobTable:
        """Say how much there is to do."""
        self._write(self.summary())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the terminal."""
        self._due = 0.0
        self.draw()
        self._drawn = 0

    def show(self, name: str, kind: str, where: str, starts: int) -> None:
        """Take note of a job's state."""
        row = self._rows[name]
        changed = (row.kind, row.where, row.starts) != (kind, where, starts)
        if row.kind != kind:
            row.since = time.monotonic()
        row.kind, row.where, row.starts = kind, where, starts
        if changed and not self._terminal and kind != "waiting":
            self._write(f"{name}: {self._words(row)} ({self.summary()})")

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def summary(self) -> str:
        """How many are done, and how many are at what."""
        count = Counter(row.kind for row in self._rows.values())
        others = [f"{count[kind]} {kind}" for kind in _ORDER if count[kind] and kind != "done"]
        return ", ".join([f"{count['done']} of {len(self._rows)} done", *others])

    def draw(self) -> None:
        """Draw the table again, on a terminal and not too often."""
        if not self._terminal or self._silent or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _REDRAW_SECONDS
        size = shutil.get_terminal_size()
        rows = sorted(self._rows.items(), key=lambda item: _ORDER.index(item[1].kind))
        room = max(3, size.lines - 3)
        lines = [f"{name:<32} {self._words(row)}" for name, row in rows[:room]]
        lines.append(self.summary())
        self._clear()
        self._stream.write("".join(line[: size.columns - 1] + "\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _words(self, row: _Row) -> str:
        words = {"again": "started again"}.get(row.kind, row.kind)
        if row.where:
            words += f" on {row.where}" if row.kind == "running" else f": {row.where}"
        if row.starts > 1 and row.kind != "again":
            words += f", start {row.starts}"
        if self._terminal and row.kind == "running":
            minutes, seconds = divmod(int(time.monotonic() - row.since), 60)
            words += f", {minutes}:{seconds:02}"
        return words

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _write(self, text: str) -> None:
        if not self._terminal and not self._silent:
            print(text, file=self._stream, flush=True)
