"""The `glimpse` command: one sub-command a task, each a typed dataclass read by tyro."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import tyro

from experiments.runtime.old_names import renamed_flags
from experiments.runtime.output import speaking, take_flags
from experiments.runtime.signals import Terminated, handling, raise_terminated


class Command(NamedTuple):
    """A sub-command: where its options and its function are, and what it does."""

    options: str
    """`module:name` of the dataclass of its options, or of a dict of named ones (a line of help and
    the options of each). The module is light: it imports neither torch nor gymnasium."""
    run: str
    """`module:function`, imported once the options are right."""
    summary: str
    """One line of help."""


COMMANDS: dict[str, Command] = {
    "download": Command(
        "experiments.prepare.config:DownloadConfig",
        "experiments.prepare.download:download",
        "Fetch Stanford Dogs and pretrained weights, or unpack archives.",
    ),
    "dedup": Command(
        "experiments.prepare.config:DedupConfig",
        "experiments.prepare.dedup:dedup",
        "List the images of ImageNet that a network to be tested on dogs must not see.",
    ),
    "pretrain": Command(
        "experiments.pretrain.config:PretrainConfig",
        "experiments.pretrain.train:pretrain",
        "Train an encoder on random multi-scale patches (paper Figure 4).",
    ),
    "pyramids": Command(
        "experiments.prepare.config:PyramidsConfig",
        "experiments.prepare.pyramids:pyramids",
        "Decode whole splits into files to be mapped, for machines of little memory.",
    ),
    "bank": Command(
        "experiments.prepare.config:BankConfig",
        "experiments.prepare.bank:bank",
        "Compute a split's features on a lattice of fixations, once.",
    ),
    "classifier": Command(
        "experiments.tracks.config:ClassifierConfig",
        "experiments.tracks.classifier:classifier",
        "Train the look track's frozen classifiers, by folds, from a bank.",
    ),
    "probe": Command(
        "experiments.pretrain.config:ProbeConfig",
        "experiments.pretrain.probe:read_encoder",
        "Measure what an encoder's features tell, by linear classifiers.",
    ),
    "train": Command(
        "experiments.train.presets:EXPERIMENTS",
        "experiments.train.trainer:train",
        "Train the two-deck agent and its references.",
    ),
    "baseline": Command(
        "experiments.whole_image.config:BASELINES",
        "experiments.whole_image.train:baseline",
        "Fine-tune a GoogLeNet on whole images, the paper's comparison.",
    ),
    "evaluate": Command(
        "experiments.train.config:EvaluateConfig",
        "experiments.train.evaluate:evaluate",
        "Evaluate the agents of a run.",
    ),
    "report": Command(
        "experiments.train.config:ReportConfig",
        "experiments.train.aggregate:report",
        "Sum up runs of several seeds as one record and one table.",
    ),
    "compare": Command(
        "experiments.compare.config:CompareConfig",
        "experiments.compare.compare:compare",
        "Train any agents on one environment, and compare what they learn.",
    ),
    "look": Command(
        "experiments.tracks.config:LookConfig",
        "experiments.tracks.run:look",
        "Play one run of one player on a track of `glimpse compare`.",
    ),
    "contest": Command(
        "experiments.compare.config:ContestConfig",
        "experiments.compare.run:contest",
        "Train one agent of a comparison within a budget.",
    ),
    "tune": Command(
        "experiments.compare.config:TuneConfig",
        "experiments.compare.tune:tune",
        "Search settings of agents, with equal effort for each.",
    ),
    "table1": Command(
        "experiments.paper.config:Table1Config",
        "experiments.paper.table1:table1",
        "Run the cells of the paper's Table 1 and lay them out beside its numbers.",
    ),
    "variants": Command(
        "experiments.paper.config:VariantsConfig",
        "experiments.paper.variants:variants",
        "Train variants of one cell and compare each with the plain model.",
    ),
    "figures": Command(
        "experiments.paper.config:FiguresConfig",
        "experiments.paper.figures:figures",
        "Draw the paper's Figures 3, 5 and 6 from finished runs.",
    ),
    "attention": Command(
        "experiments.attention.config:AttentionConfig",
        "experiments.attention.analyse:attention",
        "Say where agents look, against the dogs' boxes, and what it is worth.",
    ),
    "play": Command(
        "experiments.play.config:PlayConfig",
        "experiments.play.command:play",
        "Play the task yourself in a browser, against an agent.",
    ),
    "publish": Command(
        "experiments.publish.config:PublishConfig",
        "experiments.publish.command:publish",
        "Write a run's agent for others, with a model card; upload it.",
    ),
    "record": Command(
        "experiments.see.config:RecordConfig",
        "experiments.see.record:record",
        "Record an agent's episodes as a Minari data set.",
    ),
    "view": Command(
        "experiments.see.config:ViewConfig",
        "experiments.see.view:view",
        "Write what agents did as one HTML page to step through.",
    ),
    "benchmark": Command(
        "experiments.benchmarks:BenchmarkConfig",
        "experiments.benchmarks.command:benchmark",
        "Measure what the project claims about speed, on this machine.",
    ),
    "job": Command(
        "experiments.cluster.config:JobConfig",
        "experiments.cluster.job:run_job",
        "Run one job of a sweep as its file describes it.",
    ),
    "demo": Command(
        "experiments.train.config:DemoConfig",
        "experiments.train.demo:demo",
        "Learn where to look on synthetic dogs, in a few minutes, nothing to download.",
    ),
}
"""By name, in the order of the help page."""


# Load, in processes that compute, from which cores count as shared.
_BUSY = 0.5

# What a person who pressed Ctrl-C can do next.
_GO_ON = {
    **dict.fromkeys(
        (
            "download",
            "pyramids",
            "bank",
            "probe",
            "demo",
            "table1",
            "variants",
            "compare",
            "tune",
            "job",
            "play",
        ),
        "the same command goes on where it was",
    ),
    **dict.fromkeys(
        ("pretrain", "train", "baseline"), "the same command with --resume goes on where it was"
    ),
    **dict.fromkeys(
        (
            "evaluate",
            "report",
            "dedup",
            "figures",
            "attention",
            "view",
            "record",
            "contest",
            "look",
            "classifier",
            "publish",
            "benchmark",
        ),
        "the same command begins again",
    ),
}


def _next(name: str, config: Any) -> str:
    """Say what a person who has interrupted a command can do."""
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
    lines = ["usage: glimpse COMMAND [OPTIONS]", "", "Study where to look.", ""]
    lines += [f"  {name:<10} {entry.summary}" for name, entry in COMMANDS.items()]
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
    command, arguments = COMMANDS[name], renamed_flags(name, arguments)
    program, options, run = f"glimpse {name}", _load(command.options), command.run
    if name == "compare":  # a track has options, and a function, of its own
        asked = _load("experiments.tracks.config:asked_for")
        options, run = asked(arguments) or (options, run)
    if name == "train":
        options = _on_one_screen(options, program, arguments)
    if isinstance(options, dict):
        config = tyro.extras.overridable_config_cli(options, prog=program, args=arguments)
    else:
        config = tyro.cli(options, prog=program, description=command.summary, args=arguments)
    return _load(run), config


def _on_one_screen(named: dict[str, Any], program: str, arguments: list[str]) -> dict[str, Any]:
    """Give the settings of network and learning, sixty of them, help pages of their own."""
    configs = import_module("experiments.train.config")
    for part, kind in configs.SETTINGS.items():
        if f"--help-{part}" in arguments:
            title = f"Settings of `glimpse train`, to be given with the prefix --{part}."
            tyro.cli(kind, prog=f"{program} NAME --{part}.", description=title, args=["--help"])
    if not {"-h", "--help"} & set(arguments):
        return named
    more = "More settings: --help-network, --help-learning."
    return {
        key: (f"{text} {more}", configs.TrainHelp(**vars(config)))
        for key, (text, config) in named.items()
    }


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
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
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
