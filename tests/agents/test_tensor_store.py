import json
import os

import pytest
import torch
from safetensors.torch import load_file

from agents import tensor_store
from agents.tensor_store import (
    CheckpointError,
    check_fit,
    load_checkpoint,
    pack_state,
    save_checkpoint,
    unpack_state,
)


def tensors(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=g),
        "half": torch.randn(5, generator=g).bfloat16(),
        "bytes": g.get_state(),
        "count": torch.tensor(7),
    }


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a
    )


def test_what_is_saved_comes_back(tmp_path):
    metadata = {"epoch": 3, "names": ["a", "ü"], "nested": {"rate": 0.1, "none": None}}
    record = save_checkpoint(tmp_path / "run" / "checkpoint", tensors(), metadata)
    loaded, found = load_checkpoint(record.parent)
    assert same(loaded, tensors()) and found == metadata
    weights = next(record.parent.glob("*.safetensors"))
    assert same(load_file(weights), tensors()), "any safetensors reader opens it"


def test_views_and_shared_tensors_are_saved_by_value(tmp_path):
    base = torch.arange(6.0)
    save_checkpoint(tmp_path, {"a": base, "b": base, "c": base.view(2, 3).T}, {})
    loaded, _ = load_checkpoint(tmp_path)
    assert torch.equal(loaded["b"], base) and torch.equal(loaded["c"], base.view(2, 3).T)


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    for seed in range(3):
        save_checkpoint(tmp_path, tensors(seed), {"seed": seed})
    loaded, metadata = load_checkpoint(tmp_path)
    assert metadata == {"seed": 2} and same(loaded, tensors(2))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("fails_at", (1, 2))
def test_a_crash_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch, fails_at):
    save_checkpoint(tmp_path, tensors(0), {"seed": 0})
    calls, replace = [], os.replace

    def crash(source, target):
        calls.append(target)
        if len(calls) == fails_at:
            raise OSError("power cut")
        replace(source, target)

    monkeypatch.setattr(tensor_store.os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        save_checkpoint(tmp_path, tensors(1), {"seed": 1})
    monkeypatch.undo()
    loaded, metadata = load_checkpoint(tmp_path)
    assert metadata == {"seed": 0} and same(loaded, tensors(0))
    save_checkpoint(tmp_path, tensors(1), {"seed": 1})
    assert len(list(tmp_path.iterdir())) == 2, "the next save clears what the crash left"


def test_a_damaged_weight_file_is_named(tmp_path):
    save_checkpoint(tmp_path, tensors(), {})
    weights = next(tmp_path.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{weights.name} was changed or damaged"):
        load_checkpoint(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=f"{weights.name} are missing"):
        load_checkpoint(tmp_path)


def test_a_missing_or_foreign_record_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint.json"):
        load_checkpoint(tmp_path)
    record = tmp_path / "checkpoint.json"
    for text in ("{", "[]", '{"weights": "x"}'):
        record.write_text(text)
        with pytest.raises(CheckpointError, match="is not a checkpoint's record"):
            load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, tensors(), {})
    found = json.loads(record.read_text())
    record.write_text(json.dumps(found | {"format": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        load_checkpoint(tmp_path)


def test_a_record_cannot_point_outside_its_folder(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    save_checkpoint(inside, tensors(), {})
    save_checkpoint(outside, tensors(1), {})
    weights = next(outside.glob("*.safetensors"))
    record = json.loads((outside / "checkpoint.json").read_text())
    record["weights"] = f"../outside/{weights.name}"
    (inside / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="missing"):
        load_checkpoint(inside)


def test_metadata_that_json_cannot_hold_is_refused_before_anything_is_replaced(tmp_path):
    save_checkpoint(tmp_path, tensors(0), {"seed": 0})
    for bad in ({"rate": float("nan")}, {"tensor": torch.zeros(1)}):
        with pytest.raises(ValueError, match="cannot be written as JSON"):
            save_checkpoint(tmp_path, tensors(1), bad)
    assert load_checkpoint(tmp_path)[1] == {"seed": 0}


@pytest.mark.parametrize("make", (torch.optim.SGD, torch.optim.AdamW))
def test_an_optimizer_survives_packing(tmp_path, make):
    parameter = torch.nn.Parameter(torch.ones(3))
    options = {"momentum": 0.9} if make is torch.optim.SGD else {"betas": (0.8, 0.99)}
    optimizer = make([parameter], lr=0.1, **options)
    for _ in range(3):
        parameter.square().sum().backward()
        optimizer.step()
    packed, structure = pack_state(optimizer.state_dict())
    save_checkpoint(tmp_path, packed, {"optimizer": structure})
    loaded, metadata = load_checkpoint(tmp_path)
    copy = torch.nn.Parameter(parameter.detach().clone())
    other = make([copy], lr=9.0)
    other.load_state_dict(unpack_state(loaded, metadata["optimizer"]))
    for each, opt in ((parameter, optimizer), (copy, other)):
        opt.zero_grad()
        each.square().sum().backward()
        opt.step()
    assert torch.equal(parameter, copy)


def test_packing_keeps_types_and_refuses_the_rest():
    state = {"a": [1, (2.5, None)], 3: {"t": torch.ones(2)}, "flag": True}
    packed, structure = pack_state(state)
    assert list(packed) == ["3/t"]
    found = unpack_state(packed, json.loads(json.dumps(structure)))
    assert found["a"] == [1, (2.5, None)] and found["flag"] is True
    assert torch.equal(found[3]["t"], torch.ones(2))
    with pytest.raises(TypeError, match="cannot hold a/0, a object"):
        pack_state({"a": [object()]})
    with pytest.raises(CheckpointError, match="lack the tensor '3/t'"):
        unpack_state({}, structure)


def test_check_fit_names_every_difference():
    network = {"w": torch.zeros(2, 3), "b": torch.zeros(2), "same": torch.zeros(1)}
    given = {"w": torch.zeros(2, 4), "same": torch.zeros(1), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        check_fit(network, given)
    message = str(caught.value)
    assert "w: checkpoint (2, 4), network (2, 3)" in message
    assert "b: missing in the checkpoint" in message and "extra: not in the network" in message
    assert "same" not in message.split("Differences")[1]
    check_fit(network, dict(network))
