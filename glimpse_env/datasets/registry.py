"""Data sets by name: `open_dataset` opens one split, `register_dataset` adds a data set.

Environments (`dataset=`) and commands (`--dataset`) find data sets here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from glimpse_env.datasets.base import ImageDataset

Opener = TypeVar("Opener", bound=Callable[..., Any])

GROUP = "glimpse.datasets"
"""Entry points that add data sets."""

_OPENERS: dict[str, Callable[..., Any]] = {}


def register_dataset(name: str) -> Callable[[Opener], Opener]:
    """Make a data set available by a name, in environments and in every command.

        @register_dataset("my_dogs")
        def open_my_dogs(split, *, data_dir=None):
            return ImageFolder(data_dir or "my_dogs", split)

    The decorated function takes the split and returns an `ImageDataset`. By keyword it takes those
    of `data_dir`, `allow_missing`, `num_images` and `creatures` that mean something for it; the
    others are refused in its name.

    Args:
        name: A new name, without a colon.

    Raises:
        ValueError: The name is taken, or has a colon.
    """

    def register(opener: Opener) -> Opener:
        if ":" in name:
            raise ValueError(f"the name of a data set has no colon: {name!r}")
        if _OPENERS.setdefault(name, opener) is not opener:
            raise ValueError(f"a data set named {name!r} is already registered")
        return opener

    return register


def dataset_names() -> tuple[str, ...]:
    """Return the names of the registered data sets, without those of entry points."""
    return tuple(_OPENERS)


def available_names() -> tuple[str, ...]:
    """Return the names that `open_dataset` opens: of registered data sets, and of entry points."""
    return tuple(dict.fromkeys((*_OPENERS, *_installed())))


def find_dataset(name: str) -> Callable[..., Any]:
    """Return the function that opens a data set.

    Args:
        name: Registered, of an entry point in the group `glimpse.datasets`, or `module:function`.

    Raises:
        ValueError: There is none; the message lists the names.
    """
    if name in _OPENERS:
        return _OPENERS[name]
    module, colon, function = _installed().get(name, name).partition(":")
    if colon:
        try:
            return getattr(import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"dataset {name!r}: {error}") from error
    raise ValueError(
        f"there is no data set {name!r}: there are {', '.join(map(repr, available_names()))}, or "
        "give 'module:function'"
    )


def _installed() -> dict[str, str]:
    """Data sets of entry points: what each name stands for, as `module:function`."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def open_dataset(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
    num_images: int | None = None,
    creatures: int = 1,
) -> ImageDataset:
    """Open one split of a data set.

        dogs = open_dataset("synthetic", "val", num_images=100)

    Args:
        name: Registered (`stanford_dogs`, `synthetic`, `image_folder`), of an entry point in the
            group `glimpse.datasets`, or `module:function`.
        split: Part of it.
        data_dir: Folder of the data set.
        allow_missing: Leave out listed images that are absent, instead of raising.
        num_images: Training images of a drawn data set; other splits have a quarter as many.
        creatures: Dogs in each image of a drawn data set.

    Raises:
        ValueError: There is no such data set or split, or an option means nothing for it.
        DatasetNotFoundError: It is not there; the message says how to get it.
        MissingImagesError: Listed images are absent.
    """
    opener = find_dataset(name)
    given: dict[str, Any] = {}
    if data_dir is not None:
        given["data_dir"] = data_dir
    if allow_missing:
        given["allow_missing"] = True
    if num_images is not None:
        given["num_images"] = num_images
    if creatures != 1:
        given["creatures"] = creatures
    taken = inspect.signature(opener).parameters
    for option in given:
        # Drawn images are never absent, so this asks for nothing.
        if option not in taken and option != "allow_missing":
            raise ValueError(
                f"{option} (--{option.replace('_', '-')}) means nothing for the data set {name!r}: "
                "leave it out"
            )
    return opener(split, **{option: given[option] for option in given if option in taken})


@register_dataset("stanford_dogs")
def _stanford_dogs(
    split: str, *, data_dir: str | os.PathLike[str] | None = None, allow_missing: bool = False
) -> ImageDataset:
    from glimpse_env.datasets.stanford_dogs import StanfordDogs

    return StanfordDogs(data_dir, split, allow_missing)


@register_dataset("synthetic")
def _synthetic(split: str, *, num_images: int | None = None, creatures: int = 1) -> ImageDataset:
    from glimpse_env.datasets.synthetic import SyntheticDogs

    if num_images is not None and split not in ("train", "trainval", "pretrain"):
        num_images = max(1, num_images // 4)
    return SyntheticDogs(split, num_images=num_images, creatures=creatures)


@register_dataset("image_folder")
def _image_folder(
    split: str, *, data_dir: str | os.PathLike[str] | None = None, allow_missing: bool = False
) -> ImageDataset:
    from glimpse_env.datasets.image_folder import ImageFolder

    if data_dir is None:
        raise ValueError("the data set 'image_folder' needs data_dir (--data-dir), its folder")
    return ImageFolder(data_dir, split, allow_missing=allow_missing)
