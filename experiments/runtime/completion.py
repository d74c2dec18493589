"""Completion of commands and options in a shell, by tyro's own generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Union

import tyro
from tyro.conf import Fixed, Suppress, subcommand

from experiments.runtime.help_pages import shorten

_LONG = ("network", "learning")

SHELLS = ("bash", "zsh", "fish")

FLAGS = ("--tyro-print-completion", "--tyro-write-completion")
"""tyro's own, of a program without a table of commands."""


def complete(arguments: Sequence[str], options: Mapping[str, Callable[[], Any]]) -> None:
    """Print or write a shell's completion script for all commands; ends the process as tyro does.

    Args:
        arguments: One of `FLAGS`, a shell, and for the second a file.
        options: For each command what gives the dataclass of its options, or a dict of named ones.

    Raises:
        ValueError: No such shell.
        SystemExit: Otherwise, with status 0.
    """
    count = 2 + FLAGS.index(arguments[0])
    if len(arguments) != count or arguments[1] not in SHELLS:
        file = " FILE" if count == 3 else ""
        raise ValueError(f"{arguments[0]} takes one of the shells {', '.join(SHELLS)}{file}")
    kinds = [_subcommand(name, give()) for name, give in options.items()]
    tyro.cli(_union(kinds), prog="glimpse", args=list(arguments))


def _subcommand(name: str, options: Any) -> Any:
    if not isinstance(options, dict):
        return Annotated[options, subcommand(name=name)]
    # Their settings of the network and of learning would make the script a megabyte.
    kind = type(next(iter(options.values()))[1])
    shown = [each.name for each in fields(kind) if each.name not in _LONG]
    short = shorten(kind, shown, Fixed)
    named = [
        Annotated[short, subcommand(name=each, default=short(**vars(config)))]
        for each, (_, config) in options.items()
    ]
    return Annotated[_union(named), subcommand(name=name)]


def _union(kinds: Sequence[Any]) -> Any:
    # A union takes two members at least.
    return Union[(*kinds, Annotated[None, Suppress])]  # noqa: UP007
