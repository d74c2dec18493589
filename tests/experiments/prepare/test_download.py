"""`glimpse download` against a server on this machine, and on the real shards."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tyro
from PIL import Image

from encoders.weights.download import DownloadError
from experiments.prepare.download import DownloadConfig, download
from glimpse_env.datasets.errors import ArchiveError, DatasetNotFoundError
from glimpse_env.datasets.stanford_dogs import StanfordDogs

FOLDERS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
NAMES = {
    which: [f"{f}/{f[:9]}_{which}{i}.jpg" for f in FOLDERS for i in range(count)]
    for which, count in (("train", 5), ("test", 2))
}


def mat(names: list[str]) -> bytes:
    cells = np.array([*names, None], dtype=object)[:-1, None]  # None keeps it an array of objects
    labels = np.array([[1 + FOLDERS.index(name.split("/")[0])] for name in names], dtype=np.uint8)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"file_list": cells, "labels": labels})
    return buffer.getvalue()


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def image(index: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (index, 0, 0)).save(buffer, "jpeg")
    return buffer.getvalue()


class Site:
    """A folder of archives like the official ones, and the addresses it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.everything = NAMES["train"] + NAMES["test"]
        lists = {"train": NAMES["train"], "test": NAMES["test"], "file": self.everything}
        # The official lists have no folder of their own.
        tar(folder / "lists.tar", {f"{which}_list.mat": mat(n) for which, n in lists.items()})
        xml = b"<annotation><size><width>8</width><height>8</height></size></annotation>"
        tar(folder / "annotation.tar", {f"Annotation/{n[:-4]}": xml for n in self.everything})
        self.write_images(self.everything)
        self.requests: list[str] = []
        self.url = ""

    def write_images(self, names: list[str]) -> None:
        files = {f"Images/{name}": image(index) for index, name in enumerate(names)}
        tar(self.folder / "images.tar", files)

    @property
    def sha256(self) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.folder.iterdir()
        }

    def config(self, data_dir: Path, **changes: object) -> DownloadConfig:
        base = DownloadConfig(
            data_dir=data_dir, mirror=self.url, sha256=self.sha256, progress=False
        )
        return dataclasses.replace(base, **changes)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            site.requests.append(self.path)
            super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site.folder)))
    site.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def test_official_archives_become_the_official_layout(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "data"
    download(site.config(data_dir))
    assert sorted(path.name for path in data_dir.iterdir()) == ["Annotation", "Images", "lists"]
    assert site.requests == ["/lists.tar", "/annotation.tar", "/images.tar"]
    assert len(StanfordDogs(data_dir, "trainval")) == 10
    assert len(StanfordDogs(data_dir, "test")) == 4
    shown = capsys.readouterr().out
    assert "train 8 images of 2 breeds" in shown and str(data_dir) in shown


def test_second_run_fetches_nothing(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(site.config(tmp_path / "data"))
    site.requests.clear()
    download(site.config(tmp_path / "data"))
    assert site.requests == [] and "all there" in capsys.readouterr().out


def test_what_was_lost_is_fetched_again(site: Site, tmp_path: Path) -> None:
    download(site.config(tmp_path / "data", keep_archives=True))
    assert len(list((tmp_path / "data/archives").iterdir())) == 3
    data = StanfordDogs(tmp_path / "data")
    data.path(3).unlink()
    data.path(4).write_bytes(b"")
    (tmp_path / "data/archives/images.tar").unlink()
    site.requests.clear()
    download(site.config(tmp_path / "data"))
    assert site.requests == ["/images.tar"]
    assert StanfordDogs(tmp_path / "data").fingerprint == data.fingerprint


def test_archive_brought_by_other_means_is_used(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data/archives").mkdir(parents=True)
    shutil.copy(site.folder / "images.tar", tmp_path / "data/archives")
    download(site.config(tmp_path / "data"))
    assert site.requests == ["/lists.tar", "/annotation.tar"]


def test_without_an_override_other_files_are_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="bytes, not 481280"):
        download(site.config(tmp_path / "data", sha256={}))
    assert not (tmp_path / "data/lists").exists()


def test_wrong_hash_unpacks_nothing(site: Site, tmp_path: Path) -> None:
    hashes = {**site.sha256, "lists.tar": "0" * 64}
    with pytest.raises(DownloadError, match="0" * 64):
        download(site.config(tmp_path / "data", sha256=hashes))
    assert not (tmp_path / "data/lists").exists()


def test_absent_on_the_server_says_where_to_put_it(site: Site, tmp_path: Path) -> None:
    hashes = site.sha256
    (site.folder / "images.tar").unlink()
    with pytest.raises(DownloadError, match=r"404.*archives/images\.tar$"):
        download(site.config(tmp_path / "data", sha256=hashes))


def test_archive_that_lacks_listed_images(site: Site, tmp_path: Path) -> None:
    site.write_images(site.everything[:-1])
    with pytest.raises(ArchiveError, match="images.tar does not hold all"):
        download(site.config(tmp_path / "data"))


def test_full_disk_is_told_before_anything_is_fetched(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="make room"):
        download(site.config(tmp_path / "data"))
    assert site.requests == [] and not (tmp_path / "data").exists()


def test_weights_that_are_there_are_left_alone(
    bvlc_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / bvlc_weights.name
    here.symlink_to(bvlc_weights)
    # Nothing listens there, and nothing need.
    asked = DownloadConfig(
        what=("weights",), weights_dir=tmp_path, mirror="http://127.0.0.1:9", progress=False
    )
    download(asked)
    assert str(here) in capsys.readouterr().out
    here.unlink()
    here.write_bytes(b"another file")
    with pytest.raises(DownloadError, match="again later") as told:
        download(asked)
    assert "bytes are kept" not in str(told.value)


def test_weights(site: Site, tmp_path: Path) -> None:
    files = ("bvlc_googlenet.caffemodel", "googlenet-1378be20.pth")
    for name in files:
        (site.folder / name).write_bytes(name.encode())
    both = site.config(
        tmp_path / "data", what=("weights", "torchvision-weights"), weights_dir=tmp_path / "w"
    )
    download(both)
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == sorted(files)
    assert not (tmp_path / "data").exists()
    with pytest.raises(DownloadError, match="405fc5acd08a3bb12de8ee5e23a96bec22f08204"):
        download(dataclasses.replace(both, weights_dir=tmp_path / "v", sha256={}))
    torchvision = dataclasses.replace(both, what=("torchvision-weights",), sha256={})
    with pytest.raises(DownloadError, match="not 1378be20"):
        download(dataclasses.replace(torchvision, weights_dir=tmp_path / "v"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"what": ("weights",), "from_shards": Path("x")}, "from-shards"),
        ({"originals": True}, "from-shards"),
        ({"sha256": {"image.tar": "0" * 64}}, "images.tar"),
    ],
)
def test_options_that_contradict(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        download(dataclasses.replace(DownloadConfig(progress=False), **changes))


def test_command_line() -> None:
    assert tyro.cli(DownloadConfig, args=[]).what == ("dogs",)
    config = tyro.cli(
        DownloadConfig,
        args=[
            "weights",
            "dogs",
            "--data-dir",
            "d",
            "--sha256",
            "images.tar",
            "0f",
            "--no-progress",
        ],
    )
    assert config.what == ("weights", "dogs") and config.data_dir == Path("d")
    assert config.sha256 == {"images.tar": "0f"} and not config.progress


@pytest.fixture
def shards(tmp_path: Path, site: Site) -> Path:
    """The same dogs as archives of parts: two of images, one of originals."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(site.folder / "lists.tar") as lists:
        files = {f"lists/{m.name}": lists.extractfile(m).read() for m in lists}  # type: ignore[union-attr]
    tar(folder / "lists.tar.gz", files)
    for part in range(2):
        names = NAMES["train"][part::2]
        tar(
            folder / f"images-train-{part}.tar",
            {f"Images/{name}": image(i) for i, name in enumerate(names)},
        )
    tar(folder / "originals-sample.tar", {f"Images/{NAMES['train'][0]}": image(0, side=32)})
    return folder


def test_shards(
    shards: Path, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DownloadConfig(data_dir=tmp_path / "data", from_shards=shards, progress=False)
    download(config)
    assert "test  no images" in capsys.readouterr().out
    data = StanfordDogs(tmp_path / "data", "trainval")
    assert len(data) == 10 and data.image(0).shape == (8, 8, 3)
    before = data.path(0).stat().st_mtime_ns
    download(config)
    assert "all there" in capsys.readouterr().out
    assert data.path(0).stat().st_mtime_ns == before
    download(dataclasses.replace(config, originals=True))
    assert data.image(0).shape == (32, 32, 3) and data.image(1).shape == (8, 8, 3)
    assert site.requests == []


def test_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="images"):
        download(DownloadConfig(data_dir=tmp_path / "data", from_shards=tmp_path, progress=False))


def test_real_shards(
    dogs_archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Links to a part of the archives: two shards are as good as four, and quicker.
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for name in ("lists.tar.gz", "images-train-1.tar", "originals-sample.tar"):
        (chosen / name).symlink_to(dogs_archives / name)
    config = DownloadConfig(
        data_dir=tmp_path / "data", from_shards=chosen, originals=True, progress=False
    )
    download(config)
    data = StanfordDogs(tmp_path / "data", "trainval", allow_missing=True)
    assert 2900 < len(data) < 3200 and len(data) + data.num_missing == 12_000
    shown = capsys.readouterr().out
    assert "of 120 breeds" in shown and "test  no images" in shown
    names = {data.name(i): i for i in range(len(data))}
    odd = data.image(names["n02105855-Shetland_sheepdog/n02105855_2933.jpg"])  # a PNG with alpha
    assert odd.ndim == 3 and odd.shape[2] == 3 and odd.std() > 5
