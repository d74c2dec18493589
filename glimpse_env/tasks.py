"""What an episode asks for after its looks, and how the answer is paid.

A task is three things: the key and the space of its answer, and the score. The looks, the walk over
the images, the scalar and the vector environment and every option are the same for all tasks:

    class Count(Task):
        key = "count"

        def space(self, dataset):
            return spaces.Discrete(4)

        def score(self, dataset, image, mirror, answer):
            right = answer == np.array([len(dataset.boxes(i)) for i in image])
            return right.astype(np.float64), {"is_success": right}

    class CountEnv(GlimpseEnv):
        task = Count()
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction
from jaxtyping import Bool, Float64, Int64

from glimpse_env.datasets.base import ImageDataset
from glimpse_env.forms import as_floats, as_numpy, form


class Task:
    """A question to answer; subclass it, or give any object with these three."""

    key: ClassVar[str]
    """Name of the answer in an action."""

    def space(self, dataset: ImageDataset) -> spaces.Space:
        """Return the space of one answer: Discrete, or Box of one axis within [-1, 1]."""
        raise NotImplementedError

    def score(
        self,
        dataset: ImageDataset,
        image: Int64[np.ndarray, " n"],
        mirror: Bool[np.ndarray, " n"],
        answer: np.ndarray,
    ) -> tuple[Float64[np.ndarray, " n"], dict[str, np.ndarray]]:
        """Return what answers earn, and what the info tells of each: a number a row.

        Args:
            dataset: The images.
            image: Which were looked at.
            mirror: Whether they were seen mirrored.
            answer: The answers, [n] or [n, k].

        Returns:
            Rewards, and facts by name; `is_success`, a truth value, is one of them.
        """
        raise NotImplementedError


class NameBreed(Task):
    """Name the class: 1 for the right one, else 0."""

    key = "label"

    def space(self, dataset: ImageDataset) -> spaces.Space:
        """One number a class."""
        return spaces.Discrete(len(dataset.class_names))

    def score(
        self,
        dataset: ImageDataset,
        image: Int64[np.ndarray, " n"],
        mirror: Bool[np.ndarray, " n"],
        answer: np.ndarray,
    ) -> tuple[Float64[np.ndarray, " n"], dict[str, np.ndarray]]:
        """Whether it is right; the info tells the truth."""
        truth = np.asarray(dataset.labels, np.int64)[image]
        right = answer == truth
        return right.astype(np.float64), {"label": truth, "is_success": right}


NAME_BREED = NameBreed()
"""The task of `DogsGlimpse-v0`."""

# -- the form of answers --------------------------------------------------------------------------


def parse_answer(key: str, space: spaces.Space, value: Any, lead: tuple[int, ...]) -> np.ndarray:
    """Return answers as an array [B] or [B, k], its form checked.

    Raises:
        InvalidAction: A wrong shape or dtype.
    """
    if isinstance(space, spaces.Discrete):
        answer = as_numpy(key, value)
        if answer.dtype.kind not in "iu" or answer.shape != lead:
            raise InvalidAction(
                f"{key} is {form(lead, 'integers')}, not {answer.dtype} of shape {answer.shape}"
            )
        return answer.reshape(-1).astype(np.int64)
    shape = space.shape or ()
    return as_floats(key, value, (*lead, *shape)).reshape(-1, *shape)


def check_answer(key: str, space: spaces.Space, answer: np.ndarray) -> None:
    """Check the values of answers that count.

    Raises:
        InvalidAction: One is not finite, or out of range.
    """
    if isinstance(space, spaces.Discrete):
        wrong = (answer < 0) | (answer >= space.n)
        if wrong.any():
            raise InvalidAction(f"{key} must be 0 to {space.n - 1}, got {answer[wrong][0]}")
    elif not np.isfinite(answer).all():
        raise InvalidAction(f"{key} must be finite, in [-1, 1]; got {answer}")
