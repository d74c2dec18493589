"""Downloads against a server on this machine that can be told to misbehave."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from encoders.weights.download import DownloadError, download_file

CONTENT = np.random.default_rng(0).bytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA1 = hashlib.sha1(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; the attributes make it misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = True  # honour Range
        self.cuts: list[int] = []  # one request each: bytes sent before the connection drops
        self.statuses: list[int] = []  # one request each: answer with this status
        self.requests: list[dict[str, str]] = []
        self.wrong_range = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        if server.statuses and (status := server.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        start, content = 0, server.content
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        changed = self.headers.get("If-Range", server.etag) != server.etag
        if match and server.ranges and not changed:
            start = int(match.group(1))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            shown = start - 7 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start : start + cut])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(server: Server, destination: Path, **options: object) -> Path:
    return download_file(
        server.url, destination, **{"progress": False, "backoff": 0.001, "timeout": 5.0, **options}
    )


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_downloads_verifies_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    assert get(server, target, sha256=SHA256, sha1=SHA1, size=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert only_file(target.parent) == target


def test_second_call_asks_nothing(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "f", sha256=SHA256)
    get(server, tmp_path / "f", sha256=SHA256)
    assert len(server.requests) == 1


def test_leading_digits_of_a_hash_are_enough(server: Server, tmp_path: Path) -> None:
    assert get(server, tmp_path / "f", sha256=SHA256[:8].upper()).read_bytes() == CONTENT


def test_dropped_connections_are_resumed_within_one_call(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 250_000]
    get(server, tmp_path / "f", sha256=SHA256)
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=350000-"]
    assert only_file(tmp_path).read_bytes() == CONTENT


def test_gives_up_and_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 0, 0]
    with pytest.raises(DownloadError, match="again to resume"):
        get(server, tmp_path / "f", retries=1)
    assert not (tmp_path / "f").exists()
    assert (tmp_path / "f.part").stat().st_size == 100_000
    get(server, tmp_path / "f", sha256=SHA256)
    assert server.requests[-1]["Range"] == "bytes=100000-"
    assert only_file(tmp_path).read_bytes() == CONTENT


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [100_000]
    get(server, tmp_path / "f", sha256=SHA256)
    assert [request.get("Range") for request in server.requests] == [None, "bytes=100000-"]
    assert only_file(tmp_path).read_bytes() == CONTENT


def test_server_without_ranges_that_always_drops_is_given_up(
    server: Server, tmp_path: Path
) -> None:
    server.ranges, server.cuts = False, [100_000] * 50
    with pytest.raises(DownloadError, match="100000 of 700000"):
        get(server, tmp_path / "f", retries=2)
    assert len(server.requests) == 4  # one with progress, then three without


def test_changed_file_is_not_put_behind_the_old_beginning(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 0]
    with pytest.raises(DownloadError):
        get(server, tmp_path / "f", retries=0)
    server.content, server.etag, server.cuts = bytes(500_000), '"two"', []
    get(server, tmp_path / "f")
    assert only_file(tmp_path).read_bytes() == bytes(500_000)


def test_weak_tag_is_not_used_to_resume(server: Server, tmp_path: Path) -> None:
    server.etag, server.cuts = 'W/"one"', [100_000]
    get(server, tmp_path / "f", sha256=SHA256)
    assert "If-Range" not in server.requests[1]


def test_wrong_range_in_the_answer_starts_over(server: Server, tmp_path: Path) -> None:
    server.wrong_range, server.cuts = True, [100_000]
    get(server, tmp_path / "f", sha256=SHA256)
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-", None]


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
def test_part_that_is_already_whole(server: Server, tmp_path: Path, known: bool) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT)
    get(server, tmp_path / "f", sha256=SHA256, size=len(CONTENT) if known else None)
    assert len(server.requests) == (0 if known else 1)
    assert only_file(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
def test_part_that_is_too_long_starts_over(server: Server, tmp_path: Path, known: bool) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT + b"x")
    get(server, tmp_path / "f", sha256=SHA256, size=len(CONTENT) if known else None)
    assert only_file(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
def test_wrong_hash_names_both_and_keeps_nothing(
    server: Server, tmp_path: Path, algorithm: str
) -> None:
    expected = "0" * (64 if algorithm == "sha256" else 40)
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path / "f", **{algorithm: expected})
    assert expected in str(caught.value)
    assert {"sha256": SHA256, "sha1": SHA1}[algorithm] in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_size_names_both_and_keeps_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="700000 bytes, not 1000000"):
        get(server, tmp_path / "f", size=1_000_000)
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_another_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="delete it"):
        get(server, tmp_path / "f", sha256=SHA256)
    assert (tmp_path / "f").read_bytes() == b"mine" and not server.requests


@pytest.mark.parametrize("status", [403, 404])
def test_refusal_is_not_retried(server: Server, tmp_path: Path, status: int) -> None:
    server.statuses = [status] * 9
    with pytest.raises(DownloadError, match=rf"answers {status}.*put it at .*f$"):
        get(server, tmp_path / "f")
    assert len(server.requests) == 1


def test_busy_server_is_retried(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    assert get(server, tmp_path / "f", sha256=SHA256).read_bytes() == CONTENT


def test_nobody_listening(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(DownloadError, match="again later"):
        download_file(url, tmp_path / "f", progress=False, retries=1, backoff=0.001)


def test_full_disk_is_told_before_writing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="make room"):
        get(server, tmp_path / "f")
    assert not (tmp_path / "f.part").exists()


@pytest.mark.parametrize(
    ("url", "options"),
    [("file:///etc/hostname", {}), ("http://127.0.0.1/f", {"sha256": "not a hash"})],
)
def test_nonsense_is_refused(tmp_path: Path, url: str, options: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        download_file(url, tmp_path / "f", **options)
