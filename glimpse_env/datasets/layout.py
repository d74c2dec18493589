"""Which layout a folder of images has, and whether the folder given is the one that was meant."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from glimpse_env.datasets.base import first_names
from glimpse_env.datasets.errors import DatasetFormatError, DatasetWarning
from glimpse_env.datasets.scan import holds_images, subfolders

CUB_FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_FEW = 20
"""Subfolders looked into for another layout: a folder too high has fewer."""
_ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def is_cub(root: Path) -> bool:
    """Return whether a folder is CUB-200-2011 as it unpacks.

    Raises:
        DatasetFormatError: If it is, and some of its lists are absent.
    """
    absent = [file for file in CUB_FILES if not os.path.isfile(root / file)]
    if 0 < len(absent) <= 2 and os.path.isdir(root / "images"):
        raise DatasetFormatError(
            f"{root} looks like CUB-200-2011, but {' and '.join(absent)} is absent: unpack the "
            f"archive again, or give {root / 'images'} to use its images without its lists"
        )
    return not absent


def split_roles(root: Path) -> dict[str, str]:
    """Folders that are splits by their names, in whatever case: `train`, `val`, `test` to folder.

    Raises:
        DatasetFormatError: If two folders of the same role have classes in them.
    """
    roles: dict[str, str] = {}
    for name in subfolders(root):
        role = next((role for role, names in _ROLES.items() if name.lower() in names), None)
        if role is None:
            continue
        if role in roles and subfolders(root / roles[role]) and subfolders(root / name):
            raise DatasetFormatError(
                f"{root} has both {roles[role]}/ and {name}/, and only one of them can be its "
                f"{role} split: rename or remove the other"
            )
        if role not in roles or subfolders(root / name):
            roles[role] = name
    return roles


def refuse_wrong_root(root: Path, classes: list[str]) -> None:
    """Stop where folders of classes are asked for and something else is there.

    Args:
        root: The folder given.
        classes: Its subfolders.

    Raises:
        DatasetFormatError: With the folder that was probably meant.
    """
    if _is_stanford_dogs(root):
        raise DatasetFormatError(
            f"{root} is Stanford Dogs as published: open it with StanfordDogs (`--dataset "
            f"stanford_dogs`), or give {root / 'Images'} to use its images without its lists"
        )
    for name in classes[:_FEW]:
        below = root / name
        if is_cub(below) or _is_stanford_dogs(below):
            raise DatasetFormatError(f"{root} is one folder too high: give {below}")
        roles = split_roles(below)
        if len(roles) > 1 and "train" in roles and subfolders(below / roles["train"]):
            raise DatasetFormatError(
                f"{root} is one folder too high: give {below}, which has the folders "
                f"{', '.join(roles.values())}"
            )
    roles = split_roles(root)
    if roles and not set(classes) - set(roles.values()):
        _refuse_splits_alone(root, roles)
    if len(classes) == 1 and not holds_images(root / classes[0]):
        inner = subfolders(root / classes[0])
        if len(inner) > 1 and holds_images(root / classes[0], 1):
            raise DatasetFormatError(
                f"{root} has the single subfolder {classes[0]}, which has {len(inner)} subfolders "
                f"and no images of its own, so it is one folder too high: give {root / classes[0]}"
            )


def _refuse_splits_alone(root: Path, roles: dict[str, str]) -> None:
    """Stop where all subfolders are splits, and none for training has classes."""
    flat = [name for name in roles.values() if not subfolders(root / name)]
    if flat:
        raise DatasetFormatError(
            f"{root} has {first_names([f'{name}/' for name in roles.values()])}, and "
            f"{first_names([f'{name}/' for name in flat])} without a subfolder for each class: "
            "move the images to train/CLASS/, as the labels that came with them say"
        )
    some = root / next(iter(roles.values()))
    raise DatasetFormatError(
        f"{root} has {first_names([f'{name}/' for name in roles.values()])} and no train/: add it, "
        f"or give {some} with split='trainval' to use its images alone"
    )


def warn_of_doubtful_root(root: Path, classes: list[str]) -> None:
    """Warn where the folder given can be taken in, and may yet not be the one that was meant.

    Args:
        root: The folder given.
        classes: Its subfolders.
    """
    doubts = []
    if len(classes) > 1 and not any(holds_images(root / name) for name in classes):
        doubts.append(
            f"no image lies in its subfolders ({first_names(classes)}) themselves, only in folders "
            "below these: if those are the classes, give a folder further down"
        )
    above = root.absolute().parent
    own = root.absolute().name
    if own == "images" and all(os.path.isfile(above / file) for file in CUB_FILES):
        doubts.append(f"it is part of CUB-200-2011: give {above} for the published split and boxes")
    if own == "Images" and _is_stanford_dogs(above):
        doubts.append(
            f"it is part of Stanford Dogs: open {above} with StanfordDogs for the published split"
        )
    roles = _roles_beside(above)
    if roles.get("train") == own and len(roles) > 1:
        others = [name for name in roles.values() if name != own]
        doubts.append(
            f"{first_names(others)} lies beside it and is not used: give {above} for these splits"
        )
    for doubt in doubts:
        warnings.warn(f"{root}: {doubt}", DatasetWarning, stacklevel=4)


def _roles_beside(above: Path) -> dict[str, str]:
    """Roles of the folders in the one above, where that is to be seen at all."""
    try:
        return split_roles(above)
    except (OSError, DatasetFormatError):
        return {}


def _is_stanford_dogs(folder: Path) -> bool:
    """Return whether a folder has the official layout, its lists or its boxes beside the images."""
    lists = ("lists", "train_list.mat", "Annotation")
    return os.path.isdir(folder / "Images") and any(os.path.exists(folder / x) for x in lists)
