"""Checkpoints: tensors as safetensors, the rest as JSON, never half written.

A checkpoint is a folder with `checkpoint.json` and the weights it names,
`weights-<hash>.safetensors`. The weights are written and synced first, under a name of their own;
replacing the JSON is the one step that makes them count. A crash at any point leaves the old
checkpoint or the new one. There is no pickle: loading a stranger's checkpoint runs no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from agents.configs import ReinforceConfig, TwoDeckConfig

Settings = TypeVar("Settings")

FORMAT = 1
RECORD = "checkpoint.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or does not fit; the message names the file."""


def save_checkpoint(
    folder: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write a checkpoint atomically, replacing the folder's earlier one.

    Args:
        folder: Made if need be.
        tensors: By name; saved from any device, in their own dtypes.
        metadata: Anything JSON can hold without loss.

    Returns:
        The path of the record, `checkpoint.json`.

    Raises:
        ValueError: Metadata that JSON cannot hold (NaN included).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Clones, since safetensors refuses tensors that share memory or are not laid out in order.
    owned = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    data = save(owned)
    digest = hashlib.sha256(data).hexdigest()
    weights = folder / f"weights-{digest[:16]}.safetensors"
    record = {"format": FORMAT, "weights": weights.name, "sha256": digest, "metadata": metadata}
    try:
        text = json.dumps(record, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The checkpoint's metadata cannot be written as JSON: {error}") from error
    _write(weights, data)
    _write(folder / RECORD, text.encode())
    for other in folder.glob("weights-*.safetensors"):
        if other != weights:
            other.unlink(missing_ok=True)
    return folder / RECORD


def load_checkpoint(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint after checking its hash.

    Returns:
        The tensors by name, on `device`, and the metadata.

    Raises:
        CheckpointError: No checkpoint, an unreadable record, absent or changed weights.
    """
    record_path = Path(folder) / RECORD
    try:
        record = json.loads(record_path.read_text())
        name, digest, metadata = record["weights"], record["sha256"], record["metadata"]
        version = record["format"]
    except FileNotFoundError as error:
        raise CheckpointError(f"No checkpoint in {folder}: there is no {RECORD}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{record_path} is not a checkpoint's record ({error}). Restore it from a copy, or "
            "train again."
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"{record_path} has format {version}; this version reads format {FORMAT}."
        )
    weights = record_path.parent / Path(name).name
    if not weights.is_file():
        raise CheckpointError(f"The weights {weights} are missing: copy the whole folder.")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if _HAS_DIGEST else _sha256(file)
    if found != digest:
        raise CheckpointError(
            f"{weights} was changed or damaged after it was written (sha256 {found}, recorded "
            f"{digest}). Restore it from a copy, or train again."
        )
    try:
        return load_file(weights, device=str(device)), metadata
    except SafetensorError as error:
        raise CheckpointError(f"{weights} cannot be read as safetensors: {error}") from error


def check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming each difference, unless names and shapes agree."""
    differences = [
        f"{name}: checkpoint {tuple(given[name].shape)}, network {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    differences += [f"{name}: missing in the checkpoint" for name in expected if name not in given]
    differences += [f"{name}: not in the network" for name in given if name not in expected]
    if differences:
        raise CheckpointError(
            "The checkpoint does not fit the network; build it with the configuration saved "
            "beside the "
            "weights. Differences: " + "; ".join(differences)
        )


def read_settings(kind: type[Settings], record: Any) -> Settings:
    """Build a configuration from a checkpoint's record of it.

    Raises:
        CheckpointError: The record has fields, or values, that this version does not know.
    """
    try:
        return kind(**record)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint's {kind.__name__} is of another version ({error}): load it with the "
            "version that wrote it, or train again."
        ) from error


def read_agent_settings(
    folder: str | Path, metadata: Mapping[str, Any]
) -> tuple[TwoDeckConfig, ReinforceConfig]:
    """Both configurations of the agent that a checkpoint's metadata describes.

    Raises:
        CheckpointError: It holds no agent, or one of another version.
    """
    if not {"agent", "state"} <= metadata.keys():
        raise CheckpointError(f"{folder} holds no agent: its metadata has no 'agent' and 'state'.")
    saved = metadata["agent"]
    network = read_settings(TwoDeckConfig, saved["network"])
    return network, read_settings(ReinforceConfig, saved["learning"])


def check_settings(saved: Any, own: Any) -> None:
    """Raise CheckpointError, naming each field, unless two configurations agree.

    Shapes alone do not tell: the state of SGD loads into Adam without a word.
    """
    differences = [
        f"{field.name}: checkpoint {getattr(saved, field.name)!r}, agent "
        f"{getattr(own, field.name)!r}"
        for field in fields(own)
        if getattr(saved, field.name) != getattr(own, field.name)
    ]
    if differences:
        raise CheckpointError(
            f"The checkpoint was saved under another {type(own).__name__}; build the agent with "
            f"the checkpoint's own (`load` does). Differences: {'; '.join(differences)}"
        )


def pack_state(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts, lists and tuples into tensors by path and a structure JSON can hold.

    `unpack_state` puts them together again; optimizer states, with their integer keys, survive.
    """
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            items = [[key, pack(item, f"{path}/{key}".lstrip("/"))] for key, item in value.items()]
            return {"dict": items}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [pack(item, f"{path}/{i}".lstrip("/")) for i, item in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"A checkpoint cannot hold {path}, a {type(value).__name__}.")

    return tensors, pack(state, "")


def unpack_state(tensors: Mapping[str, Tensor], structure: Any) -> Any:
    """Undo `pack_state`.

    Raises:
        CheckpointError: The structure names a tensor that is not there.
    """
    if not isinstance(structure, dict):
        return structure
    ((kind, value),) = structure.items()
    if kind == "tensor":
        if value not in tensors:
            raise CheckpointError(f"The checkpoint's weights lack the tensor {value!r}.")
        return tensors[value]
    if kind == "dict":
        return {key: unpack_state(tensors, item) for key, item in value}
    items = [unpack_state(tensors, item) for item in value]
    return items if kind == "list" else tuple(items)


_HAS_DIGEST = hasattr(hashlib, "file_digest")


def _sha256(file: Any) -> str:
    """`hashlib.file_digest` of Python 3.11, for 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Write beside, sync, and move into place."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    # The rename itself lasts only once the folder is synced (not every platform can open one).
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
