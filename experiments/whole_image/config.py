"""Settings of `glimpse whole-image`, and the paper's two whole-image classifiers by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval
from tyro.conf import OmitArgPrefixes

from agents.checked import Count, Share, Whole
from experiments.data import DataConfig, Options, check_splits
from experiments.train.table1_cells import expected


@dataclass(frozen=True)
class AugmentConfig(Options):
    """Random changes of the training images; the padding keeps its colour."""

    mirror: bool = True
    """Mirror every other image, at random."""
    brightness: Share = 0.3
    """Pixels are scaled by 1 - this to 1 + this."""
    contrast: Share = 0.3
    """Differences from the image's mean grey are scaled likewise."""
    saturation: Share = 0.3
    """Differences from each pixel's grey are scaled likewise."""
    hue: Annotated[float, Interval(ge=0, le=0.5)] = 0.03
    """Colours are turned about the grey axis by up to this share of a turn, either way."""
    crop: Share = 0.0
    """Up to this share of the side is cut away at a random place (not in the paper)."""


@dataclass(frozen=True)
class WholeImageConfig(Options):
    """Fine-tune a GoogLeNet on whole images, padded square, under a new layer."""

    out: Path = Path("runs/whole-image")
    """Run folder."""
    resume: bool = False
    """Go on with the run in `out` where it was interrupted."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which images."""
    encoder: str = "googlenet"
    """Registered encoder to start from; the paper's at 96 is `googlenet_native`."""
    side: Count = 96
    """Side of the square image, in pixels."""
    train_split: Literal["train", "trainval"] = "train"
    """Split to learn from."""
    eval_split: Literal["val", "test"] = "val"
    """Split to evaluate on; choose everything on `val`."""
    layer_steps: Whole = 400
    """Steps of the new layer alone, on frozen features (0: leave this stage out)."""
    layer_learning_rate: float = 1e-3
    """Peak learning rate of the new layer alone."""
    layer_mirror: bool = True
    """Fit the new layer on mirrored images too, which doubles the features to compute."""
    epochs: Whole = 3
    """Passes over the training images, end to end (0: the new layer is all that learns)."""
    batch_size: Count = 32
    """Images a step."""
    learning_rate: float = 1e-4
    """Peak learning rate of the trunk (AdamW; a short rise, then a cosine to 0)."""
    layer_factor: float = 5.0
    """The new layer's learning rate end to end, in those of the trunk."""
    weight_decay: float = 0.02
    """AdamW's, on matrices."""
    dropout: Share = 0.4
    """Share of the features dropped before the new layer."""
    label_smoothing: Share = 0.1
    """Share of the target spread evenly over the classes."""
    augment: OmitArgPrefixes[AugmentConfig] = field(default_factory=AugmentConfig)
    """Random changes of the training images."""
    seed: int = 0
    """Decides every draw."""
    eval_every: Count = 1
    """Epochs between evaluations (the last epoch is always evaluated)."""
    checkpoint_every: Count = 100
    """Steps between checkpoints; the end of every epoch is one too."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trunk; weights are fp32 throughout."""

    def __post_init__(self) -> None:
        """Check before anything is loaded.

        Raises:
            ValueError: a number out of range, or testing on what was chosen on.
        """
        super().__post_init__()
        if self.epochs == 0 and self.layer_steps == 0:
            raise ValueError("with no epochs and no layer_steps nothing is learned: give either")
        check_splits(self.train_split, self.eval_split)


def _named(name: str, config: WholeImageConfig) -> tuple[str, WholeImageConfig]:
    size = f"{config.side} x {config.side}"
    text = f"GoogLeNet, whole image padded square to {size}: {expected(name)}."
    return text, replace(config, out=Path("runs") / name)


# One epoch, and a layer fitted without mirror images, are what two CPU cores make in a quarter of
# an hour; on a GPU give more.
CLASSIFIERS: dict[str, tuple[str, WholeImageConfig]] = {
    "googlenet-96": _named("googlenet-96", WholeImageConfig(epochs=1, layer_mirror=False)),
    "googlenet-224": _named(
        "googlenet-224",
        WholeImageConfig(encoder="googlenet_224", side=224, epochs=1, layer_mirror=False),
    ),
}
"""By name: what each is, and its settings. `glimpse whole-image NAME` runs one."""
