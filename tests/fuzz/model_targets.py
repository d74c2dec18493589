"""Readers of what is learnt: weights, records of encoders, banks, checkpoints, run folders."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from agents.checkpoint import read_agent_settings
from agents.configs import TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.tensor_store import CheckpointError, load_checkpoint, unpack_state
from encoders.bank.description import BankDescription
from encoders.bank.feature_bank import BankIncompleteError, BankMismatchError, FeatureBank
from encoders.spec import get_spec
from encoders.weights.caffe import CaffeModelError, read_blobs, read_caffemodel
from encoders.weights.files import load_state
from experiments.pretrain.config import PretrainConfig
from experiments.pretrain.state import Pretraining
from experiments.runtime.runs import RunError, RunFolder, load_config, read_json, to_record
from experiments.train.aggregate import read_metrics
from experiments.train.config import TrainConfig
from tests.encoders.weights.test_files import caffemodel
from tests.fuzz.harness import Target
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_value


def _state() -> dict[str, torch.Tensor]:
    return {
        "conv1.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
        "conv1.bias": torch.zeros(2, dtype=torch.float16),
        "count": torch.tensor(3),
    }


def _spoil_header(source: random.Random, data: bytes) -> bytes:
    """A safetensors file with a spoilt header of stated length, or spoilt bytes."""
    if source.random() < 0.5:
        return mutate_bytes(source, data)
    size = int.from_bytes(data[:8], "little")
    header = mutate_json(source, json.loads(data[8 : 8 + size]))
    length = len(header) if source.random() < 0.9 else source.choice((0, 2**31, 2**63, 2**64 - 1))
    return length.to_bytes(8, "little") + header + data[8 + size :]


def _check_state(state: Any) -> None:
    assert isinstance(state, dict)
    for name, tensor in state.items():
        assert isinstance(name, str) and isinstance(tensor, torch.Tensor)
        tensor.float().sum()  # reads all of it


def _safetensors(good: bytes, source: random.Random, inside: Path) -> None:
    path = inside / "weights.safetensors"
    path.write_bytes(_spoil_header(source, good))
    _check_state(load_state(path))


def _prepare_pth(folder: Path) -> list[bytes]:
    found = []
    for content in (_state(), [1, 2], {"a": {"b": torch.ones(2)}}, {1: torch.ones(1)}):
        for modern in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=modern)
            found.append(buffer.getvalue())
    return found


def _pth(good: list[bytes], source: random.Random, inside: Path) -> None:
    path = inside / "weights.pth"
    data = source.choice(good[:2]) if source.random() < 0.8 else source.choice(good)
    path.write_bytes(data if source.random() < 0.02 else mutate_bytes(source, data, good))
    _check_state(load_state(path))


def _prepare_caffe(folder: Path) -> list[bytes]:
    from encoders.weights.caffe import _googlenet_names

    state: dict[str, torch.Tensor] = {}
    for number, name in enumerate(_googlenet_names().values()):
        shape = (3, 2) if name == "fc" else (2, 3, 1, 1)
        state[f"{name}.weight"] = torch.full(shape, float(number))
        state[f"{name}.bias"] = torch.ones(2)
    return [caffemodel(state, v1=v1) for v1 in (False, True)]


def _caffe(good: list[bytes], source: random.Random, inside: Path) -> None:
    path = inside / "model.caffemodel"
    data = source.choice(good)
    if source.random() < 0.5:  # a few layers: mutations meet lengths and shapes more often
        data = data[: source.choice((60, 120, 250))]
    path.write_bytes(mutate_bytes(source, data, good))
    blobs = read_blobs(path)
    assert all(blob.dtype == np.float32 for layer in blobs.values() for blob in layer)
    _check_state(read_caffemodel(path))


_RECORD = {
    "name": "small",
    "architecture": "inception_mini",
    "sha256": "0" * 64,
    "feature_size": 128,
    "normalisation": {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0]},
    "stride": 1,
    "stem": "native",
    "depth": "full",
    "seen": "nothing",
    "accuracy": {"low": 0.5},
}


def _encoder_record(good: Any, source: random.Random, inside: Path) -> None:
    path = inside / "small.json"
    path.write_bytes(mutate_json(source, _RECORD))
    spec = get_spec(str(path))
    assert Path(spec.weights or "") == path.with_suffix(".safetensors").resolve()
    assert type(spec.feature_size) is int and spec.feature_size >= 1 and spec.stride in (1, 2)
    assert isinstance(spec.name, str) and isinstance(spec.seen, str)
    assert isinstance(spec.sha256, str) and int(spec.sha256, 16) >= 0
    numbers = np.array([spec.normalisation.mean, spec.normalisation.std])
    assert np.isfinite(numbers).all() and (numbers[1] > 0).all() and len(spec.fingerprint) == 64


def _prepare_bank(folder: Path) -> tuple[dict[str, Any], bytes]:
    description = BankDescription(
        split="val",
        dataset="d" * 64,
        encoder="e" * 64,
        encoder_name="small",
        precision="fp32",
        num_images=3,
        feature_size=4,
        resolutions=("low", "high"),
        mirrored=True,
        fixations=((-0.5, 0.0), (0.5, 0.0)),
        context_fixations=((0.0, 0.0),),
        noise_seed=1,
        chunk=2,
    )
    bank = FeatureBank.create(folder / "bank", description)
    bank.done[:] = 1
    bank.done.flush()
    record = json.loads((folder / "bank" / "bank.json").read_text())
    return record, bytes(bank.done)


def _bank(prepared: Any, source: random.Random, inside: Path) -> None:
    record, done = prepared
    folder = inside / "bank"
    (folder / "bank.json").write_bytes(mutate_json(source, record))
    (folder / "done.u8").write_bytes(mutate_bytes(source, done) if source.random() < 0.1 else done)
    bank = FeatureBank.open(folder, allow_incomplete=source.random() < 0.3)
    bank.check(dataset="d" * 64, split="val", encoder="e" * 64, resolutions=("low",))
    none = np.zeros(2, np.int64)
    assert bank.num_images >= 1 and np.isfinite(bank.fixations).all()
    point = bank.snap(np.zeros((2, 2), np.float32))
    assert bank.glimpses(none, none, point, ("low",)).shape == (2, 1, bank.feature_size)
    assert bank.contexts(none, none, bank.snap_context(np.zeros((2, 2)))).shape[0] == 2
    assert bank.noise_keys(none, none, point).shape == (2,)


def _write_checkpoint(
    source: random.Random, folder: Path, part: str, weights: bytes, record: dict[str, Any]
) -> None:
    """A checkpoint with spoilt metadata, record or tensors; hashes mostly those of the files."""
    record = dict(record)
    if part == "tensors":
        weights = _spoil_header(source, weights)
        if source.random() < 0.9:
            record["sha256"] = hashlib.sha256(weights).hexdigest()
    (folder / "weights-0.safetensors").write_bytes(weights)
    if part == "metadata":
        record["metadata"] = mutate_value(source, record["metadata"])
        if source.random() < 0.9:  # as a record of before its metadata were hashed
            record.pop("metadata_sha256")
    data = mutate_json(source, record) if part == "record" else json.dumps(record).encode()
    (folder / "checkpoint.json").write_bytes(data)


def _read_parts(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Weights and record of a checkpoint just saved, the weights under a fixed name."""
    record = json.loads((folder / "checkpoint.json").read_text())
    weights = folder / record["weights"]
    data = weights.read_bytes()
    weights.unlink()
    return data, record | {"weights": "weights-0.safetensors"}


def _small_agent() -> ReinforceAgent:
    network = TwoDeckConfig(
        feature_size=2,
        num_resolutions=1,
        num_classes=2,
        num_glimpses=1,
        hidden_size=2,
        image_width=2,
        location_width=2,
        glimpse_width=2,
    )
    agent = ReinforceAgent(network, device="cpu")
    for parameter in agent.network.parameters():  # so that the optimiser has a state
        parameter.grad = torch.ones_like(parameter)
    agent.optimizer.step()
    return agent


def _prepare_agent(folder: Path) -> tuple[bytes, dict[str, Any]]:
    _small_agent().save(folder / "checkpoint", {"note": [1, 2]})
    return _read_parts(folder / "checkpoint")


def _checkpoint(prepared: Any, source: random.Random, inside: Path) -> None:
    folder = inside / "checkpoint"
    part = source.choice(("record", "metadata", "metadata", "tensors"))
    _write_checkpoint(source, folder, part, *prepared)
    tensors, metadata = load_checkpoint(folder)
    _check_state(tensors)
    network, learning = read_agent_settings(folder, metadata)
    assert network.num_classes >= 1 and learning.samples >= 1
    unpack_state(tensors, metadata["state"])


def _agent(prepared: Any, source: random.Random, inside: Path) -> None:
    folder = inside / "checkpoint"
    part = source.choice(("record", "metadata", "metadata", "metadata", "tensors"))
    _write_checkpoint(source, folder, part, *prepared)
    agent = ReinforceAgent.load(folder, device="cpu")
    assert agent.epoch >= 0 and agent.updates >= 0
    assert sum(p.numel() for p in agent.network.parameters()) < 10_000


def _prepare_pretraining(folder: Path) -> tuple[Pretraining, bytes, dict[str, Any]]:
    config = PretrainConfig(steps=2, resolutions=("low",), precision="fp32", probe=0)
    run = Pretraining(config, 2, facts={"images": "p"})
    for parameter in run.towers.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    run.save(folder / "checkpoint")
    return run, *_read_parts(folder / "checkpoint")


def _pretraining(prepared: Any, source: random.Random, inside: Path) -> None:
    run, weights, record = prepared
    part = source.choice(("record", "metadata", "metadata", "metadata", "tensors"))
    _write_checkpoint(source, inside / "checkpoint", part, weights, record)
    run.load(inside / "checkpoint")
    assert run.step >= 0


def _prepare_run(folder: Path) -> dict[str, Any]:
    return to_record(TrainConfig(bank=Path("banks")))


def _config(good: dict[str, Any], source: random.Random, inside: Path) -> None:
    (inside / "config.json").write_bytes(mutate_json(source, good))
    config = load_config(TrainConfig, inside)
    assert isinstance(config.out, Path) and isinstance(config.network, TwoDeckConfig)
    assert read_json(inside / "config.json", "restore it")


_ROWS = [
    {"agent": agent, "epoch": epoch, "eval_ma": 50.0 + epoch, "seconds": 1.5}
    for epoch in range(2)
    for agent in ("learned", "center")
]


def _metrics(good: Any, source: random.Random, inside: Path) -> None:
    lines = [json.dumps(row).encode() for row in _ROWS]
    at = source.randrange(len(lines))
    lines[at] = mutate_json(source, _ROWS[at])
    data = b"\n".join(lines) + b"\n"
    run = RunFolder(inside)
    run.metrics.write_bytes(mutate_bytes(source, data) if source.random() < 0.3 else data)
    reading = source.randrange(3)
    if reading == 0:
        assert all(isinstance(row, dict) for row in read_metrics(inside))
    elif reading == 1:
        assert run.is_best("learned", 51.0) in (True, False)
    else:
        run.rewind("learned", 1)
        rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        assert all(row["agent"] != "learned" or row["epoch"] < 1 for row in rows)


def _none(folder: Path) -> None:
    return None


def _saved(folder: Path) -> bytes:
    return save(_state())


TARGETS = (
    Target("safetensors", (ValueError,), _saved, _safetensors),
    Target("pth", (ValueError,), _prepare_pth, _pth),
    Target("caffemodel", (CaffeModelError,), _prepare_caffe, _caffe),
    Target("encoder_record", (ValueError,), _none, _encoder_record),
    Target("feature_bank", (BankMismatchError, BankIncompleteError), _prepare_bank, _bank),
    Target("checkpoint", (CheckpointError,), _prepare_agent, _checkpoint),
    Target("agent", (CheckpointError,), _prepare_agent, _agent),
    # ValueError: of a run with another configuration.
    Target("pretraining", (CheckpointError, ValueError), _prepare_pretraining, _pretraining),
    Target("run_config", (RunError,), _prepare_run, _config),
    Target("run_metrics", (RunError,), _none, _metrics),
)
