"""What every dataset offers, how an image is read, and what datasets of files share."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import ImageFile

from glimpse_env.datasets.decoding import image_size, read_image
from glimpse_env.datasets.errors import DatasetWarning, MissingImagesError


@runtime_checkable
class ImageDataset(Protocol):
    """Labelled images, each with boxes where they are known.

    An environment, a feature bank and an evaluation ask for no more than this, so that your own
    images need only these members. Boxes are for analysis: no agent sees them (paper section 3).
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        ...

    @property
    def labels(self) -> Int64[np.ndarray, " N"]:
        """Class of each image, from 0."""
        ...

    @property
    def split(self) -> str:
        """Name of the part of the dataset."""
        ...

    @property
    def training(self) -> bool:
        """True for a split to train on, which is walked and mirrored at random."""
        ...

    @property
    def num_missing(self) -> int:
        """Number of listed images that were absent and left out."""
        ...

    @property
    def fingerprint(self) -> str:
        """A sha256 in hexadecimal over all that defines the split."""
        ...

    def __len__(self) -> int:
        """Count the images."""
        ...

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image, RGB."""
        ...

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return boxes (xmin, ymin, xmax, ymax) as edges, in pixels of `image(index)`."""
        ...

    def name(self, index: int) -> str:
        """Return the name of an image, unique in the dataset."""
        ...


def size_of(dataset: ImageDataset, index: int) -> tuple[int, int]:
    """Return the width and height of an image, undecoded where the dataset has a `size`."""
    size = getattr(dataset, "size", None)
    if size is not None:
        return size(index)
    height, width = dataset.image(index).shape[:2]
    return width, height


class ImageFiles:
    """Images in files below one folder: what Stanford Dogs and an image folder have in common.

    Attributes:
        root: Folder that the names are relative to.
        split: Which part of the dataset this is.
        training: Whether it is a split to train on.
        class_names: Name of each class, in the order of the labels.
        labels: Class of each image that is there, from 0.
        num_missing: Listed images that are absent and were left out.
        concurrent: Images may be read by several threads at once, which gains time.
        upright: Whether images are turned as their orientation tags say.
    """

    concurrent = True
    upright = False

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Int64[np.ndarray, " N"],
        *,
        class_names: tuple[str, ...],
        split: str,
        training: bool,
        allow_missing: bool = False,
    ) -> None:
        """Look which of the listed files are there.

        Args:
            root: Folder that the names are relative to.
            names: Files listed, `folder/file`.
            labels: Their classes, from 0.
            class_names: Name of each class.
            split: Which part of the dataset this is.
            training: Whether it is a split to train on.
            allow_missing: Leave out absent files (`num_missing` counts them) instead of raising.

        Raises:
            MissingImagesError: If listed files are absent and that is not allowed, or if all are.
            PermissionError: If files or their folders may not be read.

        Warns:
            DatasetWarning: Of files without content, and of Pillow being told to fill up what is
                cut short.
        """
        self.root = root
        self.split = split
        self.training = training
        self.class_names = class_names
        sizes = _file_sizes(root, names)
        here = sizes >= 0
        self.num_missing = int((~here).sum())
        if self.num_missing and (not allow_missing or not here.any()):
            absent = [name for name, there in zip(names, here, strict=True) if not there]
            if here.any():
                remedy = "fetch the rest, or pass allow_missing=True to do without them"
            else:
                remedy = "fetch them, or choose a split that is there"
            raise MissingImagesError(
                f"{len(absent)} of the {len(names)} images of split {split!r} are absent from "
                f"{root}: {first_names(absent)}; {remedy} "
                "(for Stanford Dogs: `glimpse download`)"
            )
        kept = np.flatnonzero(here)
        self._names = tuple(names[index] for index in kept.tolist())
        self._sizes = sizes[kept]
        empty = [self._names[index] for index in np.flatnonzero(self._sizes == 0).tolist()]
        if empty:
            warnings.warn(
                f"{len(empty)} of the {len(self._names)} files of split {split!r} below {root} are "
                f"empty, and will not decode: {first_names(empty)}; replace or remove them",
                DatasetWarning,
                stacklevel=3,
            )
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            warnings.warn(
                "this program has set PIL.ImageFile.LOAD_TRUNCATED_IMAGES: of images that are cut "
                "short the rest is grey, and no error tells of it; set it to False to be told",
                DatasetWarning,
                stacklevel=3,
            )
        self.labels = labels[kept]
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        """Count the images."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of an image, relative to `root`."""
        return self._names[index]

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.root / self._names[index]

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image, RGB.

        Raises:
            UnreadableImageError: If the file does not decode.
        """
        return read_image(self.path(index), upright=self.upright)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of an image, without decoding it."""
        return image_size(self.path(index), upright=self.upright)

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return no boxes: a dataset that knows some overrides this."""
        return np.zeros((0, 4), dtype=np.float32)

    @property
    def fingerprint(self) -> str:
        """A sha256 over names, labels, file sizes and what is done with tags: equal for equals."""
        digest = hashlib.sha256(b"upright\n" if self.upright else b"")
        for name, label, size in zip(self._names, self.labels, self._sizes, strict=True):
            # File systems hold names that are no UTF-8; Python shows such bytes as surrogates.
            digest.update(f"{name}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def first_names(names: Sequence[str], count: int = 3) -> str:
    """The first of some names, for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _file_sizes(root: Path, names: Sequence[str]) -> Int64[np.ndarray, " N"]:
    """Size of each file in bytes, -1 if absent; by listing folders, which is quick.

    Raises:
        PermissionError: If a folder, or some of the files, may not be read.
    """
    listings: dict[str, dict[str, int]] = {}
    sizes = np.full(len(names), -1, dtype=np.int64)
    for index, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if folder not in listings:
            try:
                with os.scandir(root / folder) as entries:
                    listings[folder] = dict(_files(entries))
            except (FileNotFoundError, NotADirectoryError):
                listings[folder] = {}
        sizes[index] = listings[folder].get(file, -1)
    closed = [name for name, size in zip(names, sizes.tolist(), strict=True) if size == _CLOSED]
    if closed:
        raise PermissionError(
            f"{len(closed)} of the {len(names)} files below {root} may not be read: "
            f"{first_names(closed)}; change their permissions (chmod), or remove them"
        )
    return sizes


_CLOSED = -2
"""Stands for the size of a file that may not be read."""


def _files(entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of each file; links that lead nowhere, or in a circle, are none."""
    for entry in entries:
        try:
            if entry.is_file():
                found = entry.stat()
                yield entry.name, found.st_size if _may_read(entry, found) else _CLOSED
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise


def _may_read(entry: os.DirEntry[str], found: os.stat_result) -> bool:
    """Return whether this process may read a file; ask the system only where in doubt."""
    return bool(found.st_mode & stat.S_IROTH) or os.access(entry.path, os.R_OK)
