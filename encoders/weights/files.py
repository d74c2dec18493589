"""Find, verify and load weight files; nothing is ever unpickled.

`.safetensors` by safetensors, `.pth` by `torch.load(weights_only=True)`, `.caffemodel` by the few
lines of protobuf wire format that hold its blobs.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from encoders.folders import NoUserFolderError, data_root
from encoders.spec import BVLC_FILE, BVLC_SHA256, TORCHVISION_FILE, EncoderSpec, get_spec
from encoders.weights.caffe import read_caffemodel

BVLC_CAFFEMODEL = "bvlc_googlenet.caffemodel"
BVLC_CAFFEMODEL_SHA1 = "405fc5acd08a3bb12de8ee5e23a96bec22f08204"


class WeightsNotFoundError(FileNotFoundError):
    """A weight file is in none of the places looked in."""


class WeightsHashError(ValueError):
    """A weight file is not the one its spec names."""


def default_weights_dir() -> Path:
    """Return the folder of downloaded weights: `$GLIMPSE_DATA/weights`, else the user cache.

    Returns:
        The folder, which need not exist.

    Raises:
        NoUserFolderError: If there is neither.

    Example:
        >>> default_weights_dir().name
        'weights'
    """
    return data_root() / "weights"


def search_folders() -> list[Path]:
    """Folders looked in for weights, in order: default, beside `$GLIMPSE_DATA`, shipped files.

    Returns:
        The folders; some need not exist.

    Example:
        >>> search_folders()[-1].name
        'data'
    """
    folders = []
    try:
        folders.append(default_weights_dir())
        if os.environ.get("GLIMPSE_DATA"):
            folders.append(data_root().resolve().parent / "weights")
    except NoUserFolderError:  # what is shipped needs none
        pass
    return [*folders, Path(__file__).parents[1] / "data"]


@lru_cache(maxsize=64)
def _digest(path: str, algorithm: str, size: int, mtime_ns: int) -> str:
    """Hash of a file; size and time are part of the cache key, so a changed file is read again."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's content.

    Args:
        path: The file.
        algorithm: A name that `hashlib.new` takes.

    Returns:
        The digest, in lower case.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "empty"
        >>> path.write_bytes(b"")
        0
        >>> file_digest(path)[:8]
        'e3b0c442'
    """
    status = os.stat(path)
    return _digest(str(path), algorithm, status.st_size, status.st_mtime_ns)


def _remedy(name: str) -> str:
    """Say what brings the weight file `name` (without folder) back."""
    if name in (BVLC_FILE, BVLC_CAFFEMODEL):
        return "run `glimpse download weights`"
    if name == TORCHVISION_FILE:
        return "run `glimpse download torchvision-weights`"
    if name == get_spec("inception_mini").weights:
        return "it comes with this package: install glimpse-env again"
    return "put a whole copy of it there"


def find_weights(spec: EncoderSpec) -> Path:
    """Locate and verify the weight file of `spec`.

    A bare name is looked up in `search_folders()`; a path is taken as it is. Where BVLC's
    safetensors file is wanted, Caffe's own `bvlc_googlenet.caffemodel` serves too.

    Args:
        spec: Encoder whose weights are wanted.

    Returns:
        Path of the file, its hash checked.

    Raises:
        WeightsNotFoundError: the message names the file, its hash, the folders and the command.
        WeightsHashError: the file found is another one.

    Example:
        >>> from encoders.spec import get_spec
        >>> find_weights(get_spec("inception_mini")).name
        'inception_mini.safetensors'
    """
    if spec.weights is None:
        raise ValueError(f"encoder {spec.name!r} has no weight file: its weights are random")
    name = Path(spec.weights)
    bare = name.name == spec.weights
    folders = search_folders() if bare else [name.parent]
    for folder in folders:
        path = folder / name.name
        if os.path.isfile(path):  # unlike Path's, false for a home of another's
            _verify(path, spec.sha256, "sha256")
            return path
        caffe = folder / BVLC_CAFFEMODEL
        if name.name == BVLC_FILE and spec.sha256 == BVLC_SHA256 and os.path.isfile(caffe):
            _verify(caffe, BVLC_CAFFEMODEL_SHA1, "sha1")
            return caffe
    raise WeightsNotFoundError(
        f"no weights for encoder {spec.name!r}: {name.name} (sha256 {spec.sha256}) is not in "
        f"{', '.join(str(folder) for folder in folders)}: {_remedy(name.name)}, or set "
        "GLIMPSE_DATA to the folder that has `weights/`"
    )


def _verify(path: Path, expected: str | None, algorithm: str) -> None:
    if expected is None:
        return
    found = file_digest(path, algorithm)
    if not found.startswith(expected):
        raise WeightsHashError(
            f"{path} has {algorithm} {found}, but {expected} was expected: it is damaged or "
            f"another file. Delete it; then {_remedy(path.name)}"
        )


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read a weight file into a state dict of torchvision's names, on CPU.

    Args:
        path: A file of safetensors, of torch, or of Caffe.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        ValueError: for an unknown suffix or a file that does not parse.

    Example:
        >>> from encoders.spec import get_spec
        >>> state = load_state(find_weights(get_spec("inception_mini")))
        >>> len(state) > 0
        True
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth", ".pt", ".caffemodel"):
        raise ValueError(f"{path}: weights are .safetensors, .pth or .caffemodel files")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".caffemodel":
            return read_caffemodel(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message recommends to unpickle whatever it is, at length.
        reason = type(error).__name__ if path.suffix in (".pth", ".pt") else error
        raise ValueError(
            f"{path} cannot be read as a weight file ({reason}): delete it; then "
            f"{_remedy(path.name)}"
        ) from error
    named = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.device.type == "cpu"
        for name, tensor in state.items()
    )
    if not named:
        raise ValueError(f"{path} holds no tensors by name: delete it; then {_remedy(path.name)}")
    return state
