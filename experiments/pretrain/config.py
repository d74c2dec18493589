"""Options of `glimpse pretrain` and `probe`, and what of the former decides the result."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval
from tyro.conf import OmitArgPrefixes

from agents.checked import Count, NotEmpty, Positive, Share, Whole
from encoders.spec import Backend, Precision, get_spec
from experiments.data import RESOLUTIONS, DataConfig, Options, PatchSide, Resolution

# Of the synthetic dogs, where --num-images does not say: as many as the shipped encoder saw.
NUM_SYNTHETIC = 2400
_SPLITS = {"synthetic": "pretrain", "stanford_dogs": "train", "image_folder": "trainval"}
# What follows from options that count, or changes how the result is computed and not what it is.
_HARMLESS = ("out", "resume", "checkpoint_every", "cache_mb", "loaders", "probe", "device", "name")


@dataclass(frozen=True)
class PretrainConfig(Options):
    """Train an encoder on random multi-scale patches of a labelled data set.

    `torchrun --nproc-per-node N -m experiments.cli pretrain ...` shares every step between N
    processes.
    """

    out: Path = Path("runs/pretrain")
    """Folder for the weights, their provenance, the log and the checkpoint."""
    core: str = "inception_mini"
    """Network to train: `inception_mini`, always from random weights; a registered GoogLeNet, from
    its pretrained weights (the paper's is `googlenet_native`); or the .json of an earlier run."""
    from_scratch: bool = False
    """Random weights for a GoogLeNet too."""
    data: OmitArgPrefixes[DataConfig] = DataConfig(dataset="synthetic")
    """Which images; 2,400 of the synthetic dogs if --num-images does not say."""
    split: str | None = None
    """Split to train on (default: `pretrain` of the synthetic dogs, which only they have, `train`
    of Stanford Dogs, `trainval`, that is all, of a folder)."""
    leave_out: Path | None = None
    """List of file names not to train on, as `glimpse dedup` writes it."""
    name: str | None = None
    """Name of the files written (default: `inception_mini`, or `core` for a GoogLeNet)."""
    resolutions: Annotated[tuple[Resolution, ...], NotEmpty] = RESOLUTIONS
    """Towers; there is a head on each and on every combination."""
    steps: Count = 900
    """Number of optimiser steps."""
    head_steps: Whole = 0
    """Number of first steps that train the heads only, so that new heads do not pull at old
    weights."""
    images: Count = 12
    """Images a step, over all processes."""
    looks: Count = 8
    """Random fixations an image: a step sees images x looks glimpses."""
    micro_batch: Whole = 0
    """Glimpses worked on at a time, their gradients adding up, to bound the memory: one of three
    resolutions takes GoogLeNet about 100 MB (0: all at once)."""
    extent: Annotated[float, Interval(ge=0, le=1)] = 0.6
    """Fixations are uniform over -extent..extent, both ways."""
    learning_rate: Positive | None = None
    """Peak of the one-cycle schedule (AdamW; default: 5e-3 for `inception_mini`, 2e-3 for a
    pretrained GoogLeNet, 1e-3 for one from scratch)."""
    trunk_lr_scale: Positive | None = None
    """The trunk's learning rate over that of the heads (default: 0.1 where it is pretrained, else
    1)."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    dropout: Share = 0.1
    """Share of the features dropped before the heads."""
    held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    """Share of the images kept aside to measure the heads on."""
    seed: int = 0
    """Decides initial weights and every draw."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the training; weights are fp32 throughout."""
    device: str = "cpu"
    """`auto`, `cpu` or `cuda[:i]`."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    cache_mb: Whole = 2500
    """Memory for decoded images, in megabytes; what is decoded beyond it is not kept."""
    loaders: Count = 1
    """Threads that decode images ahead."""
    probe: Whole = 900
    """Images for the linear probes in the record (synthetic dogs only; 0: none)."""
    resume: bool = False
    """Continue from the checkpoint in `out`."""


@dataclass(frozen=True)
class ProbeConfig(Options):
    """Measure a frozen encoder by linear readings of the central patches."""

    out: Path
    """Where the result goes (JSON); features are kept in a folder beside it for another reading."""
    encoder: str = "googlenet"
    """Registered encoder, or the .json that `glimpse pretrain` wrote."""
    data: OmitArgPrefixes[DataConfig] = DataConfig()
    """Options that name the images."""
    fit_split: str = "train"
    """Split to fit on; what a fit takes is chosen on a tenth of it."""
    eval_split: str = "val"
    """Split to measure on."""
    resolutions: Annotated[tuple[Resolution, ...], NotEmpty] = RESOLUTIONS
    """Patches to read, each alone and all together."""
    patch_side: PatchSide = 96
    """P, side of the patches in pixels; with a bank it must be the bank's."""
    bank: Path | None = None
    """Read the central point of these banks (`glimpse bank --out`), computing no features."""
    cells: tuple[int, ...] = ()
    """Read each patch as G x G cells of the encoder's map too, for each G. They are computed anew;
    with `--bank` those of the low patch come from it (`glimpse bank --context-grid G`)."""
    hidden: Whole = 0
    """Fit a network with a hidden layer of so many units too (0: none)."""
    seed: int = 0
    """Which tenth of the images serves to choose, and the initial weights of a hidden layer."""
    precision: Precision = "auto"
    """Arithmetic of the encoder; `int8` is calibrated on images of the split `train`."""
    backend: Backend = "torch"
    """Library that computes a GoogLeNet on a CPU: `torch`, `openvino`, or `auto`, the faster."""
    device: str = "auto"
    """Where the encoder computes: `auto`, `cpu` or `cuda[:i]`."""
    workers: int = 2
    """Processes that compute features (CPU)."""

    def __post_init__(self) -> None:
        """Check the options before anything is loaded.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        if any(grid < 2 for grid in self.cells):
            raise ValueError(f"--cells names grids from 2 on, not {self.cells}")
        if self.bank is not None and self.cells and self.resolutions != ("low",):
            raise ValueError(
                "a bank holds cells of the low patch only: with --cells give --resolutions low, or "
                "no --bank"
            )
        if self.fit_split == self.eval_split:
            raise ValueError("--fit-split and --eval-split are the same: measure on other images")


def resolve_defaults(config: PretrainConfig) -> PretrainConfig:
    """Fill in what follows from core and images where it is not given.

    Raises:
        ValueError: For a core that cannot be trained as asked, or is not known.
    """
    architecture = get_spec(config.core).architecture
    if architecture == "module":
        raise ValueError(
            f"--core {config.core} is a module of somebody's own: `glimpse pretrain` trains "
            "GoogLeNets and inception_mini"
        )
    mini = architecture == "inception_mini"
    if mini and config.core != "inception_mini":
        raise ValueError(
            f"{config.core} is an inception_mini, which is trained from random weights only: give "
            "--core inception_mini"
        )
    if mini and config.micro_batch:
        raise ValueError(
            "--micro-batch is for GoogLeNets: inception_mini's batch norm takes a batch as a whole"
        )
    fresh = mini or config.from_scratch
    data = config.data
    if data.dataset == "synthetic" and data.num_images is None:
        data = replace(data, num_images=NUM_SYNTHETIC)
    rate, scale = config.learning_rate, config.trunk_lr_scale
    return replace(
        config,
        data=data,
        split=config.split or _SPLITS[data.dataset],
        name=config.name or ("inception_mini" if mini else "core"),
        learning_rate=rate or (5e-3 if mini else 1e-3 if fresh else 2e-3),
        trunk_lr_scale=scale or (1.0 if fresh else 0.1),
        from_scratch=config.from_scratch and not mini,
    )


def identity(config: PretrainConfig) -> dict[str, Any]:
    """The options that decide the result, as JSON gives them back; of files only the names."""
    record = asdict(resolve_defaults(config))
    for name in _HARMLESS:
        del record[name]
    del record["data"]["data_dir"]
    record["core"] = Path(config.core).name
    record["leave_out"] = config.leave_out and config.leave_out.name
    return json.loads(json.dumps(record, sort_keys=True))


def command(config: PretrainConfig) -> str:
    """The command line that gives this result: every option that is not at its default."""
    words = ["glimpse", "pretrain"]
    like = PretrainConfig(
        core=config.core, from_scratch=config.from_scratch, data=DataConfig(config.data.dataset)
    )
    ours, default, plain = identity(config), identity(like), identity(PretrainConfig())
    for name in ("core", "from_scratch"):
        default[name] = plain[name]
    default["data"]["dataset"] = plain["data"]["dataset"]
    default |= default.pop("data")
    for name, value in [*ours.pop("data").items(), *ours.items()]:
        if value != default[name]:
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{_flag(name)}")
            elif value is not None:  # no number of images: those that are there
                values = value if isinstance(value, list) else [value]
                words += [f"--{_flag(name)}", *map(str, values)]
    return shlex.join(words)


def _flag(name: str) -> str:
    return name.replace("_", "-")
