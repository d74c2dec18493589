"""Named experiments, one frozen record each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Suppress

from agents.configs import ReinforceConfig, TwoDeckConfig
from experiments.data import DataConfig

Resolution = Literal["low", "medium", "high"]


@dataclass(frozen=True)
class TrainConfig:
    """Train the two-deck agent, and reference agents beside it, on one environment."""

    out: Path = Path("runs/run")
    """Run folder."""
    policy: str = "two-deck"
    """Who looks: a registered policy or `module:Class`."""
    policy_options: dict[str, str] = field(default_factory=dict)
    """Arguments of the policy, as NAME VALUE NAME VALUE."""
    resume: bool = False
    """Go on with the run in `out` where it was interrupted."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which pictures."""
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
    num_glimpses: int = 3
    """Looks before the answer."""
    choose_scale: bool = False
    """Choose the zoom of a glimpse too; a bank needs the neighbours of every resolution in use."""
    mirror: Literal["auto", "on", "off"] = "auto"
    """Random mirroring in training (`auto`: on); evaluation never mirrors."""
    context: Literal["auto", "random", "center"] = "auto"
    """Place of the context patch in training (`auto`: random); evaluation centres it."""
    context_grid: Literal["auto"] | int = 1
    """G: the context is the encoder's map averaged to G x G cells; 1 is its vector, `auto` 3 cells
    a side, or as many as the bank holds, where there is a map."""
    epochs: int = 30
    """Passes over the training pictures."""
    batch_size: int = 128
    """Pictures a step."""
    seed: int = 0
    """Seed of everything: weights, order of the pictures, flips, fixations."""
    eval_every: int = 1
    """Epochs between evaluations (the last epoch is always evaluated)."""
    scanpaths: int = 8
    """M, scanpaths a picture in Monte-Carlo evaluation at the end."""
    references: bool = True
    """Train classifiers under centre and random fixations too, and report the oracle."""
    deterministic: bool = False
    """Deterministic algorithms only (CUDA; a CPU computes so anyway), and resume only with as many
    threads as begun with."""
    keep_last: int = 2
    """Checkpoints kept of each agent, the newest included."""
    keep_best: bool = False
    """Keep the checkpoint of the best evaluation too (`glimpse evaluate --best`)."""
    storage: str = "auto"
    """Where a live encoder's pictures are kept: `auto`, `device`, `host`, `demand`, or a folder of
    `glimpse pyramids`, that of the split in it."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the live encoder."""
    network: TwoDeckConfig = field(default_factory=TwoDeckConfig)
    """The network; what follows from pictures and encoder is set by the environment."""
    learning: ReinforceConfig = field(default_factory=ReinforceConfig)
    """How it learns."""

    def __post_init__(self) -> None:
        """Check what the environment and the agent do not.

        Raises:
            ValueError: a count below 1, testing on what was chosen on, or settings that
                contradict each other.
        """
        counts = ("epochs", "batch_size", "eval_every", "scanpaths", "num_glimpses", "keep_last")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.context_grid != "auto" and self.context_grid < 1:
            raise ValueError(f"context_grid is at least 1 or 'auto', not {self.context_grid}")
        if self.train_split == "trainval" and self.eval_split == "val":
            raise ValueError(
                "train_split 'trainval' contains the pictures of 'val': evaluate on 'test', or "
                "train on 'train'"
            )
        if self.network.choose_scale and not self.choose_scale:
            raise ValueError(
                "network.choose_scale follows the environment: set choose_scale (--choose-scale) "
                "instead"
            )
        if self.batch_size % self.learning.samples:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of learning.samples "
                f"{self.learning.samples}"
            )


@dataclass(frozen=True)
class TrainHelp(TrainConfig):
    """`TrainConfig` as its help page shows it: on one screen."""

    network: Suppress[TwoDeckConfig] = field(default_factory=TwoDeckConfig)
    """Has a page of its own."""
    learning: Suppress[ReinforceConfig] = field(default_factory=ReinforceConfig)
    """Has a page of its own."""


SETTINGS = {"network": TwoDeckConfig, "learning": ReinforceConfig}
"""Parts of `TrainConfig` with a help page of their own."""
