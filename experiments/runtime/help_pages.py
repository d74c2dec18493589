"""Help pages on one screen: the options that matter, and where the rest are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.conf import Suppress

WIDTH = 100
"""Columns that a page of names is laid out for."""


def shorten(kind: type[Any], shown: Iterable[str], marker: Any = Suppress) -> type[Any]:
    """Derive the dataclass whose help page lists some of the options of another.

    Args:
        kind: A dataclass of options.
        shown: Names of the fields to list.
        marker: tyro's mark of the others.

    Returns:
        A subclass with the same fields and defaults, the others marked.
    """
    hints, hidden = get_type_hints(kind, include_extras=True), []
    for each in fields(kind):
        if each.name in shown:
            continue
        default: dict[str, Any] = {"kw_only": each.kw_only}
        if each.default is not MISSING:
            default["default"] = each.default
        elif each.default_factory is not MISSING:
            default["default_factory"] = each.default_factory
        hidden.append((each.name, Annotated[hints[each.name], marker], field(**default)))
    short = make_dataclass(kind.__name__, hidden, bases=(kind,), frozen=True)
    short.__doc__, short.__module__ = kind.__doc__, kind.__module__
    return short


def show_short_help(
    kind: type[Any],
    shown: Iterable[str],
    *,
    program: str,
    description: str,
    more: str,
    default: Any = None,
) -> None:
    """Print a command's help page with some of its options; ends the process as tyro does.

    Args:
        kind: The dataclass of its options.
        shown: Names of the fields to list.
        program: What to type.
        description: What it does.
        more: Where the other options are.
        default: Settings to start from, of `kind`.

    Raises:
        SystemExit: Always, with status 0.
    """
    short = shorten(kind, shown)
    given = {} if default is None else {"default": short(**vars(default))}
    tyro.cli(short, prog=program, description=f"{description}\n\n{more}", args=["--help"], **given)


def format_names(program: str, summary: str, named: Mapping[str, tuple[str, Any]]) -> str:
    """Lay out the named settings of a command, one a line.

    Args:
        program: What to type.
        summary: What it does.
        named: By name: what each is, and its settings.
    """
    width = max(map(len, named))
    room = WIDTH - width - 4
    lines = [f"usage: {program} NAME [OPTIONS]", "", summary, ""]
    for name, (text, _) in named.items():
        lines.append(f"  {name:<{width}}  {textwrap.shorten(text, room, placeholder=' ...')}")
    lines += ["", f"`{program} NAME --help` lists the options, with the defaults of that name."]
    return "\n".join(lines)
