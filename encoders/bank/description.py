"""BankDescription: everything that determines what a FeatureBank holds, as `bank.json` has it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_TEXTS = ("split", "dataset", "encoder", "encoder_name", "precision")


@dataclass(frozen=True)
class BankDescription:
    """Everything that determines a bank's content."""

    split: str
    """Split of the data set."""
    dataset: str
    """Fingerprint of the data set, split included."""
    encoder: str
    """Fingerprint of the encoder."""
    encoder_name: str
    """Name of the encoder's spec, for people."""
    precision: str
    """Arithmetic it was computed in: `fp32`, `bf16`, or `int8:` and a hash of the calibration."""
    num_images: int
    """N."""
    feature_size: int
    """D."""
    resolutions: tuple[str, ...]
    """S names, in the order of the glimpse array's axis."""
    mirrored: bool
    """Whether mirrored pictures are there too (M = 2)."""
    fixations: tuple[tuple[float, float], ...]
    """L lattice points (x, y)."""
    context_fixations: tuple[tuple[float, float], ...]
    """C places of the context patch."""
    noise_seed: int
    """Seed of the noise outside the picture; see `FeatureBank.noise_keys`."""
    chunk: int = 64
    """Pictures a chunk: the unit of resuming."""

    def __post_init__(self) -> None:
        """Check the sizes, which the arrays on disk follow from, and the types of the rest.

        Raises:
            ValueError: for a size that is no positive whole number, a point beyond the picture, or
                a field of another type.
        """
        for name in ("num_images", "feature_size", "chunk"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of a bank is a whole number from 1 on, not {value!r}")
        texts = [getattr(self, name) for name in _TEXTS]
        if not all(isinstance(text, str) for text in (*texts, *self.resolutions)):
            raise ValueError(f"{', '.join(_TEXTS)} and resolutions of a bank are texts")
        if not self.resolutions or len(set(self.resolutions)) != len(self.resolutions):
            raise ValueError(f"resolutions of a bank are distinct, not {self.resolutions}")
        if not isinstance(self.mirrored, bool | np.bool_):
            raise ValueError(f"mirrored of a bank is true or false, not {self.mirrored!r}")
        if not isinstance(self.noise_seed, int | np.integer):
            raise ValueError(f"noise_seed of a bank is a whole number, not {self.noise_seed!r}")
        for name in ("fixations", "context_fixations"):
            points = np.array(getattr(self, name), np.float64).reshape(-1, 2)
            if not len(points) or not (np.abs(points) <= 1).all():
                raise ValueError(f"{name} of a bank are one or more points in [-1, 1] x [-1, 1]")

    @property
    def num_mirrors(self) -> int:
        """M."""
        return 2 if self.mirrored else 1

    @property
    def num_chunks(self) -> int:
        """Chunks of pictures, the last perhaps smaller."""
        return -(-self.num_images // self.chunk)

    @property
    def context_shape(self) -> tuple[int, int, int, int]:
        """[N, M, C, D]."""
        return (self.num_images, self.num_mirrors, len(self.context_fixations), self.feature_size)

    @property
    def glimpse_shape(self) -> tuple[int, int, int, int, int]:
        """[N, M, L, S, D]."""
        points, scales = len(self.fixations), len(self.resolutions)
        return (self.num_images, self.num_mirrors, points, scales, self.feature_size)

    @property
    def num_bytes(self) -> int:
        """Size on disk (fp16), descriptions aside."""
        return 2 * (math.prod(self.context_shape) + math.prod(self.glimpse_shape))
