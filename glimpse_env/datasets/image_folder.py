"""Any labelled images: a folder a class, or Caltech-UCSD Birds 200 (2011) as published."""

from __future__ import annotations

import os
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from glimpse_env.datasets.base import ImageFiles, first_names, image_size
from glimpse_env.datasets.duplicates import equal_files
from glimpse_env.datasets.errors import (
    AnnotationError,
    DatasetFormatError,
    DatasetNotFoundError,
    DatasetWarning,
)
from glimpse_env.datasets.layout import (
    is_cub,
    refuse_wrong_root,
    split_roles,
    warn_of_doubtful_root,
)
from glimpse_env.datasets.scan import LeftOut, holds_images, scan, subfolders
from glimpse_env.datasets.split import stratified_split

SPLITS = ("train", "val", "trainval", "test")


class _Listing(NamedTuple):
    """Files and classes of a split, whatever the layout they were read from."""

    root: Path
    names: list[str]
    labels: Int64[np.ndarray, " N"]
    class_names: tuple[str, ...]
    boxes: dict[str, tuple[float, ...]] | None = None
    counterpart: list[str] = []
    """What this split is trained for, or evaluates: the other side, for comparing images."""


class ImageFolder(ImageFiles):
    """A split of your own images, in one of three layouts, recognised by what is there.

    - CUB-200-2011 (`images.txt`, `classes.txt`, `image_class_labels.txt`, `train_test_split.txt`):
      `test` is the official test set; `train` and `val` are cut from the official training set,
      `trainval` is all of it. Boxes come from `bounding_boxes.txt` if it is there.
    - Folders `train/CLASS/`, with `val/CLASS/` and `test/CLASS/` or not: these are the splits.
      Without a `val` folder, `train` and `val` are cut from `train`; `trainval` is both.
    - Folders `CLASS/`: `train` and `val` are cut from all images, `trainval` is all. No `test`.

    Splits may also be called `Train`, `training`, `valid`, `validation`, `testing` and the like.
    Classes are numbered in the order of their sorted names (CUB: in the official order). Folders
    below a class belong to it, linked ones too. A file is an image by its suffix, or by its first
    bytes if it has none of an image's. Hidden files and texts are ignored; of whatever else is left
    out a warning tells. Images are turned as their orientation tags say, so that photographs from
    phones stand upright; those with boxes (CUB) are the pixels as stored, which the boxes are for.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        holdout: float = 0.2,
        seed: int = 0,
        allow_missing: bool = False,
        check_equal: bool = True,
    ) -> None:
        """List the images of a split.

        Args:
            root: The folder.
            split: `train`, `val`, `trainval` or `test`.
            holdout: Share of each class that goes to `val` where the layout does not say.
            seed: Which images these are.
            allow_missing: Leave out images that are listed but absent (CUB) instead of raising.
            check_equal: Whether to look for images that are the same, byte for byte, in training
                and in evaluation. What was found is remembered in the user's cache.

        Raises:
            ValueError: If there is no such split, in general or in this layout.
            DatasetNotFoundError: If there is no such folder, or there are no classes in it.
            DatasetFormatError: If what is there contradicts itself, or is of no layout.
            MissingImagesError: If listed images are absent.
            PermissionError: If a folder or a file may not be read.

        Warns:
            DatasetWarning: Of what was left out, with counts and the first names, and of images
                that are the same in training and in evaluation.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
        root = Path(os.path.expanduser(root))
        if not root.is_dir():
            raise DatasetNotFoundError(
                f"no folder {root}: give one with a subfolder of images for each class"
            )
        left_out, roles = LeftOut(), split_roles(root)
        if is_cub(root):
            listing = _read_cub(root, split, holdout, seed)
        elif "train" in roles and subfolders(root / roles["train"]):
            listing = _read_split_folders(root, split, holdout, seed, roles, left_out)
        else:
            listing = _read_class_folders(root, split, holdout, seed, left_out)
        left_out.warn(root)
        if not listing.names:
            raise DatasetFormatError(f"{root} has no image left for split {split!r}")
        self._boxes = listing.boxes
        # Boxes are for the pixels as they are stored.
        self.upright = listing.boxes is None
        super().__init__(
            listing.root,
            listing.names,
            listing.labels,
            class_names=listing.class_names,
            split=split,
            training=split in ("train", "trainval"),
            allow_missing=allow_missing,
        )
        if check_equal:
            self._warn_of_equal_images(listing.counterpart)

    def _warn_of_equal_images(self, counterpart: list[str]) -> None:
        """Say which images are both trained on and evaluated on."""
        if self.training:
            pairs = equal_files(self.root, self._names, counterpart)
        else:
            pairs = equal_files(self.root, counterpart, self._names)
        if pairs:
            shown = first_names([f"{ours} and {theirs}" for ours, theirs in pairs])
            warnings.warn(
                f"{len(pairs)} images below {self.root} are the same, byte for byte, in training "
                f"and in evaluation, which makes results look better than they are: {shown}; "
                "remove one of each",
                DatasetWarning,
                stacklevel=3,
            )

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the boxes (xmin, ymin, xmax, ymax), as edges in pixels of `image(index)`.

        CUB has one an image, cut here at the image's edges; folders of classes have none.

        Raises:
            AnnotationError: If the list of boxes does not mention the image, or puts its box
                outside (the image is then not of its published size).
        """
        if self._boxes is None:
            return np.zeros((0, 4), dtype=np.float32)
        name = self.name(index)
        if name not in self._boxes:
            raise AnnotationError(f"bounding_boxes.txt has no box for {name}: fetch it again")
        left, top, width, height = self._boxes[name]
        columns, rows = image_size(self.path(index))
        limit = np.array([columns, rows, columns, rows], dtype=np.float64)
        edges = np.array([[left, top, left + width, top + height]])
        cut = np.clip(edges, 0, limit)
        if (np.abs(cut - edges) > 2 + 0.02 * limit).any():  # less is how people draw boxes
            raise AnnotationError(
                f"the box of {name} reaches beyond the image of {columns} x {rows}: the image "
                "is not of its published size"
            )
        return cut.astype(np.float32)


def _read_class_folders(
    root: Path, split: str, holdout: float, seed: int, left_out: LeftOut
) -> _Listing:
    if split == "test":
        raise ValueError(
            f"{root} has no test split: put the images in train/CLASS/ and test/CLASS/"
        )
    classes = subfolders(root, left_out)
    if not classes:
        lower = f"; or give {root.parent}, if {root} is one of its classes"
        raise DatasetNotFoundError(
            f"{root} has no subfolders: give a folder with a subfolder of images for each class"
            + (lower if left_out.beside else "")
        )
    refuse_wrong_root(root, classes)
    names, labels = scan(root, "", classes, left_out)
    warn_of_doubtful_root(root, classes)
    return _cut(_Listing(root, names, labels, tuple(classes)), split, holdout, seed)


def _read_split_folders(
    root: Path, split: str, holdout: float, seed: int, roles: dict[str, str], left_out: LeftOut
) -> _Listing:
    classes = subfolders(root / roles["train"], left_out)
    beside = [name for name in subfolders(root, left_out) if name not in roles.values()]
    left_out.folders += [name for name in beside if holds_images(root / name, 2)]
    has_val = "val" in roles and bool(subfolders(root / roles["val"]))
    if "val" in roles and not has_val and holds_images(root / roles["val"]):
        left_out.folders.append(roles["val"])
    if split != "test" and not has_val:
        parts = _scan_split(root, roles, ["train"], classes, left_out)
        return _cut(_Listing(root, *parts, tuple(classes)), split, holdout, seed)
    chosen = {"trainval": ["train", "val"]}.get(split, [split])
    parts = _scan_split(root, roles, chosen, classes, left_out)
    # The other side is looked through too, for images that are the same.
    other = {"train": "val", "val": "train", "trainval": "test", "test": "train"}[split]
    counterpart = []
    if other in roles:
        try:
            counterpart, _ = scan(root, f"{roles[other]}/", classes, LeftOut(), must_exist=False)
        except OSError:  # whoever opens that side is told
            pass
    return _Listing(root, *parts, tuple(classes), counterpart=counterpart)


def _scan_split(
    root: Path, roles: dict[str, str], chosen: list[str], classes: list[str], left_out: LeftOut
) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """Names and classes of the images of some of the folders that are splits."""
    names, labels = [], np.zeros(0, dtype=np.int64)
    for role in chosen:
        if role not in roles:
            raise ValueError(f"{root} has no {role} split: there is no folder {root / role}")
        folder = root / roles[role]
        here = subfolders(folder, left_out if role != "train" else None)
        unknown = sorted(set(here) - set(classes))
        if unknown:
            raise DatasetFormatError(
                f"{folder} has classes that {root / roles['train']} has not: "
                f"{', '.join(unknown[:3])}"
            )
        prefix = f"{roles[role]}/"
        found, numbers = scan(root, prefix, classes, left_out, must_exist=role == "train")
        absent = sorted(set(range(len(classes))) - set(numbers.tolist())) if found else []
        left_out.lacking += [prefix + classes[label] for label in absent]
        names, labels = names + found, np.concatenate([labels, numbers])
    return names, labels


def _cut(whole: _Listing, split: str, holdout: float, seed: int) -> _Listing:
    """The part of a list that is cut by chance; all of it for a split that is not."""
    if split not in ("train", "val"):
        return whole
    kept, held_out = stratified_split(whole.labels, holdout, seed)
    chosen, others = (kept, held_out) if split == "train" else (held_out, kept)
    return whole._replace(
        names=[whole.names[index] for index in chosen],
        labels=whole.labels[chosen],
        counterpart=[whole.names[index] for index in others],
    )


def _read_cub(root: Path, split: str, holdout: float, seed: int) -> _Listing:
    images = _read_table(root / "images.txt")
    classes = _read_table(root / "classes.txt")
    class_of = _read_table(root / "image_class_labels.txt")
    in_training = _read_table(root / "train_test_split.txt")
    numbers = {identity: label for label, identity in enumerate(classes)}
    names, labels, training = [], [], []
    for identity, name in images.items():
        if class_of.get(identity) not in numbers or in_training.get(identity) not in ("0", "1"):
            raise DatasetFormatError(
                f"image {identity} ({name}) in {root / 'images.txt'} has no class or no split in "
                "the files beside it: fetch the archive again"
            )
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise DatasetFormatError(
                f"{root / 'images.txt'} lists {name!r}, outside the folder: fetch the archive again"
            )
        if not name.isprintable() or any(len(os.fsencode(part)) > 255 for part in posix.parts):
            raise DatasetFormatError(
                f"{root / 'images.txt'} lists {name[:80]!r}, a name that is no file's: fetch the "
                "archive again"
            )
        names.append(name)
        labels.append(numbers[class_of[identity]])
        training.append(in_training[identity] == "1")
    official = np.array(training, dtype=bool) == (split != "test")
    chosen, others = np.flatnonzero(official), np.flatnonzero(~official)
    boxes = None
    if (root / "bounding_boxes.txt").is_file():
        try:
            boxes = {
                images[identity]: tuple(float(number) for number in numbers.split())
                for identity, numbers in _read_table(root / "bounding_boxes.txt").items()
            }
        except (KeyError, ValueError) as error:
            raise DatasetFormatError(
                f"cannot read {root / 'bounding_boxes.txt'} ({error!r}): fetch the archive again"
            ) from error
        if any(len(box) != 4 or not np.isfinite(box).all() for box in boxes.values()):
            raise DatasetFormatError(f"{root / 'bounding_boxes.txt'}: a box has four numbers")
        if any(min(box[2:]) < 0 for box in boxes.values()):
            raise DatasetFormatError(f"{root / 'bounding_boxes.txt'}: a box has a size")
    listing = _Listing(
        root / "images",
        [names[index] for index in chosen],
        np.array(labels, dtype=np.int64)[chosen],
        tuple(name.split(".", 1)[-1] for name in classes.values()),  # 001.Black_footed_Albatross
        boxes,
        [names[index] for index in others],
    )
    return _cut(listing, split, holdout, seed)


def _read_table(path: Path) -> dict[str, str]:
    """Read lines of an identity, a space and a value."""
    rows: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetFormatError(f"{path} is no text ({error}): fetch it again") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        identity, _, value = line.strip().partition(" ")
        if not value or identity in rows:
            raise DatasetFormatError(
                f"{path}, line {number}: expected a new number and a value, got {line!r}"
            )
        rows[identity] = value.strip()
    return rows
