"""What fuzzing found, each as a file that is small enough to read."""

from __future__ import annotations

import gzip
import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from agents.configs import TwoDeckConfig, check_types
from agents.reinforce import ReinforceAgent
from agents.tensor_store import CheckpointError, load_checkpoint, save_checkpoint, unpack_state
from encoders.bank.feature_bank import BankMismatchError, FeatureBank
from encoders.spec import get_spec
from encoders.weights.files import load_state
from experiments.runtime.runs import RunError, RunFolder, load_config, to_record
from experiments.train.aggregate import read_metrics
from experiments.train.config import TrainConfig
from glimpse_env.datasets.base import image_size, read_image
from glimpse_env.datasets.download import archives
from glimpse_env.datasets.download.archives import unpack, unpacked_size
from glimpse_env.datasets.errors import (
    AnnotationError,
    ArchiveError,
    DatasetFormatError,
    UnreadableImageError,
)
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.datasets.matlab import read_mat
from glimpse_env.datasets.stanford_dogs import read_list
from glimpse_env.pyramids.mapped import PyramidsMismatchError, open_mapped
from tests.fuzz import data_targets, model_targets

DEEP = "[" * 100_000


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# -- archives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit, value", [("MAX_MEMBERS", 1), ("MAX_BYTES", 5), ("MAX_NAME", 3), ("MAX_DEPTH", 1)]
)
def test_an_archive_has_limits(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "a.tar", {"f/aa": b"123", "f/bb": b"123"})
    assert unpack(path, tmp_path / "whole") == 2
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(ArchiveError, match="do not use"):
        unpack(path, tmp_path / "refused")
    assert not list((tmp_path / "refused").iterdir())
    with pytest.raises(ArchiveError, match="do not use"):
        unpacked_size(path)


def test_a_header_that_claims_much_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    with gzip.open(tmp_path / "a.tar", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(2**22))
    with pytest.raises(ArchiveError, match="a header of"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("size", [-1, -512, -(2**60)])
def test_a_size_below_nothing_ends(size: int, tmp_path: Path) -> None:
    data = bytearray(tar(tmp_path / "a.tar", {"a": b"x" * 600, "b": b""}).read_bytes())
    data[124:136] = (size % 2**96).to_bytes(12, "big")
    data[124] = 0xFF
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ArchiveError):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar(tmp_path / "a.tar", {"a": b"", "b": b""}).read_bytes())
    data[512 + 150] ^= 1  # the second checksum
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ArchiveError, match="cut short"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("members", [{"a": b"", "a/b": b""}, {".": b""}, {"a\nb": b""}])
def test_names_that_cannot_be(members: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        unpack(tar(tmp_path / "a.tar", members), tmp_path / "out")


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    with pytest.raises(ArchiveError, match="another folder"):
        unpack(tar(tmp_path / "a.tar", {"a": b""}), tmp_path / "out")


# -- lists and annotations --------------------------------------------------------------------


def test_lists_read_as_scipy_reads_them(tmp_path: Path) -> None:
    names = ["n02085620-A_b/n02085620_1.jpg", "é", "\u4e2d"]
    cells = np.empty((3, 1), object)
    cells[:, 0] = names
    for kind in (np.uint8, np.int16, np.int32, np.float32, np.float64, np.uint64):
        for compressed in (False, True):
            labels = np.array([[3, 1], [2, 100]], kind)
            content = {"file_list": cells, "labels": labels, "other": {"a": 1}}
            scipy.io.savemat(tmp_path / "l.mat", content, do_compression=compressed)
            found = read_mat(tmp_path / "l.mat", ("file_list", "labels"))
            assert found["file_list"] == names and set(found) == {"file_list", "labels"}
            np.testing.assert_array_equal(found["labels"], labels.ravel("F"))


def test_official_lists_read_as_scipy_reads_them(dogs_dir: Path) -> None:
    for path in sorted(dogs_dir.rglob("*_list.mat")):
        names, labels = read_list(path)
        content = scipy.io.loadmat(path)
        assert names == [str(cell.item()) for cell in content["file_list"].ravel()]
        np.testing.assert_array_equal(labels + 1, content["labels"].ravel())


@pytest.mark.parametrize("label", [0, -3, 99, 1.5, math.nan, math.inf, 2.0**63])
def test_labels_out_of_range(label: float, tmp_path: Path) -> None:
    labels = np.repeat([1.0, 2.0, 3.0], 4)[:, None]
    labels[5] = label
    (tmp_path / "l.mat").write_bytes(data_targets._mat(data_targets._DOGS, labels))
    with pytest.raises(DatasetFormatError):
        read_list(tmp_path / "l.mat")


def test_a_list_that_unfolds_beyond_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_targets._mat(["x" * 10_000], np.ones((1, 1)), do_compression=True)
    (tmp_path / "l.mat").write_bytes(data)
    assert len(data) < 2000
    monkeypatch.setattr("glimpse_env.datasets.matlab.MAX_BYTES", 2000)
    with pytest.raises(ValueError, match="too long"):
        read_mat(tmp_path / "l.mat", ("file_list",))


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "8">]>' + data_targets._XML.replace("<width>8", "<width>&b;"),
        "<!DOCTYPE annotation>" + data_targets._XML,
        '<?xml version="1.0" encoding="x-odd"?>' + data_targets._XML,
        data_targets._XML + " " * 2**20,
        data_targets._XML.replace("<width>8", "<width>inf"),
        data_targets._XML.replace("<xmin>1", "<xmin>nan"),
        data_targets._XML.replace("<xmin>1", "<xmin>7"),
        data_targets._XML.replace("<size>", "<shape>").replace("</size>", "</shape>"),
    ],
)
def test_annotations_that_are_refused(text: str, tmp_path: Path) -> None:
    dogs = data_targets._prepare_boxes(tmp_path)
    path = (dogs.data_dir / "Annotation" / dogs.name(0)).with_suffix("")
    assert dogs.boxes(0).tolist() == [[1, 0, 7, 6], [0, 2, 8, 6]]
    path.write_text(text)
    with pytest.raises(AnnotationError):
        dogs.boxes(0)


# -- images ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_beyond_the_limit_is_refused_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(data_targets._image("PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48)
    assert read_image(path).shape == (6, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 47)  # Pillow itself refuses from twice that
    for read in (read_image, image_size):
        with pytest.raises(UnreadableImageError, match="more than 47"):
            read(path)


def test_formats_that_start_programs_are_not_tried(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(data_targets._image("EPS"))
    with Image.open(tmp_path / "p.jpg") as image:
        assert image.format == "EPS"
    with pytest.raises(UnreadableImageError):
        image_size(tmp_path / "p.jpg")


def test_links_in_a_circle_are_no_images(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for name in ("p.png", "q.png"):
        (folder / name).write_bytes(data_targets._image("PNG"))
    (folder / "r.png").symlink_to("r.png")
    (tmp_path / "b").symlink_to("b")
    assert len(ImageFolder(tmp_path, "trainval", allow_missing=True)) == 2


def test_a_name_that_is_no_utf8_has_a_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    try:
        (tmp_path / "a" / "\udc80.png").write_bytes(data_targets._image("PNG"))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert len(ImageFolder(tmp_path, "trainval").fingerprint) == 64


@pytest.mark.parametrize(
    "file, content",
    [
        ("images.txt", b"1 a\xff.jpg\n"),
        ("images.txt", b"1 a\0b.jpg\n"),
        ("images.txt", b"1 " + b"x" * 300 + b".jpg\n"),
        ("images.txt", b"1 ../../x.jpg\n"),
        ("bounding_boxes.txt", b"1 nan 1 1 1\n"),
        ("bounding_boxes.txt", b"1 1 1 -1 1\n"),
    ],
)
def test_lists_of_birds_that_are_refused(file: str, content: bytes, tmp_path: Path) -> None:
    for name, text in data_targets._prepare_cub(tmp_path).items():
        (tmp_path / "cub" / name).write_text(text)
    assert len(ImageFolder(tmp_path / "cub", "trainval"))
    (tmp_path / "cub" / file).write_bytes(content)
    with pytest.raises(DatasetFormatError):
        ImageFolder(tmp_path / "cub", "trainval", allow_missing=True)


# -- what is learnt ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [[1, 2], {1: torch.ones(1)}, {"a": {"b": torch.ones(1)}}])
def test_a_weight_file_of_something_else(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no tensors by name"):
        load_state(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": ["0"] * 64},
        {"sha256": "g" * 64},
        {"feature_size": 1.5},
        {"feature_size": True},
        {"seen": 3},
        {"normalisation": {"mean": [0, 0, 0], "std": [0, 1, 1]}},
        {"normalisation": {"mean": [math.nan, 0, 0], "std": [1, 1, 1]}},
        {"normalisation": {"mean": [10**400, 0, 0], "std": [1, 1, 1]}},
    ],
)
def test_records_of_encoders_that_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(model_targets._RECORD))
    assert get_spec(str(path)).feature_size == 128
    path.write_text(json.dumps(model_targets._RECORD | change))
    with pytest.raises(ValueError, match="no record of an encoder"):
        get_spec(str(path))


@pytest.mark.parametrize(
    "change",
    [
        {"num_images": 2**62, "feature_size": 4},  # the product overflows to nothing
        {"fixations": []},
        {"fixations": [[10**400, 0]]},
        {"fixations": [[math.nan, 0]]},
        {"resolutions": "low"},
        {"resolutions": [["low"]]},
        {"split": None},
        {"noise_seed": "1"},
    ],
)
def test_descriptions_of_banks_that_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    record, _ = model_targets._prepare_bank(tmp_path)
    (tmp_path / "bank" / "bank.json").write_text(json.dumps(record | change))
    with pytest.raises(BankMismatchError):
        FeatureBank.open(tmp_path / "bank")


@pytest.mark.parametrize("height", [0, -1, 2**31 - 1])
def test_sizes_of_pyramids_that_cannot_be(height: int, tmp_path: Path) -> None:
    dogs, _, _ = data_targets._prepare_pyramids(tmp_path)
    assert len(open_mapped(tmp_path / "pyramids", dogs, ("low",))) == 2
    np.array([[height, 100], [100, 100]], "<i4").tofile(tmp_path / "pyramids" / "sizes.i32")
    with pytest.raises(PyramidsMismatchError, match="damaged"):
        open_mapped(tmp_path / "pyramids", dogs, ("low",))


@pytest.mark.parametrize(
    "structure",
    [{}, {"dict": 3}, {"dict": [[1]]}, {"dict": [[[], 1]]}, {"tensor": []}, {"other": []}],
)
def test_structures_of_checkpoints_that_are_refused(structure: Any) -> None:
    with pytest.raises(CheckpointError):
        unpack_state({}, structure)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"hidden_size": 10**9}, "does not fit"),  # 4 EB, asked for before anything was compared
        ({"hidden_size": 2 * 10**18}, "beyond measure"),
        ({"hidden_size": 2.0}, "hidden_size"),
        ({"sigma": "0.1"}, "another version"),
        ({"sigma": 10**400}, "another version"),
        ({"dropout": False}, "dropout"),
    ],
)
def test_settings_of_agents_that_are_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model_targets._small_agent().save(tmp_path)
    tensors, metadata = load_checkpoint(tmp_path)
    metadata["agent"]["network"] |= change
    save_checkpoint(tmp_path, tensors, metadata)
    with pytest.raises(CheckpointError, match=said):
        ReinforceAgent.load(tmp_path, device="cpu")


def test_metadata_that_json_does_not_know_are_a_damaged_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, {"a": torch.ones(1)}, {"note": 0.5})
    path.write_text(path.read_text().replace("0.5", "NaN"))
    with pytest.raises(CheckpointError, match="not a checkpoint's record"):
        load_checkpoint(tmp_path)


def test_settings_that_contradict_each_other_are_a_damaged_checkpoint(tmp_path: Path) -> None:
    model_targets._small_agent().save(tmp_path)
    tensors, metadata = load_checkpoint(tmp_path)
    metadata["agent"]["learning"] |= {"entropy_weight": 1.0}  # of a mixture, which there is not
    save_checkpoint(tmp_path, tensors, metadata)
    with pytest.raises(CheckpointError, match="settings of no agent"):
        ReinforceAgent.load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("optimizer"),
        lambda state: state["optimizer"].pop("state"),
        lambda state: state["optimizer"]["param_groups"][0].update(lr="fast"),
        lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.ones(7)),
        lambda state: state.update(generator=torch.ones(3)),
        lambda state: state.update(epoch=-1),
        lambda state: state.update(updates="many"),
        lambda state: state.update(network=None),
    ],
)
def test_a_refused_state_changes_nothing(spoil: Any) -> None:
    agent, other = model_targets._small_agent(), model_targets._small_agent()
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.add_(1)
    state = other.state_dict()
    before = {name: tensor.clone() for name, tensor in agent.network.state_dict().items()}
    spoil(state)
    with pytest.raises(CheckpointError):
        agent.load_state_dict(state)
    for name, tensor in agent.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_types_of_settings() -> None:
    check_types(TwoDeckConfig())
    check_types(TrainConfig())
    with pytest.raises(TypeError, match="epochs"):
        check_types(TrainConfig(epochs=1.5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="resolutions"):
        check_types(TrainConfig(resolutions=("low", "huge")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"data": ""},
        {"network": []},
        {"epochs": 1.5},
        {"references": 1},
        {"resolutions": "low"},
        {"policy_options": {"a": 1}},
        {"learning": {"learning_rate": math.inf}},
        {"network": {"sigma": 10**400}},
    ],
)
def test_configurations_of_runs_that_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_record(TrainConfig())))
    assert load_config(TrainConfig, tmp_path) == TrainConfig()
    path.write_text(json.dumps(to_record(TrainConfig()) | change))
    with pytest.raises(RunError):
        load_config(TrainConfig, tmp_path)


@pytest.mark.parametrize("line", ["3", "{}", '{"agent": "learned"}', '{"a', "\udcff", DEEP])
def test_rows_of_metrics_that_are_refused(line: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(RunError):
        run.rewind("learned", 1)
    with pytest.raises(RunError):
        run.is_best("learned", 1.0)
    if not line.startswith("{}") and "learned" not in line:
        with pytest.raises(RunError):
            read_metrics(tmp_path)


def test_json_too_deep_to_read_is_a_damaged_file(tmp_path: Path) -> None:
    record, _ = model_targets._prepare_bank(tmp_path)
    dogs, _, _ = data_targets._prepare_pyramids(tmp_path)
    for name in ("bank/bank.json", "pyramids/pyramids.json", "small.json", "config.json"):
        (tmp_path / name).write_text(DEEP)
    (tmp_path / "checkpoint.json").write_text(DEEP)
    with pytest.raises(BankMismatchError):
        FeatureBank.open(tmp_path / "bank")
    with pytest.raises(PyramidsMismatchError):
        open_mapped(tmp_path / "pyramids", dogs, ("low",))
    with pytest.raises(ValueError, match="no record of an encoder"):
        get_spec(str(tmp_path / "small.json"))
    with pytest.raises(RunError):
        load_config(TrainConfig, tmp_path)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)
