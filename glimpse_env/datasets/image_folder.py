"""Any labelled pictures: a folder a class, or Caltech-UCSD Birds 200 (2011) as published."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from glimpse_env.datasets.base import PictureFiles, image_size
from glimpse_env.datasets.errors import AnnotationError, DatasetFormatError, DatasetNotFoundError
from glimpse_env.datasets.split import stratified_split

SPLITS = ("train", "val", "trainval", "test")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
)
_CUB_FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


class _Listing(NamedTuple):
    """What a split holds, whatever the layout it was read from."""

    root: Path
    names: list[str]
    labels: Int64[np.ndarray, " N"]
    class_names: tuple[str, ...]
    boxes: dict[str, tuple[float, ...]] | None = None


class ImageFolder(PictureFiles):
    """A split of your own pictures, in one of three layouts, recognised by what is there.

    - CUB-200-2011 (`images.txt`, `classes.txt`, `image_class_labels.txt`, `train_test_split.txt`):
      `test` is the official test set; `train` and `val` are cut from the official training set,
      `trainval` is all of it. Boxes come from `bounding_boxes.txt` if it is there.
    - Folders `train/CLASS/`, with `val/CLASS/` and `test/CLASS/` or not: these are the splits.
      Without a `val` folder, `train` and `val` are cut from `train`; `trainval` is both.
    - Folders `CLASS/`: `train` and `val` are cut from all pictures, `trainval` is all. No `test`.

    Classes are numbered in the order of their sorted names (CUB: in the official order). Folders
    below a class belong to it; hidden files, and files that have no picture's suffix, are ignored.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        holdout: float = 0.2,
        seed: int = 0,
        allow_missing: bool = False,
    ) -> None:
        """List the pictures of a split.

        Args:
            root: The folder.
            split: `train`, `val`, `trainval` or `test`.
            holdout: Share of each class that goes to `val` where the layout does not say.
            seed: Which pictures these are.
            allow_missing: Leave out pictures that are listed but absent (CUB) instead of raising.

        Raises:
            ValueError: If there is no such split, in general or in this layout.
            DatasetNotFoundError: If there is no such folder, or there are no classes in it.
            DatasetFormatError: If what is there contradicts itself.
            MissingImagesError: If listed pictures are absent.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
        root = Path(root).expanduser()
        if not root.is_dir():
            raise DatasetNotFoundError(
                f"no folder {root}: give one with a subfolder of pictures for each class"
            )
        if all((root / file).is_file() for file in _CUB_FILES):
            listing = _read_cub(root, split, holdout, seed)
        elif _subfolders(root / "train"):
            listing = _read_split_folders(root, split, holdout, seed)
        else:
            listing = _read_class_folders(root, split, holdout, seed)
        if not listing.names:
            raise DatasetFormatError(f"{root} has no picture left for split {split!r}")
        self._boxes = listing.boxes
        super().__init__(
            listing.root,
            listing.names,
            listing.labels,
            class_names=listing.class_names,
            split=split,
            training=split in ("train", "trainval"),
            allow_missing=allow_missing,
        )

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the boxes (xmin, ymin, xmax, ymax), as edges in pixels of `image(index)`.

        CUB has one a picture, cut here at the picture's edges; folders of classes have none.

        Raises:
            AnnotationError: If the list of boxes does not mention the picture, or puts its box
                outside (the picture is then not of its published size).
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
                f"the box of {name} reaches beyond the picture of {columns} x {rows}: the picture "
                "is not of its published size"
            )
        return cut.astype(np.float32)


def _read_class_folders(root: Path, split: str, holdout: float, seed: int) -> _Listing:
    if split == "test":
        raise ValueError(
            f"{root} has no test split: put the pictures in train/CLASS/ and test/CLASS/"
        )
    classes = _subfolders(root)
    if not classes:
        raise DatasetNotFoundError(
            f"{root} has no subfolders: give a folder with a subfolder of pictures for each class"
        )
    names, labels = _scan(root, "", classes)
    chosen = _choose(split, labels, holdout, seed)
    return _Listing(root, [names[index] for index in chosen], labels[chosen], tuple(classes))


def _read_split_folders(root: Path, split: str, holdout: float, seed: int) -> _Listing:
    classes = _subfolders(root / "train")
    has_val = bool(_subfolders(root / "val"))
    if split == "test":
        folders = ["test"]
    elif split == "trainval" and has_val:
        folders = ["train", "val"]
    else:
        folders = [split if has_val else "train"]
    names, labels = [], np.zeros(0, dtype=np.int64)
    for folder in folders:
        if not (root / folder).is_dir():
            raise ValueError(f"{root} has no {folder} split: there is no folder {root / folder}")
        unknown = sorted(set(_subfolders(root / folder)) - set(classes))
        if unknown:
            raise DatasetFormatError(
                f"{root / folder} has classes that {root / 'train'} has not: "
                f"{', '.join(unknown[:3])}"
            )
        found, numbers = _scan(root, f"{folder}/", classes, must_exist=folder == "train")
        names, labels = names + found, np.concatenate([labels, numbers])
    if split != "test" and not has_val:
        chosen = _choose(split, labels, holdout, seed)
        names, labels = [names[index] for index in chosen], labels[chosen]
    return _Listing(root, names, labels, tuple(classes))


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
                f"picture {identity} ({name}) in {root / 'images.txt'} has no class or no split in "
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
    chosen = np.flatnonzero(official)
    all_labels = np.array(labels, dtype=np.int64)
    chosen = chosen[_choose(split, all_labels[chosen], holdout, seed)]
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
    return _Listing(
        root / "images",
        [names[index] for index in chosen],
        all_labels[chosen],
        tuple(name.split(".", 1)[-1] for name in classes.values()),  # 001.Black_footed_Albatross
        boxes,
    )


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


def _choose(
    split: str, labels: Int64[np.ndarray, " N"], holdout: float, seed: int
) -> Int64[np.ndarray, " chosen"]:
    """Indices of a split that is cut by chance; all of them for one that is not."""
    if split not in ("train", "val"):
        return np.arange(len(labels), dtype=np.int64)
    kept, held_out = stratified_split(labels, holdout, seed)
    return kept if split == "train" else held_out


def _subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, hidden ones left out; none if it is absent."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and _is_dir(e))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a link that leads round in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _scan(
    root: Path, prefix: str, classes: list[str], must_exist: bool = True
) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """Names relative to `root`, and classes, of all pictures below the folders of the classes."""
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        before = len(names)
        for place, below, files in os.walk(root / prefix / folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            inside = Path(place).relative_to(root).as_posix()
            names += [
                f"{inside}/{file}"
                for file in sorted(files)
                if not file.startswith(".") and Path(file).suffix.lower() in SUFFIXES
            ]
        if must_exist and len(names) == before:
            raise DatasetFormatError(
                f"{root / prefix / folder} has no pictures: fill or remove the folder (pictures "
                f"end in {', '.join(sorted(SUFFIXES))})"
            )
        labels += [label] * (len(names) - before)
    return names, np.array(labels, dtype=np.int64)
