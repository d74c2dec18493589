"""Between an environment's own Dict spaces and flat ones, for `env_wrappers.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction
from gymnasium.spaces.utils import flatten_space
from jaxtyping import Float, Int64

from encoders.bank.points import lattice
from glimpse_env.forms import as_numpy

# -- observations ------------------------------------------------------------------------------


def is_glimpse(name: str) -> bool:
    """Say whether a part of an observation has an axis S."""
    return name.startswith("glimpse")


def join_space(space: spaces.Space) -> spaces.Space:
    """Join the patches of a glimpse and the cells of a context.

    A glimpse goes from (S, D) to (S * D,), or from (S, P, P, 3) to (S * P, P, 3); a context from
    (G, G, C) to (G * G * C,), so that nobody takes it for an image.
    """
    if not isinstance(space, spaces.Dict):
        return space
    joined = dict(space.spaces)
    for name, box in space.spaces.items():
        if not isinstance(box, spaces.Box):
            continue
        shape = _joined_shape(name, box.shape, box.dtype)
        if shape != box.shape:
            joined[name] = spaces.Box(
                box.low.reshape(shape),
                box.high.reshape(shape),
                dtype=box.dtype.type,  # type: ignore[arg-type, union-attr]
            )
    return spaces.Dict(joined)


def join(observation: Any, batch_axes: int) -> Any:
    """Join the patches of glimpses and the cells of contexts, in an observation or a batch."""
    if not isinstance(observation, Mapping):
        return observation
    joined = dict(observation)
    for name, value in observation.items():
        lead, own = tuple(value.shape[:batch_axes]), tuple(value.shape[batch_axes:])
        shape = _joined_shape(name, own, value.dtype)
        if shape != own:
            joined[name] = value.reshape((*lead, *shape))
    return joined


def _joined_shape(name: str, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Shape of a part of one observation once its patches or cells are joined."""
    if is_glimpse(name):
        return (shape[0] * shape[1], *shape[2:])
    if name == "context" and len(shape) == 3 and not str(dtype).endswith("uint8"):
        return (math.prod(shape),)  # cells; pixels stay an image
    return shape


def concatenate(observation: dict[str, Any], batch_axes: int) -> Any:
    """Flatten all parts of an observation to float32 and lay them end to end."""
    parts = [v.reshape((*v.shape[:batch_axes], -1)) for _, v in sorted(observation.items())]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=-1, dtype=np.float32)
    import torch

    return torch.cat([part.float() for part in parts], dim=-1)


def flat_space(space: spaces.Space) -> spaces.Box:
    """Return the space of `concatenate`."""
    if not isinstance(space, spaces.Dict):
        raise TypeError(f"FlatObservation goes around Dict observations, not {space}")
    flat = flatten_space(space)
    assert isinstance(flat, spaces.Box)
    return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)


# -- actions -----------------------------------------------------------------------------------


def num_labels(own: spaces.Space | None) -> int:
    """Return the number of classes that an environment's own action names one of.

    Raises:
        TypeError: The action has no Discrete `label`.
    """
    label = own.spaces.get("label") if isinstance(own, spaces.Dict) else None
    if not isinstance(label, spaces.Discrete):
        raise TypeError(
            f"this needs a Discrete `label` in the environment's own action, which {own} has not"
        )
    return int(label.n)


class Codec:
    """A flat action space and the way back to the environment's own."""

    space: spaces.Space

    def __init__(self, own: spaces.Space) -> None:
        """Read the sizes off the environment's action space."""
        if not isinstance(own, spaces.Dict) or "fixation" not in own.spaces:
            raise TypeError(
                f"this goes around a glimpse environment with its own Dict actions, not {own}"
            )
        self.num_classes = num_labels(own)
        # (x, y), and the zoom if that is chosen too.
        self.gaze_size = 2 + ("scale" in own.spaces)

    def decode(self, action: Any, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the environment's own action; `lead` is () or (B,)."""
        raise NotImplementedError

    def gaze(self, values: Float[np.ndarray, "*lead n"]) -> dict[str, np.ndarray]:
        """Split (x, y[, scale])."""
        parts = {"fixation": values[..., :2]}
        if self.gaze_size == 3:
            parts["scale"] = values[..., 2:3]
        return parts


def _floats(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = as_numpy("action", action)
    if array.dtype.kind not in "fiu" or array.shape != shape:
        raise InvalidAction(
            f"the action is an array of numbers of shape {shape}, not {array.dtype} of shape "
            f"{array.shape}"
        )
    if not np.isfinite(array).all():
        raise InvalidAction(f"the action must be finite, in [-1, 1]; got {array}")
    return array.astype(np.float32)


def _integers(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = as_numpy("action", action)
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise InvalidAction(
            f"the action is an array of integers of shape {shape}, not {array.dtype} of shape "
            f"{array.shape}"
        )
    return array.astype(np.int64)


class FlatCodec(Codec):
    """Fixation, zoom if there is one, then the answer: a logit a class, or a Box as it is."""

    def __init__(self, own: spaces.Space) -> None:
        """Read the sizes off the environment's action space."""
        parts = dict(own.spaces) if isinstance(own, spaces.Dict) else {}
        answers = [name for name in parts if name not in ("fixation", "scale")]
        if "fixation" not in parts or len(answers) != 1:
            raise TypeError(
                f"this goes around a glimpse environment with its own Dict actions, not {own}"
            )
        self.key = answers[0]
        answer = parts[self.key]
        self.chooses = isinstance(answer, spaces.Discrete)
        self.answer_size = int(answer.n) if self.chooses else int(answer.shape[0])  # type: ignore[attr-defined, index]
        self.gaze_size = 2 + ("scale" in parts)
        self.space = spaces.Box(-1, 1, (self.gaze_size + self.answer_size,), np.float32)

    def decode(self, action: Any, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the environment's own action."""
        values = _floats(action, (*lead, self.gaze_size + self.answer_size))
        answer = values[..., self.gaze_size :]
        if self.chooses:
            answer = answer.argmax(axis=-1)
        return {**self.gaze(values[..., : self.gaze_size]), self.key: answer}


class LatticeCodec(Codec):
    """One of side * side fixations, then the class; `flat`: one number, read as either."""

    def __init__(self, own: spaces.Space, side: int, flat: bool = False) -> None:
        """Read the sizes off the environment's action space."""
        super().__init__(own)
        if self.gaze_size == 3:
            raise ValueError("a lattice sets no zoom: make the environment with choose_scale=False")
        self.points, self.flat = lattice(side), flat
        self.space: spaces.Space = spaces.MultiDiscrete([len(self.points), self.num_classes])
        if flat:
            self.space = spaces.Discrete(max(len(self.points), self.num_classes))

    def decode(self, action: Any, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the environment's own action."""
        if self.flat:
            return self._decode_flat(action, lead)
        values = _integers(action, (*lead, 2))
        point: Int64[np.ndarray, "*lead"] = values[..., 0]
        if (point < 0).any() or (point >= len(self.points)).any():
            raise InvalidAction(f"the lattice point must be 0 to {len(self.points) - 1}")
        return {"fixation": self.points[point], "label": values[..., 1]}

    def _decode_flat(self, action: Any, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
        # The environment takes no notice of the label while looking, nor of the place at the
        # answer: one number can stand for both.
        space = self.space
        assert isinstance(space, spaces.Discrete)
        number: Int64[np.ndarray, "*lead"] = _integers(action, lead)
        if (number < 0).any() or (number >= space.n).any():
            raise InvalidAction(f"the action must be 0 to {space.n - 1}")
        point = number % len(self.points)
        return {"fixation": self.points[point], "label": number % self.num_classes}


class GazeCodec(Codec):
    """The fixation alone, with the zoom if there is one; something else answers."""

    def __init__(self, own: spaces.Space) -> None:
        """Read the sizes off the environment's action space."""
        super().__init__(own)
        self.space = spaces.Box(-1, 1, (self.gaze_size,), np.float32)

    def decode(self, action: Any, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the environment's own action."""
        values = _floats(action, (*lead, self.gaze_size))
        return {**self.gaze(values), "label": np.zeros(lead, np.int64)}

    def answer(self, label: np.ndarray) -> dict[str, np.ndarray]:
        """Return an action that answers."""
        gaze = np.zeros((*label.shape, self.gaze_size), np.float32)
        return {**self.gaze(gaze), "label": label}


class GazeLatticeCodec(GazeCodec):
    """One of side * side fixations as one number; something else answers."""

    def __init__(self, own: spaces.Space, side: int) -> None:
        """Read the sizes off the environment's action space."""
        super().__init__(own)
        if self.gaze_size == 3:
            raise ValueError("a lattice sets no zoom: make the environment with choose_scale=False")
        self.points = lattice(side)
        self.space: spaces.Space = spaces.Discrete(len(self.points))

    def decode(self, action: Any, lead: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the environment's own action."""
        point: Int64[np.ndarray, "*lead"] = _integers(action, lead)
        if (point < 0).any() or (point >= len(self.points)).any():
            raise InvalidAction(f"the lattice point must be 0 to {len(self.points) - 1}")
        return {"fixation": self.points[point], "label": np.zeros(lead, np.int64)}
