"""Folders: that of the user's cache, and those of large arrays with a description."""

from __future__ import annotations

import os
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
    partial = folder / f"{description}.part"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / description)
