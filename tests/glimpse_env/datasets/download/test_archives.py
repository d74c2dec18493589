from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from glimpse_env.datasets.download.archives import is_unpacked, unpack, unpacked_size
from glimpse_env.datasets.errors import ArchiveError

FILES = {"Images/a/1.jpg": b"one", "Images/b/2.jpg": b"second", "lists/x.mat": b""}


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_unpacks_by_content_whatever_the_name(tmp_path: Path, mode: str) -> None:
    archive = write_tar(tmp_path / "archive.bin", FILES, mode)
    assert unpack(archive, tmp_path / "out") == 3
    assert tree(tmp_path / "out") == FILES


def test_merges_into_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    unpack(write_tar(tmp_path / "1.tar", FILES), out)
    unpack(write_tar(tmp_path / "2.tar", {"Images/a/3.jpg": b"3", "Images/a/1.jpg": b"new"}), out)
    assert tree(out) == {**FILES, "Images/a/3.jpg": b"3", "Images/a/1.jpg": b"new"}


@pytest.mark.parametrize(
    "name", ["../out.jpg", "Images/../../out.jpg", "/tmp/out.jpg", "C:/out.jpg", "..\\out.jpg"]
)
def test_member_that_leads_out_is_refused_and_nothing_kept(tmp_path: Path, name: str) -> None:
    archive = write_tar(tmp_path / "bad.tar", {"Images/fine.jpg": b"fine", name: b"evil"})
    with pytest.raises(ArchiveError, match="outside"):
        unpack(archive, tmp_path / "inner" / "out")
    assert tree(tmp_path / "inner") == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo("Images/link")
        member.type, member.linkname = kind, "../../outside"
        tar.addfile(member)
    with pytest.raises(ArchiveError, match="link or a device"):
        unpack(tmp_path / "bad.tar", tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archive_cut_short_leaves_nothing(tmp_path: Path, mode: str) -> None:
    archive = write_tar(tmp_path / "cut.tar", {"a": os.urandom(50_000), "b": b"b"}, mode)
    archive.write_bytes(archive.read_bytes()[:30_000])
    with pytest.raises(ArchiveError, match="cut.tar is broken or cut short"):
        unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_archive_cut_between_two_members_is_noticed(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "cut.tar", {"a": bytes(512), "b": bytes(512)})
    archive.write_bytes(archive.read_bytes()[: 2 * 512])  # header and content of "a"
    with pytest.raises(ArchiveError, match="cut short"):
        unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "page.tar").write_text("<html>not found</html>")
    with pytest.raises(ArchiveError, match="page.tar"):
        unpack(tmp_path / "page.tar", tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "absent.tar", tmp_path / "out")


def test_python_without_filters_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(RuntimeError, match="3.10.12"):
        unpack(write_tar(tmp_path / "a.tar", FILES), tmp_path / "out")


def test_files_of_odd_modes_stay_readable(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("a")
        member.size, member.mode, member.uid = 1, 0o4007, 12345
        tar.addfile(member, io.BytesIO(b"a"))
    unpack(tmp_path / "a.tar", tmp_path / "out")
    status = (tmp_path / "out" / "a").stat()
    assert status.st_mode & 0o600 == 0o600 and not status.st_mode & 0o4000


def test_is_unpacked_sees_absent_and_changed_files(tmp_path: Path) -> None:
    archive, out = write_tar(tmp_path / "a.tar.gz", FILES, "w:gz"), tmp_path / "out"
    assert not is_unpacked(archive, out)
    unpack(archive, out)
    assert is_unpacked(archive, out)
    (out / "Images/a/1.jpg").write_bytes(b"longer than one")
    assert not is_unpacked(archive, out)
    (out / "Images/a/1.jpg").unlink()
    assert not is_unpacked(archive, out)


def test_unpacked_size_counts_whole_blocks(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", {"a": bytes(1), "b": bytes(4096), "c": bytes(4097)})
    assert unpacked_size(archive) == 4096 * (1 + 1 + 2)
