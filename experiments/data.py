"""Which images an experiment uses: one configuration, shared by every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from annotated_types import Ge, Le

from agents.checked import Checked

if TYPE_CHECKING:
    from glimpse_env.datasets.base import ImageDataset

PatchSide = Annotated[int, Ge(64), Le(224)]
"""Side of a patch in pixels, as the environments take it."""
Resolution = Literal["low", "medium", "high"]
Matmul = Literal["highest", "high", "medium"]
"""Names that torch has for the precision of float32 matrix products."""
RESOLUTIONS: tuple[Resolution, ...] = get_args(Resolution)
"""Every resolution, in the order of the axis S."""


class Options(Checked):
    """Base of a command's options, which messages name as its command line does."""

    as_flags = True


@dataclass(frozen=True)
class DataConfig:
    """Options that name a data set."""

    dataset: str = "stanford_dogs"
    """Data set: `stanford_dogs`, `synthetic`, `image_folder` (one folder a class, or CUB-200-2011
    as it unpacks), or your own (`module:function`)."""
    data_dir: Path | None = None
    """Folder of the data set (default: $GLIMPSE_DATA/stanford_dogs, else the user cache)."""
    allow_missing: bool = False
    """Leave out listed images that are absent, and record how many."""
    num_images: int | None = None
    """Training images of the synthetic set (default: its own); other splits have a quarter as
    many."""
    short_side: int | None = None
    """Make images smaller first, to this short side at most, in pixels."""


def build_dataset(config: DataConfig, split: str, *, creatures: int = 1) -> ImageDataset:
    """Open one split, its images made smaller if that is asked for.

    Args:
        config: Which images.
        split: Part of them.
        creatures: Dogs in each image of the synthetic set.

    Raises:
        ValueError, DatasetNotFoundError, MissingImagesError: as `open_dataset` does.
    """
    from glimpse_env.datasets.degraded import Degraded
    from glimpse_env.datasets.registry import open_dataset

    dataset = open_dataset(
        config.dataset,
        split,
        data_dir=config.data_dir,
        allow_missing=config.allow_missing,
        num_images=config.num_images,
        creatures=creatures,
    )
    return dataset if config.short_side is None else Degraded(dataset, config.short_side)


def check_splits(train_split: str, eval_split: str) -> None:
    """Check that nothing is scored on images that it was trained on.

    Raises:
        ValueError: One split contains the other.
    """
    if train_split == "trainval" and eval_split == "val":
        raise ValueError(
            "train_split 'trainval' contains the images of 'val': evaluate on 'test', or train on "
            "'train'"
        )


def breed(name: str) -> str:
    """Write a class name for people: `n02085620-Chihuahua` as `Chihuahua`, `_` as a space."""
    head, _, tail = name.partition("-")
    if head[:1] == "n" and head[1:].isdigit() and tail:
        name = tail
    return name.replace("_", " ")
