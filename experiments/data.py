"""Which pictures an experiment uses: one configuration, shared by every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from glimpse_env.datasets.base import ImageDataset

Resolution = Literal["low", "medium", "high"]
RESOLUTIONS: tuple[Resolution, ...] = get_args(Resolution)
"""Every resolution, in the order of the axis S."""


@dataclass(frozen=True)
class DataConfig:
    """Which pictures."""

    dataset: Literal["stanford_dogs", "synthetic", "image_folder"] = "stanford_dogs"
    """Data set; `image_folder` is one folder a class, or CUB-200-2011 as it unpacks."""
    data_dir: Path | None = None
    """Folder of the data set (default: $GLIMPSE_DATA/stanford_dogs, else the user cache)."""
    allow_missing: bool = False
    """Leave out listed pictures that are absent, and record how many."""
    num_images: int | None = None
    """Training pictures of the synthetic set (default: its own); other splits have a quarter as
    many."""
    short_side: int | None = None
    """Make pictures smaller first, to this short side at most, in pixels."""


def build_dataset(config: DataConfig, split: str, *, creatures: int = 1) -> ImageDataset:
    """Open one split, its pictures made smaller if that is asked for.

    Args:
        config: Which pictures.
        split: Part of them.
        creatures: Dogs in each picture of the synthetic set.

    Raises:
        ValueError, DatasetNotFoundError, MissingImagesError: as `_open` does.
    """
    from glimpse_env.datasets.degraded import Degraded

    dataset = _open(config, split, creatures)
    return dataset if config.short_side is None else Degraded(dataset, config.short_side)


def _open(config: DataConfig, split: str, creatures: int) -> ImageDataset:
    """Open one split as it is.

    Raises:
        ValueError: `image_folder` without `data_dir`, `synthetic` with it, `num_images` or
            two creatures of pictures that are not drawn.
        DatasetNotFoundError, MissingImagesError: see `glimpse_env.datasets`.
    """
    from glimpse_env.datasets.image_folder import ImageFolder
    from glimpse_env.datasets.stanford_dogs import StanfordDogs
    from glimpse_env.datasets.synthetic import SyntheticDogs

    if config.dataset == "synthetic":
        if config.data_dir is not None:
            raise ValueError(
                "the synthetic dogs are drawn, not read: leave --data-dir out, or name the "
                "--dataset that lies there"
            )
        count = config.num_images
        if count is not None and split not in ("train", "trainval", "pretrain"):
            count = max(1, count // 4)
        return SyntheticDogs(split, num_images=count, creatures=creatures)
    if creatures != 1:
        raise ValueError(
            f"{creatures} dogs a picture can be drawn for --dataset synthetic only: "
            f"{config.dataset!r} has the pictures it has"
        )
    if config.num_images is not None:
        raise ValueError(
            f"--num-images is of --dataset synthetic only: leave it out, {config.dataset!r} has "
            "the pictures it has"
        )
    if config.dataset == "image_folder":
        if config.data_dir is None:
            raise ValueError("dataset 'image_folder' needs --data-dir")
        return ImageFolder(config.data_dir, split, allow_missing=config.allow_missing)
    return StanfordDogs(config.data_dir, split, allow_missing=config.allow_missing)
