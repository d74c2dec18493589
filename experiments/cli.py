"""The `glimpse` command: one sub-command a task, each a typed dataclass read by tyro."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any

import tyro

from experiments.commands import COMMANDS, Command
from experiments.runtime.completion import FLAGS as COMPLETION, complete
from experiments.runtime.help_pages import format_names, show_short_help
from experiments.runtime.old_names import RENAMED_COMMANDS, renamed_flags
from experiments.runtime.output import speaking, take_flags
from experiments.runtime.plugins import (
    describe_commands,
    find_command,
    parse_command,
    register_command,
)
from experiments.runtime.signals import Terminated, handling, raise_terminated

__all__ = ["COMMANDS", "main", "register_command"]

_EVERYTHING = "--help-all"

# Load, in processes that compute, from which cores count as shared.
_BUSY = 0.5

# What a person who pressed Ctrl-C can do next.
_GO_ON = {
    **dict.fromkeys(
        "download pyramids bank probe demo table1 variants compare tune job".split(),
        "the same command goes on where it was",
    ),
    "play": "every session is on disk: the same command serves them again",
    **dict.fromkeys(
        ("pretrain", "train", "whole-image"), "the same command with --resume goes on where it was"
    ),
    **dict.fromkeys(
        (
            "evaluate report dedup figures attention view record train-agent look classifier "
            "publish benchmark"
        ).split(),
        "the same command begins again",
    ),
}


def _next(name: str, config: Any) -> str:
    """Say what a person who has interrupted a command can do."""
    if name not in _GO_ON:
        return "the same command begins again"
    if "--resume" in _GO_ON[name]:
        begun = "checkpoint/checkpoint.json" if name == "pretrain" else "config.json"
        if config is None or not (config.out / begun).exists():
            return "nothing was kept, the same command begins again"
    return _GO_ON[name]


def _configure_threads() -> None:
    """Set what libraries read when they load: how often progress is written, how threads wait."""
    if not sys.stderr.isatty():
        # A log wants a line of progress now and then, not ten a second.
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] >= _BUSY
    if busy and "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's threads wait at full speed for a while, which is right on idle cores. Where
        # others compute too it made training five times slower, sleeping soon 1.4 times, as it does
        # on idle cores.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _make_streams_safe() -> None:
    """Let no output fail on a letter that the locale does not have: it is shown by its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks put others in place
            stream.reconfigure(errors="backslashreplace")


def _usage() -> str:
    others = describe_commands()
    lines = ["usage: glimpse COMMAND [OPTIONS]", "", "Study where to look.", ""]
    lines += [f"  {name:<11} {entry.summary}" for name, entry in COMMANDS.items()]
    lines += [f"  {name:<11} {text}" for name, text in others.items() if name not in COMMANDS]
    lines += ["", "`glimpse COMMAND --help` lists the options of a command."]
    lines += ["With --quiet a command prints errors alone, with --json its result for a script."]
    lines += ["With GLIMPSE_DEBUG=1 in the environment errors come with their traceback."]
    return "\n".join(lines)


def _load(path: str) -> Any:
    """Import what `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _parse(name: str, arguments: list[str]) -> tuple[Callable[[Any], Any], Any]:
    """Read the options; only then, since they may be wrong, import what runs."""
    if name not in COMMANDS:
        function = find_command(name)
        assert function is not None, "main has asked"
        return parse_command(name, function, arguments)
    command, arguments = COMMANDS[name], renamed_flags(name, arguments)
    try:
        program, options, run = f"glimpse {name}", _load(command.options), command.run
    except ModuleNotFoundError as error:
        if error.name != "experiments.benchmarks":
            raise
        raise ValueError(
            "benchmarks do not come with an installation: run `glimpse benchmark` in a checkout of "
            "the project's repository"
        ) from error
    if name in ("compare", "tune"):  # a track has options, and a function, of its own
        asked = _load("experiments.tracks.config:asked_for")(arguments, name)
        if asked:
            (options, run), command = asked, command._replace(shown=())
    if name == "train":
        _show_settings(program, arguments)
    if {"-h", "--help"} & set(arguments):
        _show_help(program, command, options, arguments)
    arguments = ["--help" if each == _EVERYTHING else each for each in arguments]
    if isinstance(options, dict):
        config = tyro.extras.overridable_config_cli(options, prog=program, args=arguments)
    else:
        config = tyro.cli(options, prog=program, description=command.summary, args=arguments)
    return _load(run), config


def _show_help(program: str, command: Command, options: Any, arguments: list[str]) -> None:
    """Print the help of one screen, if the command has one of its own, and end."""
    description, default = command.summary, None
    if isinstance(options, dict):
        name = arguments[0]
        if name in ("-h", "--help"):
            print(format_names(program, description, options))
            sys.exit()
        if name not in options:
            tyro.extras.overridable_config_cli(options, prog=program, args=[name])  # says so
        program = f"{program} {name}"
        description, default = options[name]
        options = type(default)
    if command.shown:
        more = f"All options: `{program} {_EVERYTHING}`."
        if command is COMMANDS["train"]:
            more += " Those of network and learning: --help-network, --help-learning."
        show_short_help(
            options,
            command.shown,
            program=program,
            description=description,
            more=more,
            default=default,
        )


def _show_settings(program: str, arguments: list[str]) -> None:
    """Give the settings of network and learning, sixty of them, help pages of their own."""
    configs = import_module("experiments.train.config")
    for part, kind in configs.SETTINGS.items():
        if f"--help-{part}" in arguments:
            title = f"Settings of `glimpse train`, to be given with the prefix --{part}."
            tyro.cli(kind, prog=f"{program} NAME --{part}.", description=title, args=["--help"])


def _brought(name: str) -> bool:
    """Whether somebody else has brought a command, or a module that may be one is named."""
    return ":" in name or name in describe_commands()


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Errors that a person can mend (a missing file, a wrong setting) end in one sentence and status
    1, Ctrl-C in status 130, SIGTERM in 143. With GLIMPSE_DEBUG set in the environment, all are
    raised instead.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments, quiet, script = take_flags(arguments)
    _make_streams_safe()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name = arguments[0]
    if name == "--version":
        from importlib.metadata import version

        print(version("glimpse-env"))
        return 0
    if name in COMPLETION:
        try:
            complete(
                arguments, {name: partial(_load, each.options) for name, each in COMMANDS.items()}
            )
        except ValueError as error:
            print(f"glimpse: {error}", file=sys.stderr)
        return 2
    if name in RENAMED_COMMANDS:
        print(f"glimpse {name} is called glimpse {RENAMED_COMMANDS[name]} now", file=sys.stderr)
        name = RENAMED_COMMANDS[name]
    if name not in COMMANDS and not _brought(name):
        near = get_close_matches(name, [*COMMANDS, *describe_commands()], 1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        print(f"{_usage()}\n\nglimpse: no command {name!r}{hint}", file=sys.stderr)
        return 2
    if name != "benchmark":
        _configure_threads()
    # What the library chose for its user (where images are kept, say) is worth a line.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("glimpse_env").setLevel(logging.INFO)
    config = None
    try:
        with handling({signal.SIGTERM: raise_terminated}):
            with speaking(quiet=quiet, script=script) as finish:
                run, config = _parse(name, arguments[1:])
                finish(run(config))
    except KeyboardInterrupt as interrupt:
        if os.environ.get("GLIMPSE_DEBUG"):
            raise
        print(f"\nglimpse {name}: interrupted; {_next(name, config)}", file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130
    except MemoryError as error:
        if os.environ.get("GLIMPSE_DEBUG"):
            raise
        reason = str(error) or "no memory is left (see `ulimit -v` and the job system's limits)"
        print(f"glimpse {name}: {reason}", file=sys.stderr)
        return 1
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        # A bare RuntimeError is torch's, and a mistake of this program's.
        if type(error) is RuntimeError or os.environ.get("GLIMPSE_DEBUG"):
            raise
        print(f"glimpse {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
