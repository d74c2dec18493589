"""Read the blobs of a `.caffemodel` without Caffe: a protobuf wire-format walk, nothing executed.

Only four message types matter (caffe.proto): NetParameter (layers: field 2 in the V1 form, 100 in
the later one), a layer (name and blobs), BlobProto (data and shape), BlobShape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers of (name, blobs) by the field of NetParameter that holds the layer.
_LAYER_FIELDS = {2: (4, 6), 100: (1, 7)}


class CaffeModelError(ValueError):
    """The file is not a well-formed `.caffemodel`, or not that of BVLC GoogLeNet."""


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise CaffeModelError("a varint runs past the end: the file is truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield (field number, wire type, value) of one message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise CaffeModelError(f"wire type {wire} is not protobuf")
        if at + size > len(data):
            raise CaffeModelError("a field runs past the end: the file is truncated")
        yield number, wire, data[at : at + size]
        at += size


def _blob(data: memoryview) -> np.ndarray:
    """Decode BlobProto: `data` = 5 (floats), `shape` = 7, or the legacy num..width = 1..4."""
    legacy: dict[int, int] = {}
    dims: list[int] | None = None
    parts: list[memoryview] = []
    for number, _, value in _fields(data):
        if number == 5 and isinstance(value, memoryview):
            parts.append(value)
        elif number == 7 and isinstance(value, memoryview):
            dims = []
            for field, _, item in _fields(value):
                if field != 1:
                    continue
                if isinstance(item, int):
                    dims.append(item)
                else:
                    at = 0
                    while at < len(item):
                        dim, at = _varint(item, at)
                        dims.append(dim)
        elif number in (1, 2, 3, 4) and isinstance(value, int):
            legacy[number] = value
    raw = b"".join(parts)
    if len(raw) % 4:
        raise CaffeModelError("a blob is not a whole number of floats")
    flat = np.frombuffer(raw, dtype="<f4").copy()
    shape = dims if dims is not None else [legacy.get(i, 1) for i in (1, 2, 3, 4)]
    # numpy has 64 dimensions at most (32 before version 2), Caffe's blobs four.
    if len(shape) > 8 or math.prod(shape) != flat.size or max(shape, default=0) > 2**31:
        raise CaffeModelError(f"a blob of shape {shape} holds {flat.size} numbers")
    return flat.reshape(shape)


def read_blobs(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Return layer name -> its blobs (weight, bias), for the layers that have any.

    Args:
        path: A `.caffemodel` file.

    Returns:
        Arrays of each layer, by its name.

    Raises:
        CaffeModelError: if the file is not well formed.

    Example:
        >>> read_blobs("bvlc_googlenet.caffemodel").keys()  # doctest: +SKIP
    """
    layers: dict[str, list[np.ndarray]] = {}
    for number, wire, value in _fields(memoryview(Path(path).read_bytes())):
        if number not in _LAYER_FIELDS or wire != _BYTES:
            continue
        assert isinstance(value, memoryview)
        name_field, blob_field = _LAYER_FIELDS[number]
        name, blobs = "", []
        for field, inner, item in _fields(value):
            if inner != _BYTES or not isinstance(item, memoryview):
                continue
            if field == name_field:
                name = bytes(item).decode("utf-8", "replace")
            elif field == blob_field:
                blobs.append(_blob(item))
        if blobs:
            layers[name] = blobs
    return layers


def _googlenet_names() -> dict[str, str]:
    """Caffe's layer names -> torchvision's module names."""
    names = {
        "conv1/7x7_s2": "conv1.conv",
        "conv2/3x3_reduce": "conv2.conv",
        "conv2/3x3": "conv3.conv",
        "loss3/classifier": "fc",
    }
    branches = {
        "1x1": "branch1.conv",
        "3x3_reduce": "branch2.0.conv",
        "3x3": "branch2.1.conv",
        "5x5_reduce": "branch3.0.conv",
        "5x5": "branch3.1.conv",
        "pool_proj": "branch4.1.conv",
    }
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        for theirs, ours in branches.items():
            names[f"inception_{block}/{theirs}"] = f"inception{block}.{ours}"
    return names


def read_caffemodel(path: str | Path) -> dict[str, Tensor]:
    """Read BVLC GoogLeNet into torchvision's parameter names, for RGB input.

    Caffe's input is BGR, so conv1's input channels are reversed. Auxiliary heads are left out.

    Args:
        path: BVLC's `.caffemodel` file of GoogLeNet.

    Returns:
        Tensors under the names of torchvision's GoogLeNet.

    Raises:
        CaffeModelError: if the file is not well formed or a layer is absent.

    Example:
        >>> state = read_caffemodel("bvlc_googlenet.caffemodel")  # doctest: +SKIP
    """
    layers = read_blobs(path)
    state: dict[str, Tensor] = {}
    for theirs, ours in _googlenet_names().items():
        if len(layers.get(theirs, ())) != 2:
            raise CaffeModelError(f"layer {theirs} with weight and bias is not in {path}")
        weight, bias = layers[theirs]
        if weight.ndim < 2 or (ours == "conv1.conv" and weight.ndim != 4):
            raise CaffeModelError(f"layer {theirs} has a weight of shape {weight.shape} in {path}")
        if ours == "fc":
            if weight.size != math.prod(weight.shape[-2:]):
                raise CaffeModelError(f"layer {theirs} is not a matrix in {path}")
            weight = weight.reshape(weight.shape[-2:])
        elif ours == "conv1.conv":
            weight = np.ascontiguousarray(weight[:, ::-1])
        state[f"{ours}.weight"] = torch.from_numpy(weight)
        state[f"{ours}.bias"] = torch.from_numpy(bias.reshape(-1))
    return state
