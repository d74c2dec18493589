"""Find images that are the same, byte for byte, in training and in evaluation.

An agent that is evaluated on what it was trained on seems better than it is. Sizes are compared
first, then 4 KiB from the middle of files of equal size, then the whole of those that are still
equal; what was found is kept in the user's cache, so that a data set is compared once and not
whenever it is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from encoders.folders import user_cache

_BLOCK = 4096
_THREADS = 8
_WORTH_KEEPING = 256
"""Files looked into, from which a comparison is kept on disk; fewer take no time."""
_MOST_KEPT = 64
_known: dict[str, list[tuple[str, str]]] = {}


class _File(NamedTuple):
    """A file, as the system describes it."""

    name: str
    size: int
    changed: int


class _Found(NamedTuple):
    """Result of a comparison, and of how many files the content was looked at."""

    pairs: list[tuple[str, str]]
    read: int


def equal_files(
    root: Path, training: Sequence[str], evaluation: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs of a training and an evaluation file with equal bytes; of several, the first.

    Args:
        root: Folder that names are relative to.
        training: Names of the training images.
        evaluation: Names of the images to evaluate on.

    Returns:
        Pairs of names, in the order of `evaluation`. A file of both lists is equal to itself.
        Files that are absent, empty or unreadable are left out.
    """
    ours, theirs = _stat(root, training), _stat(root, evaluation)
    key = _key(root, ours, theirs)
    if key not in _known:
        place = _place(key)
        pairs = None if place is None else _recall(place)
        if pairs is None:
            pairs, read = _compare(root, ours, theirs)
            if place is not None and read >= _WORTH_KEEPING:
                _remember(place, pairs)
        if len(_known) >= _MOST_KEPT:
            _known.clear()
        _known[key] = pairs
    return list(_known[key])


def _stat(root: Path, names: Sequence[str]) -> list[_File]:
    """Files with their sizes and times, by listing their folders, which is quick."""
    listings: dict[str, dict[str, tuple[int, int]]] = {}
    found = []
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder not in listings:
            listings[folder] = _listing(root / folder)
        size, changed = listings[folder].get(file, (0, 0))
        if size > 0:
            found.append(_File(name, size, changed))
    return found


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    sizes = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file():
                        found = entry.stat()
                        sizes[entry.name] = (found.st_size, found.st_mtime_ns)
                except OSError:  # a link in a circle
                    continue
    except OSError:  # the data set itself says what cannot be read
        pass
    return sizes


def _compare(root: Path, ours: list[_File], theirs: list[_File]) -> _Found:
    """Narrow both sides to what is equal so far, by ever more of the content."""
    sides: list[dict[str, Hashable]] = [
        {file.name: file.size for file in side} for side in (ours, theirs)
    ]
    sides = _common(sides)
    read = len(sides[0]) + len(sides[1])
    if read:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="glimpse-equal") as pool:
            for digest in (_middle, _whole):
                sides = _common([_by_content(root, digest, side, pool.map) for side in sides])
    first: dict[Hashable, str] = {}
    for name, key in sides[0].items():
        first.setdefault(key, name)
    return _Found([(first[key], name) for name, key in sides[1].items()], read)


def _common(sides: list[dict[str, Hashable]]) -> list[dict[str, Hashable]]:
    """Select what has a counterpart on the other side."""
    common = set(sides[0].values()) & set(sides[1].values())
    return [{name: key for name, key in side.items() if key in common} for side in sides]


def _by_content(
    root: Path,
    read: Callable[[Path], bytes | None],
    side: dict[str, Hashable],
    over: Callable[..., Iterable[bytes | None]],
) -> dict[str, Hashable]:
    """Keys that also say what `read` found; files that cannot be read are left out."""
    contents = over(read, [root / name for name in side])
    pairs = zip(side.items(), contents, strict=True)
    return {name: (key, content) for (name, key), content in pairs if content is not None}


def _middle(path: Path) -> bytes | None:
    """Digest of a block that no header reaches."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size // 2 - _BLOCK // 2))
            return hashlib.blake2b(file.read(_BLOCK), digest_size=16).digest()
    except OSError:
        return None


def _whole(path: Path) -> bytes | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


def _key(root: Path, ours: list[_File], theirs: list[_File]) -> str:
    """Identify a comparison: any file that changes makes it another."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(root)))
    for side in (ours, theirs):
        digest.update(b"\n\n")
        for file in side:
            digest.update(
                f"{file.name}\0{file.size}\0{file.changed}\n".encode("utf-8", "surrogateescape")
            )
    return digest.hexdigest()


def _place(key: str) -> Path | None:
    """File that keeps what was found; None where there is no place for it."""
    folder = user_cache()
    return None if folder is None else folder / "equal_images" / f"{key[:32]}.json"


def _recall(place: Path) -> list[tuple[str, str]] | None:
    """Read what was found before; None if nothing is kept, or if it is damaged."""
    try:
        pairs = json.loads(place.read_text(encoding="utf-8"))
        if not isinstance(pairs, list):
            return None
        found = [(ours, theirs) for ours, theirs in pairs]
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if all(isinstance(name, str) for pair in found for name in pair) else None


def _remember(place: Path, found: list[tuple[str, str]]) -> None:
    """Keep what was found, whole or not at all; a cache that cannot be written is no error."""
    partial = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=place.parent, suffix=".part")
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.replace(partial, place)
        kept = sorted(place.parent.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for old in kept[:-_MOST_KEPT]:
            old.unlink()
    except OSError:
        if partial is not None and os.path.exists(partial):
            os.unlink(partial)
