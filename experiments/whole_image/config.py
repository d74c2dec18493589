"""Settings of `glimpse whole-image`, and the paper's two whole-image classifiers by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from experiments.data import DataConfig
from experiments.train.cells import expected


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training images; the padding keeps its colour."""

    mirror: bool = True
    """Mirror every other image, at random."""
    brightness: float = 0.3
    """Pixels are scaled by 1 - this to 1 + this."""
    contrast: float = 0.3
    """Differences from the image's mean grey are scaled likewise."""
    saturation: float = 0.3
    """Differences from each pixel's grey are scaled likewise."""
    hue: float = 0.03
    """Colours are turned about the grey axis by up to this share of a turn, either way."""
    crop: float = 0.0
    """Up to this share of the side is cut away at a random place (not in the paper)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: naming the option.
        """
        for name in ("brightness", "contrast", "saturation", "crop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"--{name} is a share from 0 to below 1, not {getattr(self, name)}"
                )
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"--hue is a share of a turn from 0 to 0.5, not {self.hue}")


@dataclass(frozen=True)
class WholeImageConfig:
    """Fine-tune a GoogLeNet on whole images, padded square, under a new layer."""

    out: Path = Path("runs/whole-image")
    """Run folder."""
    resume: bool = False
    """Go on with the run in `out` where it was interrupted."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which images."""
    encoder: str = "googlenet"
    """Registered encoder to start from; the paper's at 96 is `googlenet_native`."""
    side: int = 96
    """Side of the square image, in pixels."""
    train_split: Literal["train", "trainval"] = "train"
    """Split to learn from."""
    eval_split: Literal["val", "test"] = "val"
    """Split to evaluate on; choose everything on `val`."""
    layer_steps: int = 400
    """Steps of the new layer alone, on frozen features (0: leave this stage out)."""
    layer_learning_rate: float = 1e-3
    """Peak learning rate of the new layer alone."""
    layer_mirror: bool = True
    """Fit the new layer on mirrored images too, which doubles the features to compute."""
    epochs: int = 3
    """Passes over the training images, end to end (0: the new layer is all that learns)."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 1e-4
    """Peak learning rate of the trunk (AdamW; a short rise, then a cosine to 0)."""
    layer_factor: float = 5.0
    """The new layer's learning rate end to end, in those of the trunk."""
    weight_decay: float = 0.02
    """AdamW's, on matrices."""
    dropout: float = 0.4
    """Share of the features dropped before the new layer."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over the classes."""
    augment: OmitArgPrefixes[AugmentConfig] = field(default_factory=AugmentConfig)
    """Random changes of the training images."""
    seed: int = 0
    """Decides every draw."""
    eval_every: int = 1
    """Epochs between evaluations (the last epoch is always evaluated)."""
    checkpoint_every: int = 100
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
        for name in ("side", "batch_size", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("epochs", "layer_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is at least 0, not {getattr(self, name)}")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share from 0 to below 1, not {getattr(self, name)}")
        if self.epochs == 0 and self.layer_steps == 0:
            raise ValueError("with no epochs and no layer_steps nothing is learned: give either")
        if self.train_split == "trainval" and self.eval_split == "val":
            raise ValueError(
                "train_split 'trainval' contains the images of 'val': evaluate on 'test', or "
                "train on 'train'"
            )


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
