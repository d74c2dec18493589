"""How valid content is spoilt: bytes, JSON values, text and the names of files."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

NAMES = (
    "../escaped",
    "..",
    ".",
    "",
    "a/../../escaped",
    "..\\escaped",
    "C:\\escaped",
    "\\escaped",
    "//escaped",
    "./a",
    "a//b",
    "a/./b",
    "con",
    "a\nb",
    "a\0b",
    "\u202egpj.exe",
    "\udcff",
    "é" * 90,
    "x" * 300,
    "d/" * 40 + "f",
    "~/escaped",
    "$HOME/escaped",
    "%2e%2e/escaped",
    " ",
    "-rf",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    255,
    2**31,
    2**32 + 1,
    2**63,
    -(2**63),
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "0",
    "1",
    [],
    {},
    [[]],
    [None],
    [0, 0],
    {"a": 1},
    {"tensor": 1},
    {"dict": [[1]]},
    {"list": 3},
    *NAMES,
)
_WORDS = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x80",
    b"\x00\x00\x00\x80",
    b"\xff" * 9 + b"\x01",
    b"<",
    b">",
    b"&a;",
    b"%s",
    b"nan",
    b"1e999",
    b"\n",
    b"{",
    b"[",
    b'"',
    b"9" * 30,
    b"-1",
    b"../",
    b"\xed\xa0\x80",
    "\u00b2".encode(),
    b"\r",
    b"\\",
)


def mutate_bytes(random: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Spoil bytes in one to four ways: flips, cuts, splices, repeats, insertions."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        size = len(content)
        if not size:
            content += random.randbytes(random.randrange(1, 64))
            continue
        at = random.randrange(size)
        kind = random.randrange(10)
        if kind == 0:
            content[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            content[at] = random.randrange(256)
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            del content[at : at + random.randrange(1, 40)]
        elif kind == 4:
            word = random.choice(_WORDS)
            content[at : at + len(word)] = word
        elif kind == 5:
            content[at:at] = random.choice(_WORDS) * random.choice((1, 1, 1, 50))
        elif kind == 6:
            content[at:at] = content[at : at + random.randrange(1, 600)]
        elif kind == 7:
            other = random.choice(others) if others else data
            start = random.randrange(len(other)) if other else 0
            content[at:] = other[start:]
        elif kind == 8:
            for _ in range(random.randrange(1, 16)):
                content[random.randrange(size)] = random.randrange(256)
        else:
            content += random.randbytes(random.randrange(1, 100))
    return bytes(content)


def mutate_value(random: random.Random, value: Any, times: int | None = None) -> Any:
    """Spoil a JSON value in one to three places: other types, absent, unknown, huge, nested."""
    value = copy.deepcopy(value)
    for _ in range(times or random.choice((1, 1, 1, 2, 3))):
        holders = list(_holders(value))
        if not holders:
            return copy.deepcopy(random.choice(VALUES))
        holder = random.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = random.choice(keys) if keys else None
        kind = random.randrange(8)
        if key is None or kind == 0:
            _add(random, holder)
        elif kind == 1:
            del holder[key]
        elif kind == 2:
            holder[key] = [holder[key]]
        elif kind == 3 and isinstance(holder[key], str):
            holder[key] = holder[key][: random.randrange(len(holder[key]) + 1)] + random.choice(
                ("", "/", "\0", "é", *NAMES)
            )
        elif kind == 4 and isinstance(holder[key], (int, float)) and abs(holder[key]) < 1e300:
            holder[key] = holder[key] * random.choice((-1, 0, 2, 1.5, 10**18))
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return value


def _add(random: random.Random, holder: Any) -> None:
    if isinstance(holder, dict):
        holder[random.choice(("unknown", "", "__class__", "self", "format"))] = 1
    else:
        holder.append(copy.deepcopy(random.choice(VALUES)))


def _holders(value: Any) -> Any:
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _holders(item)


def mutate_json(random: random.Random, value: Any) -> bytes:
    """A JSON file of a spoilt value, or spoilt text of a good one, or deep nesting."""
    kind = random.randrange(20)
    if kind == 0:
        opening = random.choice(("[", '{"a":'))
        return (opening * random.choice((50, 5_000, 100_000))).encode()
    if kind < 5:
        return mutate_bytes(random, json.dumps(value).encode())
    text = json.dumps(mutate_value(random, value), ensure_ascii=random.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def mutate_text(random: random.Random, text: str) -> bytes:
    """A text file whose lines or words are swapped, repeated, lost or replaced."""
    if random.random() < 0.3:
        return mutate_bytes(random, text.encode())
    lines = [line.split(" ") for line in text.splitlines()]
    for _ in range(random.choice((1, 1, 2, 5))):
        if not lines:
            break
        line = random.choice(lines)
        kind = random.randrange(6)
        if kind == 0:
            lines.remove(line)
        elif kind == 1:
            lines.append(list(line))
        elif kind == 2 and line:
            del line[random.randrange(len(line))]
        elif kind == 3:
            other = random.choice(lines)
            line[:], other[:] = other[:], line[:]
        elif line:
            line[random.randrange(len(line))] = str(random.choice(VALUES[: -len(NAMES)] + NAMES))
    ending = random.choice(("\n", "\n", "\r\n", "\u2028"))
    return ending.join(" ".join(line) for line in lines).encode("utf-8", "surrogatepass")
