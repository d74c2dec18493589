"""What a command says, and to whom: a person, a script (`--json`), or nobody (`--quiet`)."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

FLAGS = ("--quiet", "--json")
"""Of every command, at any place of the line."""


def take_flags(arguments: list[str]) -> tuple[list[str], bool, bool]:
    """The arguments without these flags; whether to be quiet, and whether a script reads along.

    Example:
        >>> take_flags(["evaluate", "--json", "--run", "runs/one"])
        (['evaluate', '--run', 'runs/one'], False, True)
    """
    rest = [each for each in arguments if each not in FLAGS]
    return rest, "--quiet" in arguments, "--json" in arguments


@contextmanager
def speaking(*, quiet: bool, script: bool) -> Iterator[Callable[[Any], None]]:
    """Run a command's part that prints; errors go to standard error as ever.

    Args:
        quiet: Print nothing and draw no progress bar.
        script: Keep standard output for the result: what is for people goes to standard error.

    Yields:
        What takes the command's result: it prints it as one line of JSON for a script.
    """
    out = sys.stdout

    def finish(result: Any) -> None:
        if script:
            record = getattr(result, "record", result)
            told = record if isinstance(record, (dict, list)) else None
            print(json.dumps(told, default=_plain), file=out)

    if not quiet and not script:
        yield finish
        return
    before = os.environ.get("TQDM_DISABLE")
    logger = logging.getLogger("glimpse_env")
    level = logger.level
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere if quiet else sys.stderr),
        ):
            if quiet:
                os.environ["TQDM_DISABLE"] = "1"
                logger.setLevel(logging.WARNING)
            yield finish
    finally:
        logger.setLevel(level)
        if quiet and before is None:
            os.environ.pop("TQDM_DISABLE", None)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON")
