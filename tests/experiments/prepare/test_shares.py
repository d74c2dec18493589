"""Banks in shares: the same bytes as by one process, whoever dies meanwhile."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders.bank.chunks import read_done
from encoders.bank.description import BankMismatchError
from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder, make_encoder
from experiments.cluster.config import ClusterConfig
from experiments.prepare import (
    bank as bank_module,
    pyramids as pyramids_module,
    shares as shares_module,
    transfer,
)
from experiments.prepare.bank import BankBuilder, bank, build_bank
from experiments.prepare.config import BankConfig, PyramidsConfig, parse_share
from experiments.prepare.leases import Leases
from experiments.prepare.shares import build_shares, merge_bank, share_done
from experiments.runtime.runs import RunError
from glimpse_env.pyramids.mapped import PyramidsMismatchError
from tests.experiments.prepare.test_bank import Images, MeansMap

CONFIG = BankConfig(
    out=Path(),
    splits=("train",),
    side=3,
    low_side=2,
    context_grid=3,
    chunk=1,
    workers=1,
    context="few",
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder(MeansMap(), device="cpu")


@pytest.fixture(autouse=True)
def small(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six small images, an encoder that takes no time."""
    monkeypatch.setattr(bank_module, "build_dataset", lambda data, split: Images())
    monkeypatch.setattr(shares_module, "build_encoder", lambda *a, **k: encoder)
    monkeypatch.setattr(shares_module, "_WAIT_SECONDS", 0.01)


@pytest.fixture
def whole(encoder: Encoder, tmp_path: Path) -> Path:
    return build_bank(replace(CONFIG, out=tmp_path / "whole"), "train", encoder).folder


def content(folder: Path) -> dict[str, bytes]:
    """All files of a bank but locks."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")
    }


def shared(out: Path, share: str) -> None:
    build_shares(replace(CONFIG, out=out, share=share))


def test_shares_on_disks_of_their_own_merge_into_the_whole(tmp_path: Path, whole: Path) -> None:
    folders = tuple(tmp_path / f"part-{i}" for i in (1, 2, 3))
    for i, folder in enumerate(folders):
        shared(folder, f"{i + 1}/3")
        assert read_done(folder / "train").tolist() == [int(c % 3 == i) for c in range(6)]
        assert share_done(replace(CONFIG, out=folder, share=f"{i + 1}/3"))
        assert not share_done(replace(CONFIG, out=folder, share=f"{(i + 1) % 3 + 1}/3"))
    bank(replace(CONFIG, out=tmp_path / "merged", merge=folders))
    assert content(tmp_path / "merged" / "train") == content(whole)


def test_shares_in_one_folder_help_one_that_died(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, build = tmp_path / "b", BankBuilder.build_image

    def dies(self: BankBuilder, image: int, into: dict) -> None:
        if image == 3:
            raise KeyboardInterrupt
        build(self, image, into)

    with monkeypatch.context() as patch:
        patch.setattr(BankBuilder, "build_image", dies)
        with pytest.raises(KeyboardInterrupt):
            shared(out, "1/3")
    assert read_done(out / "train").tolist() == [1, 0, 0, 0, 0, 0]
    shared(out, "2/3")  # does its own, and what the first has left
    assert read_done(out / "train").tolist() == [1, 1, 0, 1, 1, 0]
    shared(out, "3/3")
    assert content(out / "train") == content(whole)
    shared(out, "1/3")  # begun again, it finds nothing to do
    assert content(out / "train") == content(whole)


def test_a_piece_that_somebody_holds_is_left_to_them_until_they_die(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases", seconds=30)
    with leases.held(1) as ours, leases.held(2) as other, leases.held(1) as again:
        assert (ours, other, again) == (True, True, False)
    with leases.held(1) as ours:
        assert ours  # given back
        path = tmp_path / "leases" / "1.lease"
        long_ago = time.time() - 3600
        os.utime(path, (long_ago, long_ago))
        with leases.held(1) as again:
            assert again  # no sign of life
    assert not list((tmp_path / "leases").glob("*.lease"))


def test_a_holder_gives_signs_of_life(tmp_path: Path) -> None:
    leases = Leases(tmp_path, seconds=0.6)
    with leases.held(1):
        path = tmp_path / "1.lease"
        first = path.stat().st_mtime_ns
        deadline = time.monotonic() + 60
        while path.stat().st_mtime_ns == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_does_not_fit_together_is_told(tmp_path: Path, whole: Path, encoder: Encoder) -> None:
    shared(tmp_path / "one", "1/2")
    merge = replace(CONFIG, out=tmp_path / "merged", merge=(tmp_path / "one",))
    with pytest.raises(RunError, match=r"3 of 6 chunks of train are in none .* \(1, 3, 5\)"):
        merge_bank(merge, "train")
    # Merged again with what was missing it goes on.
    assert merge_bank(replace(merge, merge=(tmp_path / "one", whole.parent)), "train").complete
    build_bank(replace(CONFIG, out=tmp_path / "other", side=2, low_side=None), "train", encoder)
    with pytest.raises(BankMismatchError, match="different banks; they differ in: .*fixations"):
        merge_bank(replace(merge, merge=(tmp_path / "one", tmp_path / "other")), "train")
    damaged = FeatureBank.open(whole).folder / "context.f16"
    damaged.write_bytes(b"\1" * damaged.stat().st_size)
    with pytest.raises(BankMismatchError, match="disagree about chunk 0: .*leave one of them out"):
        merge_bank(replace(merge, merge=(tmp_path / "one", whole.parent)), "train")


@pytest.mark.parametrize("share", ["", "3", "0/2", "3/2", "a/b", "1/2/3", "-1/2"])
def test_a_share_is_one_of_several(share: str) -> None:
    with pytest.raises(ValueError, match="give I/N"):
        replace(CONFIG, share=share)
    assert parse_share("2/2") == (2, 2)


def test_what_excludes_one_another_is_told() -> None:
    with pytest.raises(ValueError, match="exclude one another"):
        replace(CONFIG, share="1/2", merge=(Path("a"),))


def test_every_gpu_of_a_machine_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert bank_module.worker_devices(CONFIG, gpu) == ["cuda:0", "cuda:1", "cuda:2"]
    assert bank_module.worker_devices(replace(CONFIG, device="cuda:1"), gpu) == ["cuda:1"]
    assert bank_module.worker_devices(replace(CONFIG, workers=2), cpu) == ["auto", "auto"]


# -- on a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that a cluster was to write into, by jobs that do nothing."""
    found: list[Path] = []

    def run_jobs(jobs: object, on: object, *, out: Path, device: str = "auto") -> None:
        found.append(out)

    for module in (shares_module, pyramids_module):
        monkeypatch.setattr(module, "run_jobs", run_jobs)
    return found


ON = ClusterConfig(cluster="slurm")


def test_a_cluster_does_not_take_another_bank_for_the_one_asked_for(
    whole: Path, started: list[Path]
) -> None:
    config = replace(CONFIG, out=whole.parent, on=ON)
    with pytest.raises(BankMismatchError, match="holds another bank; it differs in: .*fixations"):
        bank(replace(config, side=2, low_side=None))
    assert not started
    bank(config)
    assert started == [whole.parent]  # what SLURM writes lies in the bank's own folder


def test_a_cluster_does_not_take_other_pyramids_for_those_asked_for(
    tmp_path: Path, started: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramids_module, "build_dataset", lambda data, split: Images())
    config = PyramidsConfig(out=tmp_path, splits=("train",), resolutions=("low",), workers=1)
    pyramids_module.pyramids(config)
    with pytest.raises(PyramidsMismatchError, match="holds the levels low, not low, high"):
        pyramids_module.pyramids(replace(config, resolutions=("low", "high"), on=ON))
    other = Images(fingerprint="others")
    monkeypatch.setattr(pyramids_module, "build_dataset", lambda data, split: other)
    with pytest.raises(PyramidsMismatchError, match="fingerprint"):
        pyramids_module.pyramids(replace(config, on=ON))
    assert not started


# -- to and from other places ---------------------------------------------------------------------


def test_a_bank_goes_to_a_folder_and_comes_back(tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("fsspec")
    address = str(tmp_path / "store")
    bank(replace(CONFIG, out=whole.parent, merge=(whole.parent,), to=address))
    bank(replace(CONFIG, out=tmp_path / "back", fetched_from=address))
    assert content(tmp_path / "back" / "train") == content(whole)
    damaged = tmp_path / "store" / "train" / "glimpse.f16"
    damaged.write_bytes(b"\1" * damaged.stat().st_size)
    transfer.fetch(address, tmp_path / "back", "train")  # what is here and whole stays
    with pytest.raises(RunError, match="glimpse.f16 is damaged: copy the bank there again"):
        transfer.fetch(address, tmp_path / "anew", "train")
    assert not (tmp_path / "anew" / "train" / "bank.json").exists()
    with pytest.raises(RunError, match="holds no whole bank of val"):
        transfer.fetch(address, tmp_path / "anew", "val")


def test_a_bank_that_comes_takes_no_other_ones_place(
    tmp_path: Path, whole: Path, encoder: Encoder
) -> None:
    pytest.importorskip("fsspec")
    address, out = str(tmp_path / "store"), tmp_path / "out"
    transfer.send(FeatureBank.open(whole), address)
    other = build_bank(replace(CONFIG, out=out, side=2, low_side=None), "train", encoder).folder
    before = content(other)
    with pytest.raises(BankMismatchError, match="holds another bank than .*another --out"):
        transfer.fetch(address, out, "train")
    assert content(other) == before
    # The same bank, of which a file is not whole, is put right; until then it is no bank.
    same = transfer.fetch(address, tmp_path / "same", "train").folder
    (same / "glimpse.f16").unlink()
    stored = tmp_path / "store" / "train" / "glimpse.f16"
    stored.rename(stored.with_suffix(".away"))
    with pytest.raises(RunError, match="cannot be used"):
        transfer.fetch(address, tmp_path / "same", "train")
    assert not (same / "bank.json").exists()
    stored.with_suffix(".away").rename(stored)
    transfer.fetch(address, tmp_path / "same", "train")
    assert content(same) == content(whole)


def test_a_bank_goes_to_s3_and_comes_back(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason="no s3fs: pip install 'glimpse-env[remote]'")
    server = pytest.importorskip("moto.server", reason="no moto: pip install 'moto[server]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        import s3fs

        s3fs.S3FileSystem().mkdir("banks")
        found = FeatureBank.open(whole)
        transfer.send(found, "s3://banks/dogs")
        transfer.send(found, "s3://banks/dogs")
        back = transfer.fetch("s3://banks/dogs", tmp_path / "back", "train")
        assert content(back.folder) == content(whole)
        np.testing.assert_array_equal(back.glimpse, found.glimpse)
    finally:
        running.stop()


def test_an_address_of_no_kind_is_one_sentence(tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(RunError, match="nowhere://x cannot be used: .*nowhere"):
        transfer.send(FeatureBank.open(whole), "nowhere://x")
