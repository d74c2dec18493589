"""Unpacking of dataset archives: nothing outside the folder, nothing half unpacked."""

from __future__ import annotations

import bz2
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
from typing import Any

from tqdm import tqdm

from glimpse_env.datasets.errors import ArchiveError

# All of Stanford Dogs is 41,000 files and 1 GiB; an archive far beyond that is no data set, but
# made to fill a disk.
MAX_MEMBERS = 1_000_000
"""Files and folders that an archive may hold."""
MAX_BYTES = 64 * 2**30
"""Bytes that its files may take once unpacked, together."""
MAX_NAME = 1024
"""Bytes of a member's name."""
MAX_DEPTH = 32
"""Folders inside one another."""
# tarfile reads a header's extension at once, whatever size it claims; files it copies in parts.
_MAX_READ = 2**20


def unpack(
    archive: str | os.PathLike[str], folder: str | os.PathLike[str], *, progress: bool = False
) -> int:
    """Unpack a tar archive (plain or compressed) into a folder, all of it or nothing.

    Members go to a hidden folder beside their destination first, and are moved into place once the
    archive has been read to its end; files of the same name are replaced. The `data` filter of
    `tarfile` applies; absolute names, `..`, links and devices, which no archive of images needs,
    are refused outright rather than mended, and so is an archive beyond `MAX_MEMBERS`, `MAX_BYTES`,
    `MAX_NAME` or `MAX_DEPTH`.

    Args:
        archive: The archive; its compression is recognised by content.
        folder: Where to; made if absent.
        progress: Whether to show a progress bar.

    Returns:
        The number of files unpacked.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short, holds a member that is refused or is too large,
            or has a file where the folder has a folder (or the reverse).
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
        try:
            _merge(staging, folder)
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise ArchiveError(
                f"{archive} has a file where {folder} has a folder, or a folder for a file "
                f"({error.filename2 or error.filename}): unpack it in another folder"
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return files


def unpacked_size(archive: str | os.PathLike[str]) -> int:
    """Return the bytes that an archive takes on disk once unpacked, in whole blocks of 4 KiB.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short, or `unpack` refuses it.
    """
    with _opened(Path(archive)) as tar:
        members = _members(Path(archive), tar)
        return sum(-(-member.size // 4096) * 4096 for member in members if member.isfile())


def file_names(archive: str | os.PathLike[str]) -> list[str]:
    """Return the names of the files in an archive.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short, or `unpack` refuses it.
    """
    with _opened(Path(archive)) as tar:
        return [member.name for member in _members(Path(archive), tar) if member.isfile()]


def is_unpacked(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder holds every file of an archive, each of the same size.

    Raises:
        FileNotFoundError: If there is no such archive.
        ArchiveError: If it is broken or cut short, or `unpack` refuses it.
    """
    with _opened(Path(archive)) as tar:
        for member in _members(Path(archive), tar):
            path = Path(folder, member.name)
            if member.isfile() and not (path.is_file() and path.stat().st_size == member.size):
                return False
    return True


class _Content:
    """The bytes of an archive, compressed or not; none of it is read in large parts."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(b"\x1f\x8b"):
            self._file: Any = gzip.open(path)
        elif magic.startswith(b"BZh"):
            self._file = bz2.open(path)
        elif magic.startswith(b"\xfd7zXZ\0"):
            self._file = lzma.open(path)
        else:
            self._file = path.open("rb")
        self.tell, self.close = self._file.tell, self._file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        if not 0 <= position <= MAX_BYTES + MAX_MEMBERS * _MAX_READ:
            raise tarfile.ReadError(f"a member at byte {position}")
        return self._file.seek(position, whence)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive; whatever is wrong in it becomes an `ArchiveError`."""
    content: Any = None
    try:
        content = _Content(archive)
        with tarfile.open(fileobj=content, mode="r:") as tar:
            yield tar
    except (
        tarfile.TarError,
        EOFError,
        gzip.BadGzipFile,
        zlib.error,
        lzma.LZMAError,
        ArithmeticError,  # a time beyond the clock's range
        LookupError,  # and what follows: headers that tarfile takes at their word
        TypeError,
        ValueError,
    ) as error:
        raise ArchiveError(
            f"{archive} is broken or cut short ({error}): delete it and fetch it again"
        ) from error
    except OSError as error:
        if isinstance(error, ArchiveError) or error.errno is not None:
            raise
        raise ArchiveError(  # bz2's way to say it
            f"{archive} is broken or cut short ({error}): delete it and fetch it again"
        ) from error
    finally:
        if content is not None:
            content.close()


def _members(archive: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members in order; raise at the first that is unsafe, or one too many."""
    count = size = 0
    for member in tar:
        _refuse_unsafe(archive, member)
        count, size = count + 1, size + member.size
        if count > MAX_MEMBERS or size > MAX_BYTES:
            raise ArchiveError(
                f"{archive} holds more than {MAX_MEMBERS:,} files or {MAX_BYTES:,} bytes: do not "
                "use this archive"
            )
        yield member
        # Else tarfile keeps every header until the end.
        tar.members = []  # type: ignore[attr-defined]
    # tarfile takes a cut between two members, or a damaged header, for the end; a whole archive
    # ends in zeros.
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the end is not there")


def _extract(archive: Path, staging: Path, progress: bool) -> int:
    """Extract every member below `staging`; count the files."""
    files = 0
    with (
        _opened(archive) as tar,
        tqdm(desc=f"unpacking {archive.name}", unit=" files", disable=not progress) as bar,
    ):
        for member in _members(archive, tar):
            try:
                tar.extract(member, staging, filter="data")
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                raise tarfile.ReadError(f"{member.name!r} is both a file and a folder") from error
            if member.isfile():
                files += 1
                bar.update()
    return files


def _refuse_unsafe(archive: Path, member: tarfile.TarInfo) -> None:
    """Raise if a member could land outside the folder, or is neither a file nor a folder."""
    windows, posix = PureWindowsPath(member.name), PurePosixPath(member.name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ArchiveError(
            f"{archive} holds {member.name!r}, which lies outside the folder it is unpacked into: "
            "do not use this archive"
        )
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise ArchiveError(
            f"{archive} holds {member.name!r}, a link or a device: do not use this archive"
        )
    parts = [len(os.fsencode(part)) for part in posix.parts]
    if (
        len(os.fsencode(member.name)) > MAX_NAME
        or len(parts) > MAX_DEPTH
        or max(parts, default=0) > 255  # what file systems take
        or (member.isfile() and not posix.parts)
        or not member.name.isprintable()
    ):
        raise ArchiveError(
            f"{archive} holds {member.name[:80]!r}, a name that is no file's: do not use this "
            "archive"
        )
    if member.size < 0:
        raise ArchiveError(f"{archive} is broken: {member.name!r} has a size below nothing")


def _merge(source: Path, destination: Path) -> None:
    """Move what `source` holds into `destination`, merging folders and replacing files."""
    for entry in sorted(source.iterdir()):
        target = destination / entry.name
        if entry.is_dir() and target.is_dir():
            _merge(entry, target)
        else:
            os.replace(entry, target)
