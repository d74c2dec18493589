"""Downloads that resume after an interruption, are verified, and appear only when whole.

Bytes go to `NAME.part` beside the destination. A later call, or a retry within the call, asks the
server for the rest (HTTP Range); `NAME.part.tag` keeps the server's version tag, so that the rest
of a changed file is not put behind the beginning of the old one (If-Range).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import string
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from encoders.folders import check_room

_CHUNK = 1 << 18
# Answers that may be another a moment later.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadError(OSError):
    """A file could not be downloaded, or is not the one expected."""


class _InterruptedTransferError(Exception):
    """The connection failed or ended early; trying again may help."""


def download_file(
    url: str,
    destination: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    sha1: str | None = None,
    size: int | None = None,
    progress: bool = True,
    retries: int = 5,
    backoff: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Download a file, or return at once if it is there already.

    Args:
        url: An http or https address.
        destination: Where the file goes; its folder is made if absent.
        sha256: Expected hash, or its first eight digits or more.
        sha1: The same in SHA-1, for files whose publishers give only that.
        size: Expected size in bytes.
        progress: Whether to show a progress bar.
        retries: Failures in a row, without a byte gained, after which to give up.
        backoff: Pause before the first retry in seconds; doubles with each failure.
        timeout: Silence of the server in seconds that counts as a failure.

    Returns:
        The destination.

    Raises:
        ValueError: If the address or a hash is not one.
        DownloadError: If the server refuses, the connection keeps failing, the disk is too small,
            or the file (new or already there) has another size or hash than expected.

    Example:
        >>> download_file("https://example.org/file.zip", Path("file.zip"))  # doctest: +SKIP
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"url must be an http or https address, got {url!r}")
    for digits, full in ((sha256, 64), (sha1, 40)):
        if digits is not None and not (
            8 <= len(digits) <= full and set(digits) <= set(string.hexdigits)
        ):
            raise ValueError(f"a hash is 8 to {full} hexadecimal digits, got {digits!r}")
    destination = Path(destination)
    if destination.exists():
        problem = _mismatch(destination, sha256, sha1, size)
        if problem:
            raise DownloadError(
                f"{destination} is there already but {problem}: delete it to download it again"
            )
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    tag = destination.with_name(destination.name + ".part.tag")
    _transfer_with_retries(url, part, tag, size, progress, retries, backoff, timeout)
    problem = _mismatch(part, sha256, sha1, size)
    tag.unlink(missing_ok=True)
    if problem:
        part.unlink()
        raise DownloadError(
            f"what {url} sent {problem}; it was deleted. Try again, and if it happens again the "
            "file there has changed or was tampered with"
        )
    os.replace(part, destination)
    return destination


def _transfer_with_retries(
    url: str,
    part: Path,
    tag: Path,
    size: int | None,
    progress: bool,
    retries: int,
    backoff: float,
    timeout: float,
) -> None:
    """Fill `part` to the end; only failures without progress count towards giving up."""
    failures, furthest = 0, _size(part)
    while True:
        try:
            _transfer(url, part, tag, size, progress, timeout)
            return
        except _InterruptedTransferError as error:
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures > retries:
                again = "run the same command again later"
                if _size(part):
                    again = (
                        f"{_size(part)} bytes are kept in {part}; run the same command again to "
                        "resume"
                    )
                raise DownloadError(f"cannot download {url} ({error}): {again}") from error
            time.sleep(min(backoff * 2 ** max(failures - 1, 0), 60.0))


def _transfer(
    url: str, part: Path, tag: Path, size: int | None, progress: bool, timeout: float
) -> None:
    """Ask once for what is lacking in `part` and append it.

    Raises:
        _InterruptedTransferError: If trying again may help.
        DownloadError: If it will not.
    """
    start = _size(part)
    if size is not None and start == size:
        return
    if size is not None and start > size:
        start = _discard(part, tag)
    headers = {"User-Agent": "glimpse-env"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="utf-8")
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                # Nothing lies beyond `start`: the part is whole, or is none of this file.
                if _total(error.headers.get("Content-Range")) == start:
                    return
                _discard(part, tag)
                raise _InterruptedTransferError("the part on disk did not fit the file") from error
            if error.code in _PASSING:
                raise _InterruptedTransferError(f"HTTP {error.code} {error.reason}") from error
            raise DownloadError(
                f"cannot download {url}: the server answers {error.code} {error.reason}. Fetch the "
                f"file by other means and put it at {part.with_suffix('')}"
            ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedTransferError(str(error) or repr(error)) from error

    with response:
        resumed = response.status == 206
        content_range = response.headers.get("Content-Range", "")
        if resumed and not content_range.startswith(f"bytes {start}-"):
            _discard(part, tag)
            raise _InterruptedTransferError(f"asked for byte {start} on, got {content_range!r}")
        if not resumed:
            start = _discard(part, tag)  # the server ignores ranges, or the file has changed
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else size
        if total is not None:
            try:
                check_room(part.parent, total - start)
            except OSError as error:
                raise DownloadError(error.strerror) from error
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if version and not version.startswith("W/"):  # a weak tag does not promise equal bytes
            tag.write_text(version, encoding="utf-8")
        with (
            part.open("ab") as file,
            tqdm(
                desc=part.with_suffix("").name,
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=not progress,
            ) as bar,
        ):
            while True:
                try:
                    chunk = response.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _InterruptedTransferError(str(error) or repr(error)) from error
                if not chunk:
                    break
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _InterruptedTransferError(f"the connection ended at {_size(part)} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(part: Path, tag: Path) -> int:
    """Forget what was downloaded; return the offset to start from."""
    part.unlink(missing_ok=True)
    tag.unlink(missing_ok=True)
    return 0


def _total(content_range: str | None) -> int | None:
    """Size of the whole file in a header such as `bytes */1234`, if it says."""
    match = re.fullmatch(r"bytes .*/(\d+)", content_range or "")
    return int(match.group(1)) if match else None


def _mismatch(path: Path, sha256: str | None, sha1: str | None, size: int | None) -> str | None:
    """Say how a file differs from what was expected; None if it does not."""
    if size is not None and _size(path) != size:
        return f"has {_size(path)} bytes, not {size}"
    for name, expected in (("sha256", sha256), ("sha1", sha1)):
        if expected is not None:
            digest = hashlib.new(name)
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            if not digest.hexdigest().startswith(expected.lower()):
                return f"has {name} {digest.hexdigest()}, not {expected}"
    return None
