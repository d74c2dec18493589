"""Walk folders of classes: which images are there, and what is left out, which is never silent."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from glimpse_env.datasets.base import first_names
from glimpse_env.datasets.errors import DatasetFormatError, DatasetWarning

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jif .jfi .mpo .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm "
    ".pbm .pnm .jp2 .j2k .j2c .jpc .jpx .jpf".split()
)
"""What images of the formats that are decoded are called."""

_COMPANIONS = frozenset(
    ".txt .json .jsonl .xml .csv .tsv .md .rst .html .htm .yaml .yml .toml .ini .cfg .db .log .py "
    ".sh .lnk .url .sha256 .md5".split()
)
"""Suffixes of files that lie beside images and are none: nobody misses them."""

# Raw files of cameras are TIFFs inside, with a preview that is not the photograph.
_RAW = frozenset(".dng .nef .cr2 .arw .orf .pef .rw2 .srw .nrw".split())

_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM.{4}\0{4}|II\*\0|MM\0\*|P[1-6]\s"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    re.DOTALL,
)


@dataclass
class LeftOut:
    """Files and folders that a walk has passed over, to be told at its end."""

    files: list[str] = field(default_factory=list)
    """Files that may be images, of a format or under a name that is not read."""
    hidden: list[str] = field(default_factory=list)
    """Images whose names begin with a dot."""
    beside: list[str] = field(default_factory=list)
    """Images beside the folders of the classes, which are of no class."""
    circles: list[str] = field(default_factory=list)
    """Folders that links lead to a second time."""
    broken: list[str] = field(default_factory=list)
    """Links, beside the folders of the classes, that lead nowhere."""
    folders: list[str] = field(default_factory=list)
    """Folders with images beside those of the splits."""
    lacking: list[str] = field(default_factory=list)
    """Classes without an image in a split."""

    def warn(self, root: Path) -> None:
        """Tell all of it in one warning, with counts and the first names."""
        suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in self.files)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(4))
        parts = [
            (self.files, f"{{}} of no format that is read ({kinds})"),
            (self.hidden, "{} images that are hidden (their names begin with a dot)"),
            (self.beside, "{} images beside the folders of the classes"),
            (self.circles, "{} folders that links lead to twice"),
            (self.broken, "{} links that lead nowhere"),
            (self.folders, "{} folders of images that are no split"),
            (self.lacking, "{} classes without an image"),
        ]
        said = [
            f"{text.format(len(names))}: {first_names(names)}" for names, text in parts if names
        ]
        if said:
            warnings.warn(f"{root}: passed over {'; '.join(said)}", DatasetWarning, stacklevel=3)


def subfolders(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    """Sorted names of the folders in a folder, hidden ones left out; none if it is absent.

    Args:
        folder: Where to look.
        left_out: Is told of images, and of links that lead nowhere, between them.

    Raises:
        PermissionError: If the folder may not be read.
    """
    if not folder.is_dir():
        return []
    names = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if _is_dir(entry):
            names.append(entry.name)
        elif left_out is not None and entry.is_symlink() and not os.path.exists(entry.path):
            left_out.broken.append(entry.name)
        elif left_out is not None and Path(entry.name).suffix.lower() in SUFFIXES:
            left_out.beside.append(entry.name)
    return names


def scan(
    root: Path, prefix: str, classes: list[str], left_out: LeftOut, must_exist: bool = True
) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """Names relative to `root`, and classes, of all images below the folders of the classes.

    Links to folders are followed, but to no folder twice within a class.

    Args:
        root: Top of the data set.
        prefix: Of the folders of the classes, below `root`; ends in a slash, or is empty.
        classes: Their names.
        left_out: Is told what is passed over.
        must_exist: Whether a class without images is an error.

    Raises:
        DatasetFormatError: If a class has no images.
        PermissionError: If a folder may not be read.
    """
    names: list[str] = []
    labels: list[int] = []
    above = {_identity(root), _identity(root / prefix)}
    tops = {folder: _identity(root / prefix / folder) for folder in classes}
    for label, folder in enumerate(classes):
        before = len(names)
        others = {identity for name, identity in tops.items() if name != folder}
        if tops[folder] is not None:  # a class may lack
            _walk(root / prefix / folder, f"{prefix}{folder}", above | others, names, left_out)
        if must_exist and len(names) == before:
            raise DatasetFormatError(
                f"{root / prefix / folder} has no images: fill or remove the folder (images "
                f"end in {', '.join(sorted(SUFFIXES))})" + _deeper(root / prefix, classes)
            )
        labels += [label] * (len(names) - before)
    return names, np.array(labels, dtype=np.int64)


def _walk(
    folder: Path, inside: str, seen: set[object], names: list[str], left_out: LeftOut
) -> None:
    """Add the images below a folder to `names`: first its own, then those of its subfolders."""
    seen.add(_identity(folder))
    below: list[os.DirEntry[str]] = []
    for entry in _entries(folder):
        name = f"{inside}/{entry.name}"
        if _is_dir(entry):
            if not entry.name.startswith("."):
                below.append(entry)
        elif not is_image(entry):
            if _may_be_image(entry):
                left_out.files.append(name)
        elif not entry.name.startswith("."):
            names.append(name)
        elif not entry.name.startswith("._"):  # what macOS keeps beside a file
            left_out.hidden.append(name)
    # Links last, so that a folder which is also there itself counts as itself.
    for entry in sorted(below, key=lambda entry: entry.is_symlink()):
        if _identity(Path(entry.path)) in seen:
            left_out.circles.append(f"{inside}/{entry.name}")
        else:
            _walk(Path(entry.path), f"{inside}/{entry.name}", seen, names, left_out)


def is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether a file is an image, by its suffix or else by its first bytes."""
    suffix = Path(entry.name).suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix in _COMPANIONS or suffix in _RAW or entry.name.startswith("."):
        return False
    return _MAGIC.match(_head(entry)) is not None


def holds_images(folder: Path, depth: int = 0) -> bool:
    """Return whether a folder has an image of its own, or one at most `depth` folders below."""
    below = []
    with _open(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_dir(entry):
                below.append(Path(entry.path))
            elif is_image(entry):
                return True
    return depth > 0 and any(holds_images(each, depth - 1) for each in below)


def _deeper(folder: Path, classes: Iterable[str]) -> str:
    """A hint for an error, where the classes may be one folder further down."""
    for name in classes:
        if not holds_images(folder / name) and holds_images(folder / name, 1):
            return f"; or give {folder / name}, if the folders in it are the classes"
        for each in subfolders(folder / name):
            if not holds_images(folder / name / each) and holds_images(folder / name / each, 1):
                return f"; or give {folder / name / each}, if the folders in it are the classes"
    return ""


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what is in a folder, sorted by name; see `_open`."""
    with _open(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _open(folder: Path) -> Any:
    """Iterate over what is in a folder.

    Raises:
        PermissionError: If it may not be read; the message says what that would hide.
    """
    try:
        return os.scandir(folder)
    except PermissionError as error:
        reason = f"{error.strerror}, so that its images would be missing; change its permissions"
        raise PermissionError(error.errno, reason, str(folder)) from error


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a link that leads round in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(folder: Path) -> object:
    """Tell folders apart whatever they are called; None if there is none."""
    try:
        found = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    """Return whether somebody may miss a file that is left out."""
    suffix = Path(entry.name).suffix.lower()
    return not entry.name.startswith(".") and suffix not in _COMPANIONS and bool(_head(entry))


def _head(entry: os.DirEntry[str]) -> bytes:
    """The first bytes of a file; none of what is no file, or is empty.

    Raises:
        PermissionError: If it may not be read.
    """
    try:
        if not entry.is_file():
            return b""
        with open(entry.path, "rb") as file:
            return file.read(16)
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            f"{error.strerror}, so that it may be an image which "
            "would be missing; change its permissions",
            entry.path,
        ) from error
    except OSError:  # a link in a circle, or gone meanwhile
        return b""
