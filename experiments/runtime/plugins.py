"""Commands of other packages: a function, registered by name, installed, or `module:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, get_type_hints

import tyro

GROUP = "glimpse.commands"
"""Entry points that add commands."""

Function = TypeVar("Function", bound=Callable[..., Any])

_REGISTERED: dict[str, Callable[..., Any]] = {}


def register_command(name: str) -> Callable[[Function], Function]:
    """Make a function a command of `glimpse`.

        @register_command("count")
        def count(config: CountConfig) -> dict[str, int]:
            ...

    It takes a dataclass of its options, or the options themselves as parameters; tyro reads either.
    Its docstring's first line is its help. A dict that it returns is what `--json` prints. A shell
    finds it by an entry point in the group `glimpse.commands`, or as `glimpse module:function`.

    Args:
        name: A new name, without a colon.

    Raises:
        ValueError: The name is taken, or has a colon.
    """
    if ":" in name:
        raise ValueError(f"the name of a command has no colon: {name!r}")

    def register(function: Function) -> Function:
        if _REGISTERED.setdefault(name, function) is not function:
            raise ValueError(f"a command named {name!r} is already registered")
        return function

    return register


def installed_commands() -> dict[str, EntryPoint]:
    """Commands that installed packages bring, by name."""
    return {each.name: each for each in entry_points(group=GROUP)}


def describe_commands() -> dict[str, str]:
    """A line of help for each command that is no own one; imports none of them."""
    lines = {name: summarise(function) for name, function in _REGISTERED.items()}
    for name, entry in installed_commands().items():
        owner = entry.dist.name if entry.dist is not None else entry.value
        lines.setdefault(name, f"From {owner}.")
    return lines


def find_command(name: str) -> Callable[..., Any] | None:
    """Return the function of a command; None if nobody has brought it.

    Raises:
        ValueError: `module:function` names nothing, or an installed one cannot be imported.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    entry = installed_commands().get(name)
    if entry is None and ":" not in name:
        return None
    path = name if entry is None else entry.value
    module, _, function = path.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the command {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"the command {name!r} is no function but {type(found).__name__}")
    return found


def parse_command(
    name: str, function: Callable[..., Any], arguments: list[str]
) -> tuple[Callable[[Any], Any], Any]:
    """Read the options of a function.

    Args:
        name: As typed.
        function: Of `find_command`.
        arguments: What follows the name.

    Returns:
        What runs, and what it takes.
    """
    program = f"glimpse {name}"
    parameters = list(inspect.signature(function).parameters)
    kind = get_type_hints(function).get(parameters[0]) if len(parameters) == 1 else None
    if isinstance(kind, type) and is_dataclass(kind):
        description = summarise(function)
        return function, tyro.cli(kind, prog=program, description=description, args=arguments)
    return (lambda given: tyro.cli(function, prog=program, args=given)), arguments


def summarise(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
