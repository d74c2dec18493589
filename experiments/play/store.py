"""Sessions by the token of a browser's cookie, each with its record on disk (JSON lines).

The token is random and never written: the record's name is a hash of it, so a request can name no
file, and who reads the folder can take over no session.

At most so many sessions are in memory. The oldest idle ones beyond that are on disk, in their
records or, where nothing has happened in them yet, put aside in a file of a hundred bytes; they
are read back when they are asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.play.session import EventError, Rules, Session

FORMAT = 1
"""Of the record."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_IN_MEMORY = 500
_ASIDE = 20_000
_LOG = logging.getLogger(__name__)


class FolderFullError(RuntimeError):
    """The folder of records takes no further session."""


@dataclass
class Held:
    """A session in memory."""

    key: str
    """Hash of its token."""
    session: Session
    """State of the session."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Two tabs of one person take turns."""
    used: float = 0.0
    """When it was last asked for, in seconds."""
    since: float | None = None
    """When its last event was, by a clock that never jumps; None if this server has seen none."""
    recorded: bool = False
    """Whether its record has been begun."""


class Store:
    """All sessions of a server, and those that earlier servers left in the folder."""

    def __init__(
        self,
        folder: Path,
        rules: Rules,
        header: Mapping[str, Any],
        *,
        keep_seconds: float,
        max_sessions: int,
    ) -> None:
        """Name the folder; it is made with the first record.

        Args:
            folder: Of the records.
            rules: What is played.
            header: First line of every record: what is played, in words. A record with another
                `fingerprint`, `num_glimpses` or number of classes is of another game.
            keep_seconds: How long after its last event a session can be taken up again. The record
                stays.
            max_sessions: Records that the folder may hold.
        """
        self.folder, self.rules, self.header = Path(folder), rules, dict(header)
        self.keep_seconds, self.max_sessions = keep_seconds, max_sessions
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._lock = threading.Lock()
        self._aside, self._put = self.folder / "idle", 0

    def path(self, key: str) -> Path:
        """Path of a session's record."""
        return self.folder / f"session-{key}.jsonl"

    def begin(self) -> tuple[str, Held]:
        """Make a session; returns its token too. Nothing is written before its first event."""
        token = secrets.token_urlsafe(24)
        held = Held(_key(token), Session(self.rules), used=time.time())
        with self._lock:
            self._remember(held)
        return token, held

    def find(self, token: str | None) -> Held | None:
        """Find the session of a token, in memory or on disk; None if it has none or it is over."""
        if token is None or not _TOKEN.fullmatch(token):
            return None
        key, now = _key(token), time.time()
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._restore(key, now)
                if held is None:
                    return None
                self._remember(held)
            if now - held.used > self.keep_seconds:
                del self._held[key]
                return None
            held.used = now
            self._held.move_to_end(key)
            return held

    def append(self, held: Held, event: Mapping[str, Any]) -> None:
        """Apply an event to a session and write it down. The caller holds the session's lock.

        Raises:
            EventError: It does not follow; nothing has changed.
            FolderFullError: This would be one record too many.
            OSError: The disk is full, say; the state is as before.
        """
        # Tried on a copy: what cannot be written must not count.
        tried = _copy(held.session)
        tried.apply(event)
        lines = []
        if not held.recorded:
            with self._lock:
                count = len(list(self.folder.glob("session-*.jsonl")))
                if count >= self.max_sessions:
                    raise FolderFullError(
                        f"the folder of records holds {count} sessions, its limit: start `glimpse "
                        "play` with another --out or a larger --max-sessions"
                    )
                self.folder.mkdir(parents=True, exist_ok=True)
                self.path(held.key).touch()
            lines.append({"kind": "session", "format": FORMAT, **self.header, "begun": _now()})
            # Episodes begin by themselves: what was begun before is written with the first look.
            for number, episode in enumerate(held.session.episodes):
                lines.append({"kind": "begin", "episode": number, "image": episode.image})
        lines.append(dict(event))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        _append_whole(self.path(held.key), text.encode())
        held.session, held.recorded = tried, True

    def _remember(self, held: Held) -> None:
        self._held[held.key] = held
        # Whoever is being served is not idle.
        idle = [key for key, each in self._held.items() if not each.lock.locked()]
        for key in idle[: max(0, len(self._held) - _IN_MEMORY)]:
            if key != held.key:
                self._put_aside(self._held.pop(key))

    def _put_aside(self, held: Held) -> None:
        """Write down a session that leaves the memory, if it has no record that says the same."""
        images = [episode.image for episode in held.session.episodes]
        if held.recorded or not images:
            return
        game = {name: self.header.get(name) for name in _SAME_GAME}
        try:
            self._aside.mkdir(parents=True, exist_ok=True)
            path = self._aside / f"{held.key}.json"
            path.write_text(json.dumps({"game": game, "images": images}), encoding="utf-8")
            os.utime(path, (held.used, held.used))
            self._put += 1
            if self._put % 1000 == 0:
                self._forget_oldest()
        except OSError as error:
            _LOG.error("an idle session is lost, since it cannot be put aside: %s", error)

    def _forget_oldest(self) -> None:
        """Keep as many sessions put aside as there may be."""
        files = sorted(self._aside.glob("*.json"), key=lambda path: path.stat().st_mtime)
        lost = files[: max(0, len(files) - _ASIDE)]
        if lost:
            _LOG.warning("%d sessions in which nothing happened are forgotten", len(lost))
        for path in lost:
            path.unlink(missing_ok=True)

    def _take_back(self, key: str, now: float) -> Held | None:
        """Return a session that was put aside, which then is so no longer."""
        path = self._aside / f"{key}.json"
        try:
            used = path.stat().st_mtime
            record = json.loads(path.read_text(encoding="utf-8"))
            if now - used > self.keep_seconds or record["game"] != {
                name: self.header.get(name) for name in _SAME_GAME
            }:
                return None
            session = Session(self.rules)
            for number, image in enumerate(record["images"]):
                session.apply({"kind": "begin", "episode": number, "image": image})
        except (OSError, ValueError, LookupError, TypeError):
            return None
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return Held(key, session, used=used)

    def _restore(self, key: str, now: float) -> Held | None:
        path = self.path(key)
        if not path.is_file():
            return self._take_back(key, now)
        try:
            used = path.stat().st_mtime
            if now - used > self.keep_seconds:
                return None
            header, events, size = read_record(path)
            if any(header.get(name) != self.header.get(name) for name in _SAME_GAME):
                return None
            session = Session(self.rules)
            for event in events:
                session.apply(event)
            if path.stat().st_size > size:  # half a line, of a server that was killed
                os.truncate(path, size)
        except (OSError, EventError, RecordError):
            return None
        return Held(key, session, used=used, recorded=True)


_SAME_GAME = ("fingerprint", "num_glimpses", "num_classes")


class RecordError(ValueError):
    """A file that is no record of `glimpse play`; the message names it."""


def read_record(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Read a session's record.

    Args:
        path: The file.

    Returns:
        Its header, its events, and how many bytes of whole lines it has.

    Raises:
        RecordError: It cannot be read, or is no record of this format.
    """
    try:
        data = path.read_bytes()
        size = data.rfind(b"\n") + 1
        rows = [json.loads(line) for line in data[:size].splitlines()]
        if not rows or not all(isinstance(row, dict) for row in rows):
            raise ValueError("no rows of a session")
        if rows[0].get("kind") != "session" or rows[0].get("format") != FORMAT:
            raise ValueError(f"its first line is not that of a session of format {FORMAT}")
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} is no record of `glimpse play`, or damaged ({error}): give a session-*.jsonl "
            "file or the folder of them"
        ) from error
    return rows[0], rows[1:], size


def _append_whole(path: Path, content: bytes) -> None:
    """Append to a file; if that fails it ends where it did, not with half a line."""
    with open(path, "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _copy(session: Session) -> Session:
    twin = Session(session.rules)
    twin.episodes = [*session.episodes[:-1], *(deepcopy(each) for each in session.episodes[-1:])]
    return twin


def _key(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
