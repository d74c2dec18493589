"""Finding, verifying and reading weight files, and what is said when that fails."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from encoders.googlenet import GoogLeNetTrunk, build_googlenet
from encoders.spec import get_spec
from encoders.weights.caffe import CaffeModelError, _googlenet_names, read_blobs
from encoders.weights.files import (
    WeightsHashError,
    WeightsNotFoundError,
    default_weights_dir,
    find_weights,
    load_state,
    search_folders,
)


def field(number: int, payload: bytes) -> bytes:
    """One length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def blob(array: np.ndarray, legacy: bool) -> bytes:
    data = field(5, array.astype("<f4").tobytes())
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        return b"".join(varint(i << 3) + varint(n) for i, n in enumerate(shape, 1)) + data
    return data + field(7, field(1, b"".join(varint(n) for n in array.shape)))


def caffemodel(state: dict[str, torch.Tensor], *, v1: bool) -> bytes:
    """Write a state dict as Caffe would: BGR first layer, layers in either message form."""
    out = field(1, b"GoogleNet")
    for theirs, ours in _googlenet_names().items():
        weight, bias = state[f"{ours}.weight"].numpy(), state[f"{ours}.bias"].numpy()
        if ours == "conv1.conv":
            weight = weight[:, ::-1]
        name, blobs, where = (4, 6, 2) if v1 else (1, 7, 100)
        layer = field(name, theirs.encode()) + field(blobs, blob(weight, v1))
        out += field(where, layer + field(blobs, blob(bias, v1)))
    return out


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = build_googlenet("googlenet_bvlc")
    return {k: torch.randn_like(v) for k, v in network.state_dict().items()}


@pytest.mark.parametrize("v1", [True, False])
def test_caffemodel_equals_the_state_it_was_written_from(
    v1: bool, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(caffemodel(state, v1=v1))
    read = load_state(path)
    assert read.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(read[name], value, rtol=0, atol=0)
    GoogLeNetTrunk(replace(get_spec("googlenet"), weights=str(path), sha256=None), read)


def test_truncated_caffemodel_is_an_error_at_every_cut(tmp_path: Path) -> None:
    whole = field(2, field(4, b"conv1/7x7_s2") + field(6, blob(np.ones((2, 3)), True)))
    path = tmp_path / "x.caffemodel"
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(CaffeModelError):
            read_blobs(path)


def test_blob_whose_shape_lies_is_an_error(tmp_path: Path) -> None:
    lying = field(5, struct.pack("<3f", 1, 2, 3)) + field(7, field(1, varint(4)))
    path = tmp_path / "x.caffemodel"
    path.write_bytes(field(100, field(1, b"a") + field(7, lying)))
    with pytest.raises(CaffeModelError, match="shape"):
        read_blobs(path)


def test_absent_layer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(field(1, b"GoogleNet"))
    with pytest.raises(ValueError, match="conv1/7x7_s2"):
        load_state(path)


def test_no_weights_names_file_hash_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_DATA", str(tmp_path / "nowhere"))
    spec = get_spec("googlenet")
    with pytest.raises(WeightsNotFoundError) as caught:
        find_weights(spec)
    for part in (
        spec.weights,
        spec.sha256,
        "`glimpse download weights`",
        str(tmp_path / "nowhere"),
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("googlenet", "`glimpse download weights`"),
        ("googlenet_torchvision", "`glimpse download torchvision-weights`"),
        ("inception_mini", "install glimpse-env again"),
    ],
)
def test_each_file_has_its_own_remedy(
    name: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoders.weights.files.search_folders", lambda: [tmp_path])
    with pytest.raises(WeightsNotFoundError, match=remedy):
        find_weights(get_spec(name))
    (tmp_path / str(get_spec(name).weights)).write_bytes(b"other")
    with pytest.raises(WeightsHashError, match=remedy):
        find_weights(get_spec(name))
    with pytest.raises(ValueError, match=remedy):
        load_state(tmp_path / str(get_spec(name).weights))


def test_a_tilde_in_the_data_folder_is_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("GLIMPSE_DATA", "~/photographs")
    assert default_weights_dir() == tmp_path / "photographs" / "weights"
    assert search_folders()[1] == (tmp_path / "weights").resolve()


def test_a_wrong_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "bvlc_googlenet_fp16.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(WeightsHashError, match=hashlib.sha256(path.read_bytes()).hexdigest()):
        find_weights(get_spec("googlenet"))


def test_a_file_replaced_after_a_check_is_checked_again(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    spec = replace(
        get_spec("googlenet"), weights=str(path), sha256=hashlib.sha256(b"one").hexdigest()
    )
    assert find_weights(spec) == path
    path.write_bytes(b"another")
    with pytest.raises(WeightsHashError):
        find_weights(spec)


def test_torchvisions_file_is_known_by_its_published_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    torch.save({"x": torch.zeros(1)}, tmp_path / "weights" / "googlenet-1378be20.pth")
    with pytest.raises(WeightsHashError, match="1378be20"):
        find_weights(get_spec("googlenet_torchvision"))


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth.*whole copy") as caught:
        load_state(tmp_path / "evil.pth")
    assert "weights_only" not in str(caught.value)  # no advice to unpickle it after all
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.caffemodel", "w.bin"])
def test_rubbish_is_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04 not weights")
    with pytest.raises(ValueError, match="w\\."):
        load_state(tmp_path / name)


def test_shared_weights_are_whole(bvlc_weights: Path) -> None:
    spec = replace(get_spec("googlenet"), weights=str(bvlc_weights))
    loaded = load_state(find_weights(spec))
    assert len(loaded) == 116
    assert sum(v.numel() for v in loaded.values()) == 6_998_552
