"""One vector environment that several processes play together, each a share of its images.

What costs time with a live encoder, decoding, the retina and the encoder, is divided; what comes of
it is gathered, so that every process has the whole batch. Everything after that, the agent's draws,
losses and steps, is the same in all of them, and their weights stay equal without being sent. The
result is that of one process on the same batch, up to the order in which the encoder adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from gymnasium.vector import VectorEnv
from jaxtyping import Int

from experiments.runtime.distributed import Ranks


def share_rows(num_envs: int, repeats: int, ranks: Ranks) -> Int[np.ndarray, " b"]:
    """Rows of the whole batch that a process plays.

    Images are dealt out one by one, each with all its repeats, as an environment with
    `shard=(rank, count)` walks over them.

    Args:
        num_envs: B, of the whole batch.
        repeats: M, rows of an image.
        ranks: This process among all.

    Raises:
        ValueError: The images of a batch cannot be shared equally.

    Example:
        >>> share_rows(8, 2, Ranks(rank=1, count=2)).tolist()
        [2, 3, 6, 7]
    """
    images = num_envs // repeats
    if images % ranks.count:
        raise ValueError(
            f"a batch of {images} images cannot be shared equally by {ranks.count} processes: give "
            f"a --batch-size that is a multiple of {ranks.count * repeats}"
        )
    own = np.arange(ranks.rank, images, ranks.count)
    return (own[:, None] * repeats + np.arange(repeats)).ravel()


class SharedEnv:
    """The whole batch, of which this process plays its rows.

    All processes must make the same calls in the same order.

    Attributes:
        num_envs: B, of the whole batch.
    """

    def __init__(self, own: VectorEnv, ranks: Ranks) -> None:
        """Take this process's environment, made with `shard=(rank, count)`.

        Args:
            own: Of B / count environments.
            ranks: This process among all.
        """
        self._own, self._ranks = own, ranks
        self.num_envs = own.num_envs * ranks.count
        repeats = getattr(own, "repeats", 1)
        shares = [
            share_rows(self.num_envs, repeats, Ranks(rank, ranks.count))
            for rank in range(ranks.count)
        ]
        self._rows = shares[ranks.rank]
        # Gathered rows stand rank after rank.
        self._order = np.argsort(np.concatenate(shares), kind="stable")

    def __getattr__(self, name: str) -> Any:
        """Return the environment's own, for what does not depend on the batch."""
        if name == "_own":  # not there yet while being unpickled
            raise AttributeError(name)
        return getattr(self._own, name)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """As the whole environment would: environment i is seeded with `seed + i`."""
        seeds = None if seed is None else [seed + int(row) for row in self._rows]
        if options is not None and "image" in options:
            options = {**options, "image": np.asarray(options["image"])[self._rows]}
        return self._gathered(self._own.reset(seed=seeds, options=options))  # type: ignore[arg-type]

    def step(self, action: Mapping[str, Any]) -> tuple[Any, ...]:
        """As the whole environment would."""
        rows = self._rows
        own = {
            name: value[torch.as_tensor(rows, device=value.device)]
            if isinstance(value, torch.Tensor)
            else value[rows]
            for name, value in action.items()
        }
        return self._gathered(self._own.step(own))

    @property
    def random_state(self) -> list[dict[str, Any]]:
        """State of every environment of the batch; all processes must ask for it."""
        box: list[Any] = [None] * self._ranks.count
        dist.all_gather_object(box, self._own.random_state)  # type: ignore[attr-defined]
        states = [state for each in box for state in each]
        return [states[i] for i in self._order]

    @random_state.setter
    def random_state(self, states: list[dict[str, Any]]) -> None:
        self._own.random_state = [states[i] for i in self._rows]  # type: ignore[attr-defined]

    def _gathered(self, own: tuple[Any, ...]) -> tuple[Any, ...]:
        """The rows of all processes, in the order of the batch.

        Large tensors go one by one, on their device; all that is small goes in one piece.
        """
        tensors: list[torch.Tensor] = []
        rest = _take_out(own, tensors)
        box: list[Any] = [None] * self._ranks.count
        dist.all_gather_object(box, rest)
        gathered = [self._gather_tensor(each) for each in tensors]
        return self._put_together(box, gathered)

    def _gather_tensor(self, own: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(own) for _ in range(self._ranks.count)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)[torch.as_tensor(self._order, device=own.device)]

    def _put_together(self, parts: list[Any], tensors: list[torch.Tensor]) -> Any:
        first = parts[0]
        if isinstance(first, _Tensor):
            return tensors[first.number]
        if isinstance(first, dict):
            return {name: self._put_together([p[name] for p in parts], tensors) for name in first}
        if isinstance(first, tuple):
            columns = zip(*parts, strict=True)
            return tuple(self._put_together(list(column), tensors) for column in columns)
        if isinstance(first, torch.Tensor):
            return torch.cat(parts)[torch.as_tensor(self._order)]
        if isinstance(first, np.ndarray):
            return np.concatenate(parts)[self._order]
        return first


class _Tensor:
    """The place of a tensor that is gathered by itself."""

    def __init__(self, number: int) -> None:
        self.number = number


def _take_out(value: Any, tensors: list[torch.Tensor]) -> Any:
    """The same with every tensor of numbers with a fraction taken out into a list."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        tensors.append(value)
        return _Tensor(len(tensors) - 1)
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _take_out(each, tensors) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_take_out(each, tensors) for each in value)
    return value
