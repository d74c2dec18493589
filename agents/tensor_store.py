"""A store of tensors and JSON on disk, never half written: safetensors beside a record.

A checkpoint is a folder with `checkpoint.json` and the weights it names,
`weights-<hash>.safetensors`. The weights are written and synced first, under a name of their own;
replacing the JSON is the one step that makes them count. A crash at any point leaves the old
checkpoint or the new one. Earlier ones may be kept: `previous-1.json` is the record of the one
before, and so on, `best.json` that of the best. There is no pickle: loading a stranger's checkpoint
runs no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

FORMAT = 1
RECORD = "checkpoint.json"
BEST = "best.json"
"""Record of the best checkpoint, where one is kept."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or does not fit; the message names the file."""


def _metadata_digest(metadata: Any) -> str:
    """Hash of what JSON gives back of the metadata, however it is laid out."""
    text = json.dumps(json.loads(json.dumps(metadata, allow_nan=False)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def previous(number: int) -> str:
    """Name of the record of the checkpoint so many before the newest."""
    return f"previous-{number}.json"


def save_checkpoint(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    *,
    keep_last: int = 1,
    best: bool = False,
) -> Path:
    """Write a checkpoint atomically, replacing the folder's earlier one.

    Args:
        folder: Made if need be.
        tensors: By name; saved from any device, in their own dtypes.
        metadata: Anything JSON can hold without loss.
        keep_last: Checkpoints kept, this one included; older ones are removed.
        best: Keep this one, in the place of an earlier best, whatever comes after it.

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
        record["metadata_sha256"] = _metadata_digest(metadata)
        text = json.dumps(record, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The checkpoint's metadata cannot be written as JSON: {error}") from error
    _write(weights, data)
    _shift_records(folder, keep_last)
    # The best first: killed between the two, the same epoch is done and found best again.
    if best:
        _write(folder / BEST, text.encode())
    _write(folder / RECORD, text.encode())
    _remove_unused(folder)
    return folder / RECORD


def _shift_records(folder: Path, keep_last: int) -> None:
    """Make the newest record the one before it, and so on; what is too old loses its record."""
    for path in folder.glob("previous-*.json"):
        number = path.stem.removeprefix("previous-")
        if number.isdecimal() and int(number) >= keep_last:
            path.unlink()
    for number in range(keep_last - 1, 1, -1):
        if (folder / previous(number - 1)).exists():
            os.replace(folder / previous(number - 1), folder / previous(number))
    if keep_last > 1 and (folder / RECORD).exists():
        _write(folder / previous(1), (folder / RECORD).read_bytes())


def _remove_unused(folder: Path) -> None:
    """Remove weights that no record names."""
    named = set()
    for path in folder.glob("*.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            named.add(json.loads(path.read_text(encoding="utf-8"))["weights"])
    for weights in folder.glob("weights-*.safetensors"):
        if weights.name not in named:
            weights.unlink(missing_ok=True)
    # What a process that was killed left half written.
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def has_checkpoint(folder: str | Path) -> bool:
    """Say whether a folder holds a checkpoint, or one before a newest that was lost.

    The folder alone tells nothing: a process may be killed before it has filled it.
    """
    folder = Path(folder)
    return (folder / RECORD).is_file() or any(folder.glob("previous-*.json"))


def load_checkpoint(
    folder: str | Path, device: str | torch.device = "cpu", *, record: str = RECORD
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint after checking its hash.

    Args:
        folder: As written by `save_checkpoint`.
        device: Where the tensors go.
        record: Name of its record: the newest by default, or `BEST`, or `previous(number)`.

    Returns:
        The tensors by name, on `device`, and the metadata.

    Raises:
        CheckpointError: No checkpoint, an unreadable record, absent or changed weights. If one
            before it is whole, the message says how to go on from that.
    """
    folder = Path(folder)
    try:
        weights, metadata = _verified(folder / record)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_offer(folder, record)}") from error
    try:
        return load_file(weights, device=str(device)), metadata
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} cannot be read as safetensors: {error}") from error


def _verified(record_path: Path) -> tuple[Path, dict[str, Any]]:
    """The weights' file that a record names, its hash checked, and the metadata.

    Raises:
        CheckpointError: As `load_checkpoint` does.
    """
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        name, digest, metadata = record["weights"], record["sha256"], record["metadata"]
        version = record["format"]
        if not isinstance(name, str) or not isinstance(metadata, dict):
            raise TypeError("weights is a name and metadata an object")
        metadata_digest = _metadata_digest(metadata)
        weights = record_path.parent / Path(name).name
        there = weights.is_file()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"No checkpoint in {record_path.parent}: there is no {record_path.name}."
        ) from error
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{record_path} is not a checkpoint's record ({error}). Restore it from a copy, or "
            "train again."
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"{record_path} has format {version}; this version reads format {FORMAT}."
        )
    # Records of before the metadata were hashed have none.
    if record.get("metadata_sha256", metadata_digest) != metadata_digest:
        raise CheckpointError(
            f"{record_path} was changed or damaged after it was written. Restore it from a copy, "
            "or train again."
        )
    if not there:
        raise CheckpointError(f"The weights {weights} are missing: copy the whole folder.")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if _HAS_DIGEST else _sha256(file)
    if found != digest:
        raise CheckpointError(
            f"{weights} was changed or damaged after it was written (sha256 {found}, recorded "
            f"{digest}). Restore it from a copy, or train again."
        )
    return weights, metadata


def _offer(folder: Path, record: str) -> str:
    """Say what to do about a damaged checkpoint, if an earlier one is whole."""
    if record != RECORD:
        return ""
    for number in range(1, 1 + len(list(folder.glob("previous-*.json")))):
        with contextlib.suppress(CheckpointError):
            _verified(folder / previous(number))
            return (
                f" The checkpoint before it is whole: rename {folder / previous(number)} to "
                f"{RECORD} to go on from there."
            )
    return ""


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


def check_optimizer(optimizer: torch.optim.Optimizer, given: Any) -> None:
    """Raise CheckpointError unless a state fits an optimiser; its `load_state_dict` looks less."""
    own = optimizer.state_dict()["param_groups"]
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    try:
        fits = len(own) == len(given["param_groups"])
        for ours, theirs in zip(own, given["param_groups"], strict=fits):
            fits &= ours.keys() == theirs.keys() and ours["params"] == theirs["params"]
            fits &= all(_alike(ours[key], theirs[key]) for key in ours)
        for index, entry in given["state"].items():
            for name, value in entry.items():
                fits &= isinstance(name, str)
                # A number of steps, or one number a weight.
                fits &= value is None or value.ndim == 0 or value.shape == shapes[index]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"The optimiser's state is damaged: {error!r}") from error
    if not fits:
        raise CheckpointError(
            "The optimiser's state is damaged, or of another optimiser: build the agent with the "
            "configuration saved beside the weights."
        )


def _alike(one: Any, two: Any) -> bool:
    """Return whether two settings of an optimiser are of one type; integers count as floats."""
    numbers = (int, float)
    return type(one) is type(two) or (type(one) in numbers and type(two) in numbers)


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
    """Put together what `pack_state` took apart.

    Raises:
        CheckpointError: The structure names a tensor that is not there, or is none of
            `pack_state`'s.
    """
    try:
        return _unpack(tensors, structure)
    except CheckpointError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The checkpoint's structure is damaged: {error}") from error


def _unpack(tensors: Mapping[str, Tensor], structure: Any) -> Any:
    if not isinstance(structure, dict):
        return structure
    ((kind, value),) = structure.items()
    if kind == "tensor":
        if value not in tensors:
            raise CheckpointError(f"The checkpoint's weights lack the tensor {value!r}.")
        return tensors[value]
    if kind == "dict":
        return {key: _unpack(tensors, item) for key, item in value}
    if kind not in ("list", "tuple"):
        raise ValueError(f"{kind!r} is no part of one")
    items = [_unpack(tensors, item) for item in value]
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
