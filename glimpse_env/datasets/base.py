"""What every dataset offers, how a picture is read, and what datasets of files share."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from glimpse_env.datasets.errors import MissingImagesError, UnreadableImageError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")


@runtime_checkable
class ImageDataset(Protocol):
    """Labelled pictures, each with boxes where they are known.

    An environment, a feature bank and an evaluation ask for no more than this, so that your own
    pictures need only these members. Boxes are for analysis: no agent sees them (paper section 3).
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        ...

    @property
    def labels(self) -> Int64[np.ndarray, " N"]:
        """Class of each picture, from 0."""
        ...

    @property
    def split(self) -> str:
        """Which part of the dataset this is."""
        ...

    @property
    def training(self) -> bool:
        """Whether the split is one to train on: walked at random, mirrored at random."""
        ...

    @property
    def num_missing(self) -> int:
        """How many listed pictures were absent and left out."""
        ...

    @property
    def fingerprint(self) -> str:
        """A sha256 in hexadecimal over all that defines the split."""
        ...

    def __len__(self) -> int:
        """Count the pictures."""
        ...

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return a picture, RGB."""
        ...

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return boxes (xmin, ymin, xmax, ymax) as edges, in pixels of `image(index)`."""
        ...

    def name(self, index: int) -> str:
        """Return the name of a picture, unique in the dataset."""
        ...


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a picture by its content, whatever its suffix, to RGB.

    Grey, palette, CMYK and 16-bit pictures are converted; an alpha channel is dropped. An EXIF
    orientation is ignored: Stanford Dogs' boxes, and everybody's results on it, are for the pixels
    as stored. Beyond Pillow's limit against decompression bombs (`Image.MAX_IMAGE_PIXELS`) a
    picture is refused, not merely warned of; and only the formats of photographs are tried, since
    others (EPS) start programs.

    Args:
        path: The file.

    Returns:
        The pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it is no picture, cut short or too large.
    """
    with _decoding(path), _opened(path) as picture:
        picture.load()
        return np.array(_to_rgb(picture))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the width and height of a picture in pixels, without decoding it.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it is no picture, or too large.
    """
    with _decoding(path), _opened(path) as picture:
        return picture.size


def picture_size(dataset: ImageDataset, index: int) -> tuple[int, int]:
    """Return the width and height of a picture, undecoded where the dataset has a `size`."""
    size = getattr(dataset, "size", None)
    if size is not None:
        return size(index)
    height, width = dataset.image(index).shape[:2]
    return width, height


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture of one of the formats of photographs, if it is of a size to decode."""
    picture = Image.open(path, formats=_FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        picture.close()
        raise Image.DecompressionBombError(
            f"{picture.width} x {picture.height} pixels, more than {limit:,}"
        )
    return picture


@contextmanager
def _decoding(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever Pillow raises for a broken file into one exception that names it."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # each plug-in has its own: OSError, SyntaxError, KeyError, ...
        raise UnreadableImageError(
            f"cannot decode {os.fspath(path)} ({error}): replace the file, say by unpacking its "
            "archive again (`glimpse download` does it for Stanford Dogs)"
        ) from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert any mode of Pillow's to RGB, eight bits a channel."""
    if picture.mode == "RGB":
        return picture
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # Pillow would clip at 255: sixteen bits must be scaled instead.
        wide = np.clip(np.array(picture, dtype=np.int64), 0, 65535)
        return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("a floating-point picture has no defined range")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # straight to RGB would warn
    return picture.convert("RGB")


class PictureFiles:
    """Pictures in files below one folder: what Stanford Dogs and an image folder have in common.

    Attributes:
        root: Folder that the names are relative to.
        split: Which part of the dataset this is.
        training: Whether it is a split to train on.
        class_names: Name of each class, in the order of the labels.
        labels: Class of each picture that is there, from 0.
        num_missing: Listed pictures that are absent and were left out.
        concurrent: Pictures may be read by several threads at once, which gains time.
    """

    concurrent = True

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
                f"{len(absent)} of the {len(names)} pictures of split {split!r} are absent from "
                f"{root}: {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}; {remedy} "
                "(for Stanford Dogs: `glimpse download`)"
            )
        kept = np.flatnonzero(here)
        self._names = tuple(names[index] for index in kept.tolist())
        self._sizes = sizes[kept]
        self.labels = labels[kept]
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of a picture, relative to `root`."""
        return self._names[index]

    def path(self, index: int) -> Path:
        """Return the file of a picture."""
        return self.root / self._names[index]

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return a picture, RGB.

        Raises:
            UnreadableImageError: If the file does not decode.
        """
        return read_image(self.path(index))

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of a picture, without decoding it."""
        return image_size(self.path(index))

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return no boxes: a dataset that knows some overrides this."""
        return np.zeros((0, 4), dtype=np.float32)

    @property
    def fingerprint(self) -> str:
        """A sha256 over names, labels and file sizes, in order: equal for equal splits."""
        digest = hashlib.sha256()
        for name, label, size in zip(self._names, self.labels, self._sizes, strict=True):
            # File systems hold names that are no UTF-8; Python shows such bytes as surrogates.
            digest.update(f"{name}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _file_sizes(root: Path, names: Sequence[str]) -> Int64[np.ndarray, " N"]:
    """Size of each file in bytes, -1 if absent; by listing folders, which is quick."""
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
    return sizes


def _files(entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of each file; links that lead nowhere, or in a circle, are none."""
    for entry in entries:
        try:
            if entry.is_file():
                yield entry.name, entry.stat().st_size
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
