"""Earlier checkpoints: kept, found, offered, and removed when their time has come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agents import tensor_store
from agents.tensor_store import (
    BEST,
    RECORD,
    CheckpointError,
    load_checkpoint,
    previous,
    save_checkpoint,
)


def save(folder: Path, number: int, **keep) -> None:
    save_checkpoint(folder, {"w": torch.full((3,), float(number))}, {"number": number}, **keep)


def number_of(folder: Path, record: str = RECORD) -> int:
    tensors, metadata = load_checkpoint(folder, record=record)
    assert (tensors["w"] == metadata["number"]).all()
    return metadata["number"]


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_last_ones_are_kept(tmp_path, keep):
    for number in range(6):
        save(tmp_path, number, keep_last=keep)
    records = [RECORD, *(previous(back) for back in range(1, keep))]
    assert [number_of(tmp_path, record) for record in records] == [5, 4, 3, 2][:keep]
    assert len(list(tmp_path.glob("weights-*"))) == keep
    assert {path.name for path in tmp_path.glob("*.json")} == set(records)


def test_fewer_are_kept_when_fewer_are_wanted(tmp_path):
    for number in range(4):
        save(tmp_path, number, keep_last=4)
    save(tmp_path, 4, keep_last=2)
    assert {path.name for path in tmp_path.glob("*.json")} == {RECORD, previous(1)}
    assert number_of(tmp_path, previous(1)) == 3
    assert len(list(tmp_path.glob("weights-*"))) == 2


def test_the_best_stays_whatever_comes(tmp_path):
    for number in range(5):
        save(tmp_path, number, keep_last=2, best=number == 1)
    assert number_of(tmp_path, BEST) == 1 and number_of(tmp_path) == 4
    save(tmp_path, 5, best=True)
    assert number_of(tmp_path, BEST) == 5
    assert len(list(tmp_path.glob("weights-*"))) == 1


@pytest.mark.parametrize(
    "damage", ["weights changed", "weights gone", "record cut", "record gone", "record edited"]
)
def test_a_damaged_one_is_told_and_the_one_before_is_offered(tmp_path, damage):
    save(tmp_path, 0, keep_last=2)
    save(tmp_path, 1, keep_last=2)
    weights = tmp_path / json.loads((tmp_path / RECORD).read_text())["weights"]
    if damage == "weights changed":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "weights gone":
        weights.unlink()
    elif damage == "record edited":
        text = (tmp_path / RECORD).read_text()
        (tmp_path / RECORD).write_text(text.replace('"number": 1', '"number": 7'))
    elif damage == "record cut":
        (tmp_path / RECORD).write_text((tmp_path / RECORD).read_text()[:20])
    else:
        (tmp_path / RECORD).unlink()
    with pytest.raises(CheckpointError) as told:
        load_checkpoint(tmp_path)
    offered = tmp_path / previous(1)
    assert f"rename {offered} to {RECORD}" in str(told.value)
    offered.rename(tmp_path / RECORD)  # what the message says
    assert number_of(tmp_path) == 0


def test_nothing_damaged_is_offered(tmp_path):
    save(tmp_path, 0, keep_last=2)
    save(tmp_path, 1, keep_last=2)
    for weights in tmp_path.glob("weights-*"):
        weights.write_bytes(b"spoiled")
    with pytest.raises(CheckpointError) as told:
        load_checkpoint(tmp_path)
    assert "rename" not in str(told.value)


def test_what_a_killed_process_left_is_removed(tmp_path):
    save(tmp_path, 0)
    (tmp_path / ".checkpoint.json.12ab.part").write_bytes(b"half")
    save(tmp_path, 1)
    assert not list(tmp_path.glob(".*"))


def test_killed_between_the_two_records_the_best_is_not_lost(tmp_path, monkeypatch):
    """What was newest stays so: the epoch is done again, and is found best again."""
    save(tmp_path, 1, best=True)
    write = tensor_store._write

    def failing(path, data):
        if path.name == RECORD:
            raise OSError("killed")
        write(path, data)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="killed"):
        patched.setattr(tensor_store, "_write", failing)
        save(tmp_path, 2, best=True)
    assert number_of(tmp_path) == 1 and number_of(tmp_path, BEST) == 2


def test_a_record_of_before_metadata_were_hashed_is_read(tmp_path):
    save(tmp_path, 3)
    record = json.loads((tmp_path / RECORD).read_text())
    del record["metadata_sha256"]
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert number_of(tmp_path) == 3
