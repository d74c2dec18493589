"""BankDescription: everything that determines what a FeatureBank holds, as `bank.json` has it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

_ADDED = ("context_grid", "context_channels", "low_fixations", "patch_side", "backend")
_TEXTS = ("split", "dataset", "encoder", "encoder_name", "precision", "backend")


class BankMismatchError(ValueError):
    """A bank holds the features of something else than what it is asked for."""


@dataclass(frozen=True)
class BankDescription:
    """Everything that determines a bank's content.

    Example:
        >>> middle = ((0.0, 0.0),)
        >>> description = BankDescription(
        ...     split="train", dataset="1f", encoder="2e", encoder_name="googlenet",
        ...     precision="fp32", num_images=100, feature_size=1024, resolutions=("low",),
        ...     mirrored=True, fixations=middle, context_fixations=middle, noise_seed=0,
        ... )
        >>> description.context_shape
        (100, 2, 1, 1024)
    """

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
    """N, the number of images."""
    feature_size: int
    """D, the number of features of a patch."""
    resolutions: tuple[str, ...]
    """S names, in the order of the glimpse array's axis."""
    mirrored: bool
    """Whether mirrored images are there too (M = 2)."""
    fixations: tuple[tuple[float, float], ...]
    """L lattice points (x, y)."""
    context_fixations: tuple[tuple[float, float], ...]
    """C places of the context patch."""
    noise_seed: int
    """Seed of the noise outside the image; see `FeatureBank.noise_keys`."""
    chunk: int = 64
    """Images a chunk: the unit of resuming."""
    context_grid: int = 1
    """G: beside its features a context has the G x G cells of the feature map; 1 for none."""
    context_channels: int = 0
    """C, numbers a cell; 0 without cells."""
    low_fixations: tuple[tuple[float, float], ...] = ()
    """Lattice points of the resolution `low`, if it has a lattice of its own."""
    patch_side: int = 96
    """P, side of the patches that were encoded; banks of earlier versions have no other."""
    backend: str = "torch"
    """Library that computed it, `torch` or `openvino`; of earlier versions no other."""

    def __post_init__(self) -> None:
        """Check the sizes, which the arrays on disk follow from, and the types of the rest.

        Raises:
            ValueError: for a size that is no positive whole number, a point beyond the image, or
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
        for name in ("fixations", "context_fixations", "low_fixations"):
            points = np.array(getattr(self, name), np.float64).reshape(-1, 2)
            empty = not len(points) and name != "low_fixations"
            if empty or not (np.abs(points) <= 1).all():
                raise ValueError(f"{name} of a bank are one or more points in [-1, 1] x [-1, 1]")
        if self.low_fixations and "low" not in self.resolutions:
            raise ValueError("low_fixations are of a bank that holds the resolution 'low'")
        for name, least in (("context_grid", 1), ("context_channels", 0), ("patch_side", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(
                    f"{name} of a bank is a whole number from {least} on, not {value!r}"
                )
        if (self.context_grid > 1) != (self.context_channels > 0):
            raise ValueError("a bank has context_channels where its context_grid is above 1")

    @property
    def num_mirrors(self) -> int:
        """M, the number of mirrored forms stored: 1 or 2."""
        return 2 if self.mirrored else 1

    @property
    def num_chunks(self) -> int:
        """Chunks of images, the last perhaps smaller."""
        return -(-self.num_images // self.chunk)

    @property
    def context_shape(self) -> tuple[int, int, int, int]:
        """[N, M, C, D]."""
        return (self.num_images, self.num_mirrors, len(self.context_fixations), self.feature_size)

    @property
    def cells_shape(self) -> tuple[int, int, int, int]:
        """[N, M, P, G * G * C]."""
        return (*self.context_shape[:3], self.context_grid**2 * self.context_channels)

    @property
    def fine_resolutions(self) -> tuple[str, ...]:
        """Names on the lattice `fixations`: all of them unless `low` has a lattice of its own."""
        return tuple(r for r in self.resolutions if r != "low" or not self.low_fixations)

    @property
    def glimpse_shape(self) -> tuple[int, int, int, int, int]:
        """[N, M, L, S, D], S of the fine resolutions."""
        points, scales = len(self.fixations), len(self.fine_resolutions)
        return (self.num_images, self.num_mirrors, points, scales, self.feature_size)

    @property
    def low_shape(self) -> tuple[int, int, int, int]:
        """[N, M, points, D] of the resolution `low` on a lattice of its own."""
        points = len(self.low_fixations)
        return (self.num_images, self.num_mirrors, points, self.feature_size)

    @property
    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each fp16 array, by the name of its file; those that are empty are left out."""
        shapes: dict[str, tuple[int, ...]] = {
            "context.f16": self.context_shape,
            "context_cells.f16": self.cells_shape,
            "glimpse.f16": self.glimpse_shape,
            "low.f16": self.low_shape,
        }
        return {name: shape for name, shape in shapes.items() if math.prod(shape)}

    @property
    def num_bytes(self) -> int:
        """Size on disk (fp16), descriptions aside."""
        return 2 * sum(math.prod(shape) for shape in self.array_shapes.values())

    def record(self) -> dict[str, Any]:
        """Return the record of `bank.json`, as JSON reads it back.

        Fields that were added later are left out where they have their default, so that a bank
        without them has the record that it always had.
        """
        added = {f.name: f.default for f in fields(self) if f.name in _ADDED}
        record = {k: v for k, v in asdict(self).items() if k not in added or v != added[k]}
        return json.loads(json.dumps(record))


def damaged(path: Path, error: Exception) -> BankMismatchError:
    """The error to raise for a description that is not one."""
    return BankMismatchError(
        f"{path} is not a bank's description ({error}): delete the folder and run `glimpse bank` "
        "again"
    )


def read_record(path: Path) -> dict[str, Any]:
    """Content of a `bank.json`; BankMismatchError if it is anything but a JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise damaged(path, error) from error
    if not isinstance(record, dict):
        raise damaged(path, TypeError("no JSON object"))
    return record


def read_description(path: Path, version: int) -> BankDescription:
    """Read a `bank.json` of one version of the format.

    Raises:
        BankMismatchError: if it is of another format, or no description.
    """
    try:
        record = read_record(path)
        if record.pop("format") != version:
            raise BankMismatchError(f"{path} is of another format: make the bank again")
        for key in ("fixations", "context_fixations", "low_fixations"):
            record[key] = tuple((float(x), float(y)) for x, y in record.get(key, ()))
        if not isinstance(record["resolutions"], list):
            raise TypeError("resolutions are a list")
        record["resolutions"] = tuple(record["resolutions"])
        return BankDescription(**record)
    except BankMismatchError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, error) from error
