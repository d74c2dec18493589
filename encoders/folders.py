"""Folders and files on disk: the user's cache, files that are whole or absent, room."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_dir


class NoUserFolderError(FileNotFoundError):
    """This process's user has no home folder, so nothing has a default place."""


def user_cache() -> Path | None:
    """Return this project's folder of the user's cache; None where the user has no home.

    In containers and in some job systems there is neither `HOME` nor an entry for the user's
    number, and what needs no files must work without.
    """
    try:
        folder = Path(user_cache_dir("glimpse"))
    except (RuntimeError, OSError, KeyError):  # newer versions of platformdirs say so
        return None
    return folder if folder.is_absolute() else None  # older ones leave the "~"


def data_root() -> Path:
    """Return `$GLIMPSE_DATA`, where set, else the user's cache.

    Raises:
        NoUserFolderError: If there is neither.
    """
    given = os.environ.get("GLIMPSE_DATA")
    folder = Path(os.path.expanduser(given)) if given else user_cache()
    if folder is None:
        raise NoUserFolderError(
            f"user {os.getuid() if hasattr(os, 'getuid') else ''} has no home folder, where data "
            "and weights would lie: set GLIMPSE_DATA (or HOME) to a folder, or give data_dir"
        )
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: it is whole, or as it was.

    Args:
        path: The file; its folder is made if need be.
        content: What it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)


def check_room(folder: Path, needed: int) -> None:
    """Check that a disk has room.

    Args:
        folder: On the disk; it need not be there yet.
        needed: Bytes to be written.

    Raises:
        OSError: It has too little.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{place} has {free / 2**20:.0f} MiB free, but {needed / 2**20:.0f} MiB are needed: "
            "make room, or choose another folder",
        )


def lay_out(folder: Path, sizes: Mapping[str, int], description: str, text: str) -> None:
    """Make files of zeros, and then the description that makes the folder one to be used.

    The description is written last and moved into place: whoever finds it finds everything.

    Args:
        folder: Is there already.
        sizes: Bytes of each file.
        description: Name of the description's file.
        text: What it says.
    """
    for name, size in sizes.items():
        with open(folder / name, "wb") as file:
            file.truncate(size)
    write_whole(folder / description, text.encode())
