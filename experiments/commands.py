"""The table of the `glimpse` commands: where the options and the function of each are."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A sub-command: where its options and its function are, and what it does."""

    options: str
    """`module:name` of the dataclass of its options, or of a dict of named ones (a line of help and
    the options of each). The module is light: it imports neither torch nor gymnasium."""
    run: str
    """`module:function`, imported once the options are right."""
    summary: str
    """One line of help."""
    shown: tuple[str, ...] = ()
    """Options of its help page, where all of them do not fit on one screen; empty: all."""


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
        shown=(
            "out",
            "resume",
            "core",
            "data",
            "steps",
            "resolutions",
            "images",
            "learning_rate",
            "seed",
            "device",
        ),
    ),
    "pyramids": Command(
        "experiments.prepare.config:PyramidsConfig",
        "experiments.prepare.pyramids:pyramids",
        "Decode whole splits into files to be mapped, for machines of little memory.",
        shown=(
            "out",
            "data",
            "splits",
            "resolutions",
            "workers",
        ),
    ),
    "bank": Command(
        "experiments.prepare.config:BankConfig",
        "experiments.prepare.bank:bank",
        "Compute a split's features on a lattice of fixations, once.",
        shown=(
            "out",
            "data",
            "splits",
            "encoder",
            "resolutions",
            "side",
            "extent",
            "low_side",
            "precision",
            "workers",
        ),
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
        shown=(
            "out",
            "resume",
            "data",
            "encoder",
            "bank",
            "resolutions",
            "num_glimpses",
            "epochs",
            "batch_size",
            "seed",
        ),
    ),
    "whole-image": Command(
        "experiments.whole_image.config:CLASSIFIERS",
        "experiments.whole_image.train:whole_image",
        "Fine-tune a GoogLeNet on whole images, the paper's comparison.",
        shown=(
            "out",
            "resume",
            "data",
            "encoder",
            "side",
            "epochs",
            "batch_size",
            "learning_rate",
            "seed",
            "device",
        ),
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
        shown=(
            "environment",
            "agents",
            "out",
            "seeds",
            "steps",
            "minutes",
            "jobs",
            "bank",
            "device",
            "only_table",
        ),
    ),
    "look": Command(
        "experiments.tracks.config:LookConfig",
        "experiments.tracks.run:look",
        "Play one run of one player on a track of `glimpse compare`.",
    ),
    "train-agent": Command(
        "experiments.compare.config:AgentRunConfig",
        "experiments.compare.run:train_agent",
        "Train one agent of a comparison within a budget.",
        shown=(
            "agent",
            "environment",
            "out",
            "seed",
            "steps",
            "minutes",
            "set",
            "bank",
            "eval_split",
            "device",
        ),
    ),
    "tune": Command(
        "experiments.compare.config:TuneConfig",
        "experiments.compare.tune:tune",
        "Search settings of agents, with equal effort for each.",
        shown=(
            "environment",
            "agents",
            "out",
            "trials",
            "steps",
            "minutes",
            "jobs",
            "seed",
            "bank",
            "device",
        ),
    ),
    "table1": Command(
        "experiments.paper.config:Table1Config",
        "experiments.paper.table1:table1",
        "Run the cells of the paper's Table 1 and lay them out beside its numbers.",
        shown=(
            "cells",
            "out",
            "seeds",
            "epochs",
            "bank",
            "encoder",
            "jobs",
            "device",
            "final",
            "only_table",
        ),
    ),
    "variants": Command(
        "experiments.paper.config:VariantsConfig",
        "experiments.paper.variants:variants",
        "Train variants of one cell and compare each with the plain model.",
        shown=(
            "names",
            "cell",
            "out",
            "plain",
            "seeds",
            "epochs",
            "bank",
            "encoder",
            "jobs",
            "device",
        ),
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
        shown=(
            "runs",
            "out",
            "split",
            "count",
            "bank",
            "live",
            "data_dir",
            "dataset",
            "scanpaths",
            "keypoints",
        ),
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
