"""What callers pass, as numpy arrays of a checked form."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import InvalidAction
from jaxtyping import Float32, Int64


def as_numpy(name: str, value: Any) -> np.ndarray:
    """Return an array or a tensor, wherever it is, as a numpy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidAction(f"{name} is no array: {error}") from error


def as_floats(name: str, value: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "*shape"]:
    """Return numbers of a shape as float32, or raise InvalidAction."""
    array = as_numpy(name, value)
    if array.dtype.kind not in "fiu" or array.shape != shape:
        raise InvalidAction(
            f"{name} is {form(shape, 'numbers')}, not {array.dtype} of shape {array.shape}"
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def as_integers(name: str, value: Any) -> Int64[np.ndarray, "*shape"]:
    """Return integers of a reset option as int64, or raise TypeError."""
    array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"reset option {name!r} is an integer, not {value!r}")
    return array.astype(np.int64)


def form(shape: tuple[int, ...], what: str) -> str:
    """Say in words what is expected: an array, or one value."""
    return f"an array of {what} of shape {shape}" if shape else f"one of the {what}"
