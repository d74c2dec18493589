"""Options of `glimpse train`, `evaluate`, `report` and `demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from tyro.conf import OmitArgPrefixes, Positional

from agents.checked import Count, Whole
from agents.configs import ReinforceConfig, TwoDeckConfig
from encoders.spec import Backend
from experiments.data import DataConfig, Matmul, Options, PatchSide, Resolution, check_splits


@dataclass(frozen=True)
class TrainConfig(Options):
    """Train the two-deck agent, and reference agents beside it, on one environment."""

    out: Path = Path("runs/run")
    """Folder of the run."""
    policy: str = "two-deck"
    """Who looks: a registered policy or `module:Class`."""
    policy_options: dict[str, str] = field(default_factory=dict)
    """Arguments of the policy, as NAME VALUE NAME VALUE."""
    resume: bool = False
    """Go on with the run in `out` where it was interrupted."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Options that name the images."""
    encoder: str = "googlenet"
    """Registered encoder; with a bank it must be the bank's."""
    bank: Path | None = None
    """Folder of the feature banks (`glimpse bank --out`); `None` runs the encoder live."""
    train_split: Literal["train", "trainval"] = "train"
    """Split to learn from."""
    eval_split: Literal["val", "test"] = "val"
    """Split to evaluate on after training; choose everything on `val`."""
    resolutions: tuple[Resolution, ...] = ("low", "medium", "high")
    """Patches of a glimpse."""
    patch_side: PatchSide = 96
    """P, side of a patch in pixels; with a bank it must be the bank's."""
    num_glimpses: Count = 3
    """Looks before the answer."""
    choose_scale: bool = False
    """Choose the zoom of a glimpse too; a bank needs the neighbours of every resolution in use."""
    mirror: Literal["auto", "on", "off"] = "auto"
    """Random mirroring in training (`auto`: on); evaluation never mirrors."""
    context: Literal["auto", "random", "center"] = "auto"
    """Place of the context patch in training (`auto`: random); evaluation centres it."""
    context_grid: Literal["auto"] | Count = 1
    """G: the context is the encoder's map averaged to G x G cells; 1 is its vector, `auto` 3 cells
    a side, or as many as the bank holds, where there is a map."""
    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 128
    """Scanpaths a step: the images, times `--learning.samples`; one an image where the policy is
    not `two-deck`."""
    seed: int = 0
    """Seed of everything: weights, order of the images, flips, fixations."""
    eval_every: Count = 1
    """Epochs between evaluations (the last epoch is always evaluated)."""
    scanpaths: Count = 8
    """M, scanpaths an image in Monte-Carlo evaluation at the end."""
    references: bool = True
    """Train classifiers under centre and random fixations too, and report the oracle."""
    deterministic: bool = False
    """Deterministic algorithms only (CUDA; a CPU computes so anyway), and resume only with as many
    threads as begun with."""
    keep_last: Count = 2
    """Checkpoints kept of each agent, the newest included."""
    keep_best: bool = False
    """Keep the checkpoint of the best evaluation too (`glimpse evaluate --best`)."""
    logger: str | None = None
    """Send every epoch's numbers on: `wandb`, or `module:Class`; TensorBoard has them anyway."""
    storage: str = "auto"
    """Where a live encoder's images are kept: `auto`, `device`, `host`, `demand`, or a folder of
    `glimpse pyramids`, that of the split in it."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the live encoder."""
    backend: Backend = "torch"
    """Library that computes a live GoogLeNet on a CPU: `torch`, `openvino` (an extra), or `auto`,
    the faster by a trial."""
    matmul: Matmul = "highest"
    """Precision of the agent's float32 matrix products, as torch names it: `medium` multiplies in
    bf16 where the processor can."""
    network: TwoDeckConfig = field(default_factory=TwoDeckConfig)
    """The network; what follows from images and encoder is set by the environment."""
    learning: ReinforceConfig = field(default_factory=ReinforceConfig)
    """How it learns."""

    def __post_init__(self) -> None:
        """Check what the environment and the agent do not.

        Raises:
            ValueError: a count below 1, testing on what was chosen on, or settings that
                contradict each other.
        """
        super().__post_init__()
        check_splits(self.train_split, self.eval_split)
        if self.network.choose_scale and not self.choose_scale:
            raise ValueError(
                "network.choose_scale follows the environment: set choose_scale (--choose-scale) "
                "instead"
            )
        if self.batch_size % self.samples:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of learning.samples {self.samples}"
            )

    @property
    def samples(self) -> int:
        """Scanpaths an image in training: those of the two-deck agent's learning, else one."""
        return self.learning.samples if self.policy == "two-deck" else 1


SETTINGS = {"network": TwoDeckConfig, "learning": ReinforceConfig}
"""Parts of `TrainConfig` with a help page of their own."""


@dataclass(frozen=True)
class EvaluateConfig(Options):
    """Evaluate the agents of a finished or interrupted run."""

    run: Path
    """Run folder, as given to `glimpse train --out`; or `hf://owner/name`, or a shipped agent."""
    split: Literal["train", "val", "trainval", "test"] = "val"
    """Split to evaluate on; look at `test` once, at the end."""
    bank: Path | None = None
    """Folder of other banks (default: the run's own)."""
    live: bool = False
    """Use the live encoder although the run was trained from a bank."""
    data_dir: Path | None = None
    """Folder of the images, if it has moved."""
    scanpaths: Count | None = None
    """M, scanpaths an image in Monte-Carlo evaluation; 1 leaves it out (default: the run's)."""
    oracle: bool | None = None
    """Report the oracle, as many evaluations as the lattice has points (default: as the run)."""
    examples: Whole = 8
    """Scanpaths to draw into the run's folder."""
    seed: int | None = None
    """Seed of the noise outside the images and of sampled scanpaths (default: the run's)."""
    best: bool = False
    """Evaluate the checkpoints that `glimpse train --keep-best` kept, not the newest."""


@dataclass(frozen=True)
class ReportConfig:
    """Sum up runs that differ in their seed only."""

    runs: Positional[tuple[Path, ...]]
    """Folders of the runs."""
    out: Path | None = None
    """JSON file to write."""
    split: str = "val"
    """Which evaluation to read."""


@dataclass(frozen=True)
class DemoConfig(Options):
    """Train on SyntheticDogsGlimpse-v0 and compare with centre and random fixations."""

    out: Path = Path("demo")
    """Folder for banks, runs, images and the result."""
    seeds: Count = 3
    """Runs, each with another seed."""
    num_images: Annotated[int, Ge(128)] = 1800
    """Training images to draw; a quarter as many are held out."""
    side: Count = 5
    """Lattice points a side of the feature banks."""
    epochs: Count = 16
    """Passes over the training images."""
    examples: Whole = 8
    """Scanpaths to draw."""
