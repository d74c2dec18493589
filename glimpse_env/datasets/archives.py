"""Unpacking of dataset archives: nothing outside the folder, nothing half unpacked."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from glimpse_env.datasets.errors import ArchiveError


def unpack(
    archive: str | os.PathLike[str], folder: str | os.PathLike[str], *, progress: bool = False
) -> int:
    """Unpack a tar archive (plain or compressed) into a folder, all of it or nothing.

    Members go to a hidden folder beside their destination first, and are moved into place once the
    archive has been read to its end; files of the same name are replaced. The `data` filter of
    `tarfile` applies; absolute names, `..`, links and devices, which no archive of pictures needs,
    are refused outright rather than mended.

    Args:
        archive: The archive; its compression is recognised by content.
        folder: Where to; made if absent.
        progress: Whether to show a progress bar.

    Returns:
        The number of files unpacked.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short, or holds a member that is refused.
        RuntimeError: If this Python has no tar extraction filters.
    """
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError(
            "this Python cannot unpack archives safely (tarfile has no extraction filters): "
            "update to Python 3.10.12, 3.11.4, 3.12 or newer"
        )
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
    try:
        files = _extract(archive, staging, progress)
        _merge(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return files


def unpacked_size(archive: str | os.PathLike[str]) -> int:
    """Return the bytes that an archive takes on disk once unpacked, in whole blocks of 4 KiB.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short.
    """
    with _opened(Path(archive)) as tar:
        return sum(-(-member.size // 4096) * 4096 for member in tar if member.isfile())


def file_names(archive: str | os.PathLike[str]) -> list[str]:
    """Return the names of the files in an archive.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short.
    """
    with _opened(Path(archive)) as tar:
        return [member.name for member in tar if member.isfile()]


def is_unpacked(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder holds every file of an archive, each of the same size.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short, or holds a member that `unpack` refuses.
    """
    with _opened(Path(archive)) as tar:
        for member in tar:
            _refuse_unsafe(Path(archive), member)
            path = Path(folder, member.name)
            if member.isfile() and not (path.is_file() and path.stat().st_size == member.size):
                return False
    return True


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive; whatever is wrong in it becomes an `ArchiveError`."""
    try:
        with tarfile.open(archive, "r:*") as tar:
            yield tar
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(
            f"{archive} is broken or cut short ({error}): delete it and fetch it again"
        ) from error


def _extract(archive: Path, staging: Path, progress: bool) -> int:
    """Extract every member below `staging`; count the files."""
    files = 0
    with (
        _opened(archive) as tar,
        tqdm(desc=f"unpacking {archive.name}", unit=" files", disable=not progress) as bar,
    ):
        for member in tar:
            _refuse_unsafe(archive, member)
            tar.extract(member, staging, filter="data")
            if member.isfile():
                files += 1
                bar.update()
        # tarfile takes a cut between two members for the end; a whole archive ends in zeros.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the end is not there")
    return files


def _refuse_unsafe(archive: Path, member: tarfile.TarInfo) -> None:
    """Raise if a member could land outside the folder, or is neither a file nor a folder."""
    windows, posix = PureWindowsPath(member.name), PurePosixPath(member.name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ArchiveError(
            f"{archive} holds {member.name!r}, which lies outside the folder it is unpacked into: "
            "do not use this archive"
        )
    if not (member.isfile() or member.isdir()):
        raise ArchiveError(
            f"{archive} holds {member.name!r}, a link or a device: do not use this archive"
        )


def _merge(source: Path, destination: Path) -> None:
    """Move what `source` holds into `destination`, merging folders and replacing files."""
    for entry in sorted(source.iterdir()):
        target = destination / entry.name
        if entry.is_dir() and target.is_dir():
            _merge(entry, target)
        else:
            os.replace(entry, target)
