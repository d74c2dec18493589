"""Chunks of a bank on disk: read and written by themselves, by as many machines as like to.

A chunk is a run of images, so that in each file of a bank it is one piece. It is written with plain
writes, not through a memory map: a network file system sends whole pages of a map, and so would
overwrite at the borders what another machine wrote.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from encoders.bank.description import BankDescription

DONE = "done.u8"
"""Name of the file with one byte a chunk, 1 where it is computed."""


def chunk_images(description: BankDescription, chunk: int) -> range:
    """Images of a chunk.

    Args:
        description: Of the bank.
        chunk: Its number.
    """
    size = description.chunk
    return range(chunk * size, min((chunk + 1) * size, description.num_images))


def write_chunk(
    folder: Path, description: BankDescription, chunk: int, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a chunk, and mark it done once it is on the disk.

    Args:
        folder: The bank, laid out.
        description: What it holds.
        chunk: Which one.
        arrays: fp16 by the name of the file, [images of the chunk, ...].

    Raises:
        OSError: The disk is full, or refuses.
    """
    for name, array in arrays.items():
        start, size = _piece(description, name, chunk)
        content = np.ascontiguousarray(array, np.float16)
        assert content.nbytes == size, (name, content.shape)
        _write(folder / name, start, content.data.cast("B"))
    _write(folder / DONE, chunk, memoryview(b"\1"))


def read_chunk(folder: Path, description: BankDescription, chunk: int) -> dict[str, bytes]:
    """Bytes of a chunk, by the name of the file.

    Args:
        folder: The bank.
        description: What it holds.
        chunk: Which one.

    Raises:
        OSError: A file is absent or cannot be read.
    """
    found = {}
    for name in description.array_shapes:
        start, size = _piece(description, name, chunk)
        with open(folder / name, "rb") as file:
            file.seek(start)
            found[name] = file.read(size)
    return found


def read_done(folder: Path) -> UInt8[np.ndarray, " chunks"]:
    """Which chunks are done, as the disk has it now.

    Args:
        folder: The bank.
    """
    return np.fromfile(folder / DONE, np.uint8)


def _piece(description: BankDescription, name: str, chunk: int) -> tuple[int, int]:
    """Return where a chunk begins in a file, and its length, in bytes."""
    images = chunk_images(description, chunk)
    row = 2 * math.prod(description.array_shapes[name][1:])
    return images.start * row, len(images) * row


def _write(path: Path, start: int, content: memoryview) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
