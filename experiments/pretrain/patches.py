"""Random multi-scale patches of a labelled data set, of any size (paper section 2).

Images are decoded ahead of use by a pool of threads and kept while they fit in the memory given,
so that a data set of a million files needs no more of it than one of a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from encoders.spec import Normalisation, get_spec
from experiments.pretrain.config import PretrainConfig
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.pyramid import Pyramid, dataset_pyramid
from glimpse_env.retina.rules import cut_patches
from glimpse_env.walk import epoch_order


@dataclass(frozen=True)
class Batch:
    """Glimpses of one step."""

    patches: UInt8[np.ndarray, "B S P P 3"]
    """RGB patches of all looks."""
    labels: Int64[np.ndarray, " B"]
    """Classes of their images."""


class PatchSampler:
    """Random multi-scale patches of a data set; batch t depends on (seed, t) alone.

    Args:
        config: Of the run.
        dataset: The images and their classes; boxes are not asked for.
        indices: Draw from these images only.
        share: (i, n) is the i-th of n equal parts of every batch, by images; the n parts, in
            order, are the batch of (0, 1).
    """

    def __init__(
        self,
        config: PretrainConfig,
        dataset: ImageDataset,
        indices: np.ndarray,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Open no image yet."""
        self.config, self.dataset, self.indices, self.share = config, dataset, indices, share
        self.room = config.cache_mb * 2**20
        self._kept: dict[int, Pyramid] = {}
        self._lock = Lock()
        # A million images take a while to shuffle; a batch touches two epochs at most.
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return self.indices[epoch_order(len(self.indices), (self.config.seed, 1), epoch)]

    def _pyramid(self, index: int) -> Pyramid:
        """Decode an image unless it is kept.

        What has no room is not kept: all images come again once an epoch, so dropping one for
        another gains nothing.
        """
        pyramid = self._kept.get(index)
        if pyramid is None:
            pyramid = dataset_pyramid(self.dataset, index, self.config.resolutions)
            with self._lock:
                if index not in self._kept and pyramid.nbytes <= self.room:
                    self._kept[index] = pyramid
                    self.room -= pyramid.nbytes
        return pyramid

    def batch(self, step: int) -> Batch:
        """Cut the glimpses of a step: the next images in shuffled order, each looked at often."""
        config = self.config
        positions = np.arange(step * config.images, (step + 1) * config.images)
        chosen = np.concatenate(
            [
                self._order(int(epoch))[
                    positions[positions // len(self.indices) == epoch] % len(self.indices)
                ]
                for epoch in np.unique(positions // len(self.indices))
            ]
        )
        # Everything is drawn for the whole batch, whoever cuts which part of it.
        count = len(chosen) * config.looks
        rng = np.random.default_rng([config.seed, 2, step])
        fixations = rng.uniform(-config.extent, config.extent, (count, 2))
        mirrored = rng.random(count) < 0.5
        keys = rng.integers(0, 2**64, count, dtype=np.uint64)
        number, parts = self.share
        own = slice(len(chosen) * number // parts, len(chosen) * (number + 1) // parts)
        rows = slice(own.start * config.looks, own.stop * config.looks)
        patches = cut_patches(
            [
                pyramid
                for pyramid in map(self._pyramid, chosen[own].tolist())
                for _ in range(config.looks)
            ],
            fixations[rows],
            mirrored[rows],
            keys[rows],
            config.resolutions,
        )
        return Batch(patches, self.dataset.labels[np.repeat(chosen[own], config.looks)])

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` to `stop`, the next ones prepared by other threads meanwhile."""
        pool, depth = ThreadPoolExecutor(self.config.loaders), self.config.loaders + 2
        try:
            ahead = [pool.submit(self.batch, t) for t in range(start, min(start + depth, stop))]
            for step in range(start, stop):
                ready = ahead.pop(0).result()
                if step + depth < stop:
                    ahead.append(pool.submit(self.batch, step + depth))
                yield ready
        finally:
            pool.shutdown(cancel_futures=True)


MINI_NORMALISATION = get_spec("inception_mini").normalisation


def normalise(
    patches: UInt8[np.ndarray, "*shape P P 3"],
    device: str | torch.device,
    scale: Normalisation = MINI_NORMALISATION,
) -> Float[Tensor, "*shape 3 P P"]:
    """RGB bytes to a network's input, channels first."""
    x = torch.from_numpy(patches).to(device)
    mean, std = (torch.tensor(v, device=device) for v in (scale.mean, scale.std))
    return ((x.float() - mean) / std).movedim(-1, -3)
