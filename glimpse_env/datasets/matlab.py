"""Read lists from MATLAB's MAT-files, version 5 (the official lists of Stanford Dogs are such).

`scipy.io.loadmat` crashes the process on some damaged files, and lists may come from strangers.
Only what the lists consist of is read: arrays of numbers, strings, cells of these. Source: the
"MAT-File Format" of The MathWorks, chapter 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

MAX_BYTES = 64 * 2**20
"""Bytes of a file, and of what is compressed in it; the longest official list has 0.2 MiB."""

_COMPRESSED, _MATRIX = 15, 14
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_CELL, _CHAR, _NUMERIC = 1, 4, range(6, 16)
_COMPLEX = 0x08
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}

Value = np.ndarray | str | list[str]


def read_mat(path: Path, names: Collection[str]) -> dict[str, Value]:
    """Read variables by name.

    Args:
        path: The file.
        names: Variables to read; others are skipped.

    Returns:
        Of each that is there: numbers as a flat array in the file's order (down the columns), a
        string, or the strings of a cell array in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, damaged, too long, or holds something else under a name.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    if len(content) < 128 or content[124:128] != b"\x00\x01IM":
        raise ValueError("no MAT-file of version 5 in little-endian order")
    found: dict[str, Value] = {}
    left = MAX_BYTES
    for kind, data in _elements(memoryview(content)[128:]):
        if kind == _COMPRESSED:
            inner = _inflate(data, left)
            left -= len(inner)
            kind, data = next(_elements(memoryview(inner)), (0, data))
        if kind == _MATRIX:
            flags, name, rest = _head(data)
            if name in names:
                found[name] = _value(flags, rest)
    return found


def _inflate(data: memoryview, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        inner = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(inner) > limit or not inflater.eof:
        raise ValueError("compressed data that is cut short, or too long")
    return inner


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, content) of the elements that lie one after another."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("an element is cut short")
        kind, size = struct.unpack_from("<II", data, at)
        start, end = at + 8, at + 8 + size
        following = end if kind == _COMPRESSED else start + -(-size // 8) * 8
        if kind >> 16:  # small elements hold up to four bytes in place of their size
            kind, size = kind & 0xFFFF, kind >> 16
            start, end, following = at + 4, at + 4 + size, at + 8
            if size > 4:
                raise ValueError("a small element of more than four bytes")
        if end > len(data):
            raise ValueError("an element runs past the end")
        yield kind, data[start:end]
        at = following


def _head(data: memoryview) -> tuple[int, str, list[tuple[int, memoryview]]]:
    """Flags and name of a matrix, and its further elements; its dimensions among the latter."""
    elements = list(_elements(data))
    if len(elements) < 3 or len(elements[0][1]) != 8:
        raise ValueError("a matrix without its head")
    (flags, _), (name_kind, name) = struct.unpack("<II", elements[0][1]), elements[2]
    if name_kind != 1:
        raise ValueError("a matrix without a name")
    return flags, bytes(name).decode("latin-1"), [elements[1], *elements[3:]]


def _value(flags: int, elements: list[tuple[int, memoryview]]) -> Value:
    (_, shape), *parts = elements
    dimensions = np.frombuffer(shape[: len(shape) // 4 * 4], "<i4").tolist()
    count = 1
    for length in dimensions:
        count *= length
    if len(dimensions) < 2 or min(dimensions) < 0:
        raise ValueError(f"a matrix of shape {dimensions}")
    kind = flags & 0xFF
    if kind == _CELL:
        if len(parts) != count or any(part != _MATRIX for part, _ in parts):
            raise ValueError(f"{count} cells, of which {len(parts)} are there")
        strings = []
        for _, data in parts:
            inner, _, rest = _head(data)
            if inner & 0xFF != _CHAR:  # also what keeps cells from nesting
                raise ValueError("a cell that holds no string")
            text = _value(inner, rest)
            assert isinstance(text, str)
            strings.append(text)
        return strings
    if len(parts) != 1 and count:
        raise ValueError("a matrix of more than real numbers or characters")
    stored, data = parts[0] if parts else (2, memoryview(b""))
    if kind == _CHAR:
        if min(dimensions[:2]) > 1 or stored not in _TEXT:
            raise ValueError("a table of characters, or of an unknown encoding")
        return bytes(data).decode(_TEXT[stored])
    if kind not in _NUMERIC or (flags >> 8) & _COMPLEX or stored not in _NUMBERS:
        raise ValueError(f"a matrix of class {kind}, stored as {stored}")
    numbers = np.dtype("<" + _NUMBERS[stored])
    if len(data) != count * numbers.itemsize:
        raise ValueError(f"{count} numbers in {len(data)} bytes")
    return np.frombuffer(data, numbers)
