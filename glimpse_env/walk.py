"""The order in which environments visit the images of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

# Keeps the orders of seeds apart from the streams that a generator of the same seed spawns.
_ORDER_OF_SEED = int.from_bytes(b"walk", "big")


def epoch_order(
    count: int, seed: int | Sequence[int], epoch: int, *, apart: bool = False
) -> Int64[np.ndarray, " N"]:
    """Return the random order of one epoch: every shuffled pass over images is drawn here.

        epoch_order(5, seed=0, epoch=0)  # 2, 4, 3, 0, 1

    Args:
        count: N, images an epoch.
        seed: From 0, or several numbers that together are one. Different ones, and different
            epochs, give unrelated orders.
        epoch: From 0.
        apart: Draw it apart from every stream that a generator of the same seed spawns.

    Returns:
        The indices 0 to N - 1, shuffled.
    """
    if apart:
        source = np.random.SeedSequence(seed, spawn_key=(_ORDER_OF_SEED, epoch))
    else:
        parts = [seed] if isinstance(seed, (int, np.integer)) else seed
        source = np.random.SeedSequence((*parts, epoch))
    return np.random.default_rng(source).permutation(count)


class Walk:
    """Order of the images: every image once an epoch, shared out among environments.

    Environment b visits positions i + (b + k B) n, k = 0, 1, ..., of the epochs laid end to end,
    where `shard=(i, n)` and B is the number of environments: what `shard=(i + b n, B n)` visits
    alone. With `repeats` each image is visited by that many environments side by side: environment
    b goes where environment b // repeats of B / repeats would.

    A *sharded* walk is given its `order_seed` once: all environments that are given the same one
    share one order, whatever they are seeded with. An *unsharded* walk takes its order and its
    first image from the seed of its environment; see `follow`.

    Attributes:
        num_images: N, images an epoch.
        sharded: Whether `order_seed` was given.
    """

    def __init__(
        self,
        num_images: int,
        num_envs: int,
        *,
        shuffled: bool,
        order_seed: int | None,
        shard: tuple[int, int],
        repeats: int = 1,
    ) -> None:
        """Stand at the start.

        Args:
            num_images: Images an epoch.
            num_envs: B.
            shuffled: In an order determined by the seed and the epoch, else in that of the list.
            order_seed: The seed of a sharded walk; None makes an unsharded one, of B = 1.
            shard: (i, n).
            repeats: Environments in a row that visit each image; divides B.
        """
        self.num_images = num_images
        self._shuffled, self.sharded = shuffled, order_seed is not None
        self._seed = order_seed or 0
        index, count = shard
        self._start = index + count * (np.arange(num_envs, dtype=np.int64) // repeats)
        self._stride = count * (num_envs // repeats)
        self._position = self._start.copy()
        self._orders: dict[int, Int64[np.ndarray, " N"]] = {}

    def restart(self, rows: Int64[np.ndarray, " n"], epoch: int = 0) -> None:
        """Go back (or ahead) to the start of an epoch, in the current order."""
        self._position[rows] = self._start[rows] + epoch * self.num_images

    def follow(self, seed: int, first: int = 0) -> None:
        """Go back to the start, as an environment does that is seeded.

        An unsharded walk takes the order of that seed where it is shuffled, and else starts at
        image `first` modulo N. A sharded walk keeps its order.

        Args:
            seed: From 0, of any size. Different ones give unrelated orders.
            first: From 0.
        """
        self._position[:] = self._start
        if self.sharded:
            return
        if self._shuffled:
            self._seed, self._orders = seed, {}
        else:
            self._position += first % self.num_images

    def advance(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the next image of each environment in `rows`, and step on."""
        image = self.upcoming(rows)
        self._position[rows] += self._stride
        return image

    def upcoming(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the next image of each environment in `rows`, without a step."""
        epoch, place = np.divmod(self._position[rows], self.num_images)
        if not self._shuffled:
            return place
        image = np.empty_like(place)
        for value in np.unique(epoch).tolist():
            chosen = epoch == value
            image[chosen] = self._order(value)[place[chosen]]
        return image

    @property
    def position(self) -> list[int]:
        """Position of each environment in its walk; setting it continues from there."""
        return self._position.tolist()

    @position.setter
    def position(self, value: list[int]) -> None:
        self._position[:] = value

    def _order(self, epoch: int) -> Int64[np.ndarray, " N"]:
        if epoch not in self._orders:
            if len(self._orders) >= 4:  # environments are rarely more than an epoch apart
                self._orders.pop(min(self._orders))
            self._orders[epoch] = epoch_order(
                self.num_images, self._seed, epoch, apart=not self.sharded
            )
        return self._orders[epoch]
