"""Stanford Dogs from its official archives, or from local archives of parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from encoders.folders import check_room
from encoders.weights.download import download_file
from glimpse_env.datasets.download.archives import file_names, is_unpacked, unpack, unpacked_size
from glimpse_env.datasets.errors import ArchiveError, DatasetNotFoundError
from glimpse_env.datasets.stanford_dogs import read_list

OFFICIAL_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"


class Archive(NamedTuple):
    """An official archive: what is published, and what it becomes."""

    name: str
    size: int
    """Bytes to download."""
    sha256: str
    """Hash; Stanford publishes none, so it is the one that TensorFlow Datasets verifies."""
    unpacked: int
    """Bytes on disk once unpacked, in blocks of 4 KiB, rounded up."""


LISTS = Archive(
    "lists.tar",
    481_280,
    "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
    1_000_000,
)
ANNOTATION = Archive(
    "annotation.tar",
    21_852_160,
    "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
    90_000_000,
)
IMAGES = Archive(
    "images.tar",
    793_579_520,
    "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
    850_000_000,
)
ARCHIVES = (LISTS, ANNOTATION, IMAGES)

# Local archives of parts, in the order of unpacking.
_SHARDS = ("lists.tar*", "annotation*.tar*", "images*.tar*")
_ORIGINALS = "originals*.tar*"


def download_dogs(
    data_dir: Path,
    *,
    base_url: str = OFFICIAL_URL,
    archives: tuple[Archive, ...] = ARCHIVES,
    sha256: Mapping[str, str] | None = None,
    keep_archives: bool = False,
    progress: bool = True,
) -> list[str]:
    """Download and unpack what is lacking of Stanford Dogs; nothing if it is all there.

    Args:
        data_dir: Where to; made if absent.
        base_url: Address of the folder that has the archives.
        archives: Which archives, the lists first: they say when the others are complete.
        sha256: Hashes by file name that replace the known ones, and the known sizes with them.
        keep_archives: Keep the archives, in `data_dir/archives`, instead of deleting each once it
            is unpacked.
        progress: Whether to show progress bars.

    Returns:
        Names of the archives that were unpacked.

    Raises:
        DownloadError: If an archive cannot be fetched, or is another one.
        ArchiveError: If an archive does not hold what it should.
        OSError: If the disk is too small; this is checked before anything is fetched.
    """
    override = dict(sha256 or {})
    lacking = [archive for archive in archives if not _complete(archive.name, data_dir)]
    folder = data_dir / "archives"
    needed = sum(
        archive.unpacked + archive.size - _downloaded(folder, archive.name) for archive in lacking
    )
    check_room(data_dir, needed)
    for archive in lacking:
        path = download_file(
            f"{base_url.rstrip('/')}/{archive.name}",
            folder / archive.name,
            sha256=override.get(archive.name, archive.sha256),
            size=None if archive.name in override else archive.size,
            progress=progress,
        )
        _unpack(path, data_dir, progress)
        if not _complete(archive.name, data_dir):
            raise ArchiveError(f"{path} does not hold all that the lists name: delete it")
        if not keep_archives:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return [archive.name for archive in lacking]


def unpack_shards(
    folder: Path, data_dir: Path, *, originals: bool = False, progress: bool = True
) -> list[str]:
    """Unpack local archives of Stanford Dogs, or of parts of it, into the official layout.

    Args:
        folder: Holds `lists.tar*`, `annotation*.tar*` and `images*.tar*`, compressed or not.
        data_dir: Where to; made if absent.
        originals: Unpack `originals*.tar*` too, last, so that its images replace others.
        progress: Whether to show progress bars.

    Returns:
        Names of the archives that were unpacked; those whose files are all there are left alone.

    Raises:
        DatasetNotFoundError: If the folder holds no such archive.
        ArchiveError: If an archive is broken or holds something it must not.
        OSError: If the disk is too small; this is checked before anything is unpacked.
    """
    patterns = (*_SHARDS, _ORIGINALS) if originals else _SHARDS
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not found:
        raise DatasetNotFoundError(f"{folder} holds none of {', '.join(patterns)}")
    lacking = [path for path in found if not is_unpacked(path, _target(path, data_dir))]
    check_room(data_dir, sum(unpacked_size(path) for path in lacking))
    for path in lacking:
        _unpack(path, data_dir, progress)
    return [path.name for path in lacking]


def _unpack(archive: Path, data_dir: Path, progress: bool) -> None:
    unpack(archive, _target(archive, data_dir), progress=progress)


def _target(archive: Path, data_dir: Path) -> Path:
    """Folder to unpack in: the official lists have no folder of their own in their archive."""
    if not archive.name.startswith("lists"):
        return data_dir
    bare = any("/" not in name.removeprefix("./") for name in file_names(archive))
    return data_dir / "lists" if bare else data_dir


def _complete(archive: str, data_dir: Path) -> bool:
    """Return whether every file that an official archive brings is there, and none is empty."""
    lists = [data_dir / "lists" / f"{which}_list.mat" for which in ("file", "train", "test")]
    if not all(_filled(path) for path in lists):
        return False
    if archive == LISTS.name:
        return True
    part = "Images" if archive == IMAGES.name else "Annotation"
    paths = (data_dir / part / name for name in read_list(lists[0])[0])
    return all(_filled(path if part == "Images" else path.with_suffix("")) for path in paths)


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _downloaded(folder: Path, name: str) -> int:
    """Bytes of an archive that are on disk already."""
    paths = (folder / name, folder / f"{name}.part")
    return max((path.stat().st_size for path in paths if path.is_file()), default=0)
