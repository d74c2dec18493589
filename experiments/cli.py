"""The `glimpse` command: one sub-command a task, each a typed dataclass read by tyro."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import tyro

from experiments.runtime.signals import Terminated, handling, raise_terminated

# Modules load when their command is chosen: `glimpse --help` should not wait for torch.
_COMMANDS: dict[str, tuple[str, str, str, str]] = {
    "download": ("experiments.prepare.download", "DownloadConfig", "download",
                 "Fetch Stanford Dogs and pretrained weights, or unpack archives."),
    "dedup": ("experiments.prepare.dedup", "DedupConfig", "dedup",
              "List the ImageNet pictures that a network to be tested on dogs must not see."),
    "pretrain": ("experiments.pretrain.train", "PretrainConfig", "pretrain",
                 "Train an encoder on random multi-scale patches (paper Figure 4)."),
    "pyramids": ("experiments.prepare.pyramids", "PyramidsConfig", "pyramids",
                 "Decode whole splits into files to be mapped, for machines of little memory."),
    "bank": ("experiments.prepare.bank", "BankConfig", "bank",
             "Compute a split's features on a lattice of fixations, once."),
    "probe": ("experiments.pretrain.probe", "ProbeConfig", "read_encoder",
              "Measure what an encoder's features tell, by linear classifiers."),
    "train": ("experiments.train.trainer", "", "train",
              "Train the two-deck agent and its references."),
    "baseline": ("experiments.whole_image.train", "", "baseline",
                 "Fine-tune a GoogLeNet on whole pictures: the paper's two baselines."),
    "evaluate": ("experiments.train.evaluate", "EvaluateConfig", "evaluate",
                 "Evaluate the agents of a run."),
    "report": ("experiments.train.aggregate", "ReportConfig", "report",
               "Sum up runs of several seeds as one record and one table."),
    "compare": ("experiments.compare.compare", "CompareConfig", "compare",
                "Train any agents on one environment, and compare what they learn."),
    "contest": ("experiments.compare.run", "ContestConfig", "contest",
                "Train one agent of a comparison within a budget."),
    "tune": ("experiments.compare.tune", "TuneConfig", "tune",
             "Search settings of agents, with equal effort for each."),
    "table1": ("experiments.paper.table1", "Table1Config", "table1",
               "Run the cells of the paper's Table 1 and lay them out beside its numbers."),
    "variants": ("experiments.paper.variants", "VariantsConfig", "variants",
                 "Train variants of one cell and compare each with the plain model."),
    "figures": ("experiments.paper.figures", "FiguresConfig", "figures",
                "Draw the paper's Figures 3, 5 and 6 from finished runs."),
    "attention": ("experiments.attention.analyse", "AttentionConfig", "attention",
                  "Say where agents look, against the dogs' boxes, and what it is worth."),
    "play": ("experiments.play.command", "PlayConfig", "play",
             "Play the task yourself in a browser, against an agent."),
    "publish": ("experiments.publish.command", "PublishConfig", "publish",
                "Write a run's agent for others, with a model card; upload it."),
    "record": ("experiments.see.record", "RecordConfig", "record",
               "Record an agent's episodes as a Minari data set."),
    "view": ("experiments.see.view", "ViewConfig", "view",
             "Write what agents did as one HTML page to step through."),
    "benchmark": ("experiments.benchmarks.command", "BenchmarkConfig", "benchmark",
                  "Measure what the project claims about speed, on this machine."),
    "demo": ("experiments.train.demo", "DemoConfig", "demo",
             "Learn where to look on synthetic dogs, in a few minutes, nothing to download."),
}  # fmt: skip


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
            "publish",
            "benchmark",
        ),
        "the same command begins again",
    ),
}


def _next(name: str, config: Any) -> str:
    """What a person who has interrupted a command can do."""
    if "--resume" in _GO_ON[name]:
        begun = "checkpoint/checkpoint.json" if name == "pretrain" else "config.json"
        if config is None or not (config.out / begun).exists():
            return "nothing was kept, the same command begins again"
    return _GO_ON[name]


def _suit_surroundings() -> None:
    """Set what libraries read when they load: a terminal or a log, cores of our own or shared."""
    if not sys.stderr.isatty():
        # A log wants a line of progress now and then, not ten a second.
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] >= _BUSY
    if busy and "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's threads wait at full speed for a while, which is right on idle cores. Where
        # others compute too it made training five times slower, sleeping soon 1.4 times, as it does
        # on idle cores.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _usage() -> str:
    lines = ["usage: glimpse COMMAND [OPTIONS]", "", "Study where to look.", ""]
    lines += [f"  {name:<10} {entry[3]}" for name, entry in _COMMANDS.items()]
    lines += ["", "`glimpse COMMAND --help` lists the options of a command."]
    lines += ["With GLIMPSE_DEBUG=1 in the environment errors come with their traceback."]
    return "\n".join(lines)


def _parse(name: str, arguments: list[str]) -> tuple[Callable[[Any], Any], Any]:
    module_name, config_name, function, summary = _COMMANDS[name]
    module = import_module(module_name)
    program, run = f"glimpse {name}", getattr(module, function)
    if name == "baseline":
        named = module.BASELINES
        return run, tyro.extras.overridable_config_cli(named, prog=program, args=arguments)
    if name != "train":
        kind = getattr(module, config_name)
        return run, tyro.cli(kind, prog=program, description=summary, args=arguments)
    # Sixty settings do not fit on a screen: those of network and learning have help of their own.
    configs = import_module("experiments.train.config")
    for part, kind in configs.SETTINGS.items():
        if f"--help-{part}" in arguments:
            title = f"Settings of `glimpse train`, to be given with the prefix --{part}."
            tyro.cli(kind, prog=f"{program} NAME --{part}.", description=title, args=["--help"])
    experiments = import_module("experiments.train.presets").EXPERIMENTS
    if {"-h", "--help"} & set(arguments):
        experiments = {
            key: (f"{text} More settings: --help-network, --help-learning.",
                  configs.TrainHelp(**vars(config)))
            for key, (text, config) in experiments.items()
        }  # fmt: skip
    return run, tyro.extras.overridable_config_cli(experiments, prog=program, args=arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Errors that a person can mend (a missing file, a wrong setting) end in one sentence and status
    1, Ctrl-C in status 130, SIGTERM in 143. With GLIMPSE_DEBUG set in the environment, all are
    raised instead.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name = arguments[0]
    if name == "--version":
        from importlib.metadata import version

        print(version("glimpse-env"))
        return 0
    if name not in _COMMANDS:
        near = get_close_matches(name, _COMMANDS, 1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        print(f"{_usage()}\n\nglimpse: no command {name!r}{hint}", file=sys.stderr)
        return 2
    if name != "benchmark":
        _suit_surroundings()
    # What the library chose for its user (where pictures are kept, say) is worth a line.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("glimpse_env").setLevel(logging.INFO)
    config = None
    try:
        with handling({signal.SIGTERM: raise_terminated}):
            run, config = _parse(name, arguments[1:])
            run(config)
    except KeyboardInterrupt as interrupt:
        if os.environ.get("GLIMPSE_DEBUG"):
            raise
        print(f"\nglimpse {name}: interrupted; {_next(name, config)}", file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        # A bare RuntimeError is torch's, and a mistake of this program's.
        if type(error) is RuntimeError or os.environ.get("GLIMPSE_DEBUG"):
            raise
        print(f"glimpse {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
