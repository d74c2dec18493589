"""Folders of large arrays with a description: how they come into being."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


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
    partial.write_text(text)
    os.replace(partial, folder / description)
