"""FeatureBank: features computed beforehand on a lattice of fixations, served from memory maps.

A frozen encoder gives the same features for the same patch for ever, so a data set's patches can be
encoded once. An agent then trains on thousands of glimpses a second where the encoder does a few
hundred patches. The price is that fixations snap to the lattice.

On disk a bank is a folder: `bank.json` (what it is), `context.f16` [N, M, P, D], `glimpse.f16`
[N, M, L, S, D] and `done.u8` (one byte a chunk of images). N images, M = 2 if mirrored images
are there too, P context places, L lattice points, S resolutions, D features. A bank with a context
grid G has `context_cells.f16` [N, M, P, G * G * C] too, and one whose low resolution has a coarser
lattice keeps that one's features in `low.f16` [N, M, points, D].
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt64

from encoders.bank.description import (
    BankDescription,
    BankMismatchError,
    read_description,
    read_record,
)
from encoders.bank.points import coinciding, nearest, noise_keys
from encoders.folders import lay_out
from encoders.inference.fused import kernels_available

FORMAT = 1
_DESCRIPTION = "bank.json"


class BankIncompleteError(RuntimeError):
    """A bank's computation has not finished."""


class FeatureBank:
    """Memory-mapped features of a split on a lattice of fixations; read-only once complete.

    Attributes:
        folder: where it lives.
        description: everything that determines its content.
        fixations: float32 [L, 2].
        context_fixations: float32 [P, 2].
        low_fixations: float32 [points, 2], the lattice of the resolution `low`: `fixations` unless
            it has its own.

    Example:
        >>> from tempfile import mkdtemp
        >>> description = BankDescription(
        ...     split="train", dataset="1f", encoder="2e", encoder_name="googlenet",
        ...     precision="fp32", num_images=100, feature_size=8, resolutions=("low",),
        ...     mirrored=False, fixations=((0, 0),), context_fixations=((0, 0),), noise_seed=0,
        ... )
        >>> bank = FeatureBank.create(mkdtemp(), description)
        >>> bank.num_images, bank.complete
        (100, False)
    """

    def __init__(self, folder: str | Path, description: BankDescription, mode: str) -> None:
        """Map the arrays; use `create` or `open`."""
        self.folder = Path(folder)
        self.description = description
        self.fixations = np.array(description.fixations, np.float32).reshape(-1, 2)
        self.context_fixations = np.array(description.context_fixations, np.float32).reshape(-1, 2)
        low = np.array(description.low_fixations, np.float32).reshape(-1, 2)
        self.low_fixations = low if len(low) else self.fixations
        self._map(mode)

    def _map(self, mode: str) -> None:
        self.mode = mode
        shapes = self.description.array_shapes
        found = {name: self._array(name, np.float16, shape) for name, shape in shapes.items()}
        self.context = found["context.f16"]
        self.context_cells = found.get("context_cells.f16")
        self.low = found.get("low.f16")
        # A bank of `low` alone, on its own lattice, has no other glimpses.
        empty = np.zeros(self.description.glimpse_shape, np.float16)
        self.glimpse = found.get("glimpse.f16", empty)
        self.done = self._array("done.u8", np.uint8, (self.description.num_chunks,))

    def _array(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        path = self.folder / name
        # In Python's numbers: numpy's may overflow to a size that fits.
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        found = path.stat().st_size if path.exists() else 0
        if found != expected:
            raise BankMismatchError(
                f"{path} holds {found} bytes, its description asks for {expected}: the bank is "
                "damaged; delete the folder and run `glimpse bank` again"
            )
        return np.memmap(path, dtype=dtype, mode=self.mode, shape=shape)  # type: ignore[call-overload]

    @classmethod
    def create(cls, folder: str | Path, description: BankDescription) -> FeatureBank:
        """Create a bank, or go on with one of the same description.

        Raises:
            BankMismatchError: if the folder holds a bank of another description, or a damaged one.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"format": FORMAT} | description.record()
        path = folder / _DESCRIPTION
        if path.exists():
            found = read_record(path)
            if found != record:
                differing = sorted(
                    k for k in found.keys() | record.keys() if found.get(k) != record.get(k)
                )
                raise BankMismatchError(
                    f"{folder} holds another bank; it differs in: {', '.join(differing)}. "
                    "Give another --out, or delete the folder."
                )
        else:
            shapes = description.array_shapes
            sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
            sizes["done.u8"] = description.num_chunks
            lay_out(folder, sizes, _DESCRIPTION, json.dumps(record, indent=1))
        return cls(folder, description, "r+")

    @classmethod
    def open(cls, folder: str | Path, *, allow_incomplete: bool = False) -> FeatureBank:
        """Open a bank for reading.

        Raises:
            FileNotFoundError: no bank there; the message says how to make one.
            BankIncompleteError: its computation has not finished (unless `allow_incomplete`).
            BankMismatchError: its files do not fit its description.
        """
        path = Path(folder) / _DESCRIPTION
        if not path.is_file():
            raise FileNotFoundError(
                f"no feature bank in {folder} (no {_DESCRIPTION}): make one with `glimpse bank`"
            )
        bank = cls(folder, read_description(path, FORMAT), "r")
        if not allow_incomplete and not bank.complete:
            raise BankIncompleteError(
                f"the bank in {folder} has {int(bank.done.sum())} of {len(bank.done)} chunks: run "
                "the same `glimpse bank` command again and it goes on where it was"
            )
        return bank

    def __getstate__(self) -> dict:
        """Pickle by folder: the other process maps the files itself."""
        return {"folder": self.folder, "description": self.description, "mode": self.mode}

    def __setstate__(self, state: dict) -> None:
        """Map the files again."""
        self.__init__(state["folder"], state["description"], state["mode"])

    # -- what it is ---------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Say whether every chunk has been computed."""
        return bool(np.all(self.done))

    @property
    def split(self) -> str:
        """Split of the data set."""
        return self.description.split

    @property
    def dataset(self) -> str:
        """Fingerprint of the data set."""
        return self.description.dataset

    @property
    def encoder(self) -> str:
        """Fingerprint of the encoder."""
        return self.description.encoder

    @property
    def resolutions(self) -> tuple[str, ...]:
        """Names of the resolutions in the bank, in the order of axis S."""
        return self.description.resolutions

    @property
    def feature_size(self) -> int:
        """D, the number of features of a patch."""
        return self.description.feature_size

    @property
    def context_grid(self) -> int:
        """G of the cells that contexts have; 1 where they have none."""
        return self.description.context_grid

    @property
    def num_images(self) -> int:
        """N, the number of images in the bank."""
        return self.description.num_images

    @property
    def mirrored(self) -> bool:
        """Say whether the bank holds mirrored images too."""
        return self.description.mirrored

    def check(
        self,
        *,
        dataset: str | None = None,
        split: str | None = None,
        encoder: str | None = None,
        resolutions: tuple[str, ...] | None = None,
        patch_side: int | None = None,
    ) -> None:
        """Compare with what is wanted; whatever is None is not compared.

        Raises:
            BankMismatchError: naming what differs.
        """
        d = self.description
        if split is not None and split != d.split:
            raise BankMismatchError(
                f"the bank in {self.folder} is of split {d.split!r}, not {split!r}: pass the bank "
                f"of {split!r}, or make it with `glimpse bank`"
            )
        if dataset is not None and dataset != d.dataset:
            raise BankMismatchError(
                f"the bank in {self.folder} was made from other images (fingerprint "
                f"{d.dataset[:12]}, here {dataset[:12]}; another --num-images, for one, draws "
                "others): make one of these with `glimpse bank`, in another folder, and name it by "
                "--bank"
            )
        if encoder is not None and encoder != d.encoder:
            raise BankMismatchError(
                f"the bank in {self.folder} was made by encoder {d.encoder_name!r} (fingerprint "
                f"{d.encoder[:12]}, wanted {encoder[:12]}): make it again with `glimpse bank`"
            )
        if patch_side is not None and patch_side != d.patch_side:
            raise BankMismatchError(
                f"the bank in {self.folder} was made of patches of {d.patch_side} pixels, not of "
                f"{patch_side}: pass patch_side={d.patch_side} (--patch-side), or make another "
                f"with `glimpse bank --patch-side {patch_side}`"
            )
        absent = [r for r in resolutions or () if r not in d.resolutions]
        if absent:
            raise BankMismatchError(
                f"the bank in {self.folder} holds resolutions {', '.join(d.resolutions)}, not "
                f"{', '.join(absent)}: make one that does with `glimpse bank`"
            )

    # -- what it gives ------------------------------------------------------------------------

    def snap(self, fixation: Float[np.ndarray, "B 2"]) -> Integer[np.ndarray, " B"]:
        """Index of the lattice point nearest to each fixation."""
        return nearest(fixation, self.fixations)

    def snap_context(self, place: Float[np.ndarray, "B 2"]) -> Integer[np.ndarray, " B"]:
        """Index of the context place nearest to each given place."""
        return nearest(place, self.context_fixations)

    def glimpses(
        self,
        image: Integer[np.ndarray, " B"],
        mirror: np.ndarray,
        point: Integer[np.ndarray, " B"],
        resolutions: tuple[str, ...],
    ) -> Float[np.ndarray, "B S D"]:
        """Features of glimpses, axis S in the order of `resolutions`.

        Raises:
            BankMismatchError: for mirrored images that are not in the bank.
        """
        if self.low is not None and "low" in resolutions:
            return self._glimpses_with_low(image, mirror, np.asarray(point), tuple(resolutions))
        scales = [self.description.fine_resolutions.index(name) for name in resolutions]
        shape = self.description.glimpse_shape
        row = self._row(shape, image, mirror, point)[:, None] * shape[3] + np.array(scales)
        features = _take(self.glimpse, row.ravel())
        return features.reshape(len(row), len(scales), self.feature_size)

    def _glimpses_with_low(
        self, image: np.ndarray, mirror: np.ndarray, point: np.ndarray, resolutions: tuple[str, ...]
    ) -> Float[np.ndarray, "B S D"]:
        """Glimpses whose low patch comes from a lattice of its own."""
        assert self.low is not None
        at = resolutions.index("low")
        fine = tuple(name for name in resolutions if name != "low")
        row = self._row(self.description.low_shape, image, mirror, self.low_point(point))
        found = np.empty((len(point), len(resolutions), self.feature_size), np.float32)
        found[:, at] = _take(self.low, row)
        if fine:
            found[:, np.arange(len(resolutions)) != at] = self.glimpses(image, mirror, point, fine)
        return found

    def low_point(self, point: Integer[np.ndarray, " B"]) -> Integer[np.ndarray, " B"]:
        """Index into `low_fixations` of the low patch that is served at lattice points."""
        if self.low is None:
            return np.asarray(point)
        return nearest(self.fixations[np.asarray(point)], self.low_fixations)

    def zooms(
        self, resolutions: tuple[str, ...], order: tuple[str, ...]
    ) -> dict[int, tuple[str, ...]]:
        """List the zooms at which it holds all of these resolutions, with their names.

        A patch twice as wide is the patch of the next coarser resolution, so a bank of several
        resolutions holds zoomed patches without having been asked for them.

        Args:
            resolutions: Names, all of them in the bank.
            order: Names of all resolutions there are, coarsest first, each half as wide as the one
                before.

        Returns:
            For 0, and for those of -1 and 1 (sides halved, doubled) that it holds, the resolutions
            that stand in for the given ones, in their order.
        """
        found = {}
        for zoom in (-1, 0, 1):
            places = [order.index(name) - zoom for name in resolutions]
            names = tuple(order[i] for i in places if 0 <= i < len(order))
            if len(names) == len(resolutions) and set(names) <= set(self.resolutions):
                found[zoom] = names
        return found

    def contexts(
        self,
        image: Integer[np.ndarray, " B"],
        mirror: np.ndarray,
        point: Integer[np.ndarray, " B"],
        grid: int = 1,
    ) -> Float[np.ndarray, "B ..."]:
        """Features [B, D] of context patches, or their cells [B, G, G, C].

        Args:
            image: Which images.
            mirror: Whether they are mirrored.
            point: Indices into `context_fixations`.
            grid: G: 1 for the features, or the grid that the bank was made with.

        Raises:
            BankMismatchError: for mirrored images, or a grid, that are not in the bank.
        """
        grid = self.resolve_grid(grid)
        row = self._row(self.description.context_shape, image, mirror, point)
        if grid == 1 or self.context_cells is None:
            return _take(self.context, row)
        return _take(self.context_cells, row).reshape(len(row), *self.context_shape(grid))

    def resolve_grid(self, grid: int | Literal["auto"]) -> int:
        """Return the context grid that is meant: `auto` is the bank's own.

        Raises:
            BankMismatchError: for one that is neither 1 nor the bank's own.
        """
        own = self.context_grid
        grid = own if grid == "auto" else grid
        if grid not in (1, own):
            served = "1" if own == 1 else f"1 and {own}"
            raise BankMismatchError(
                f"the bank in {self.folder} serves a context grid of {served}, not {grid}: make "
                f"one with `glimpse bank --context-grid {grid}`, in another folder"
            )
        return grid

    def context_shape(self, grid: int) -> tuple[int, ...]:
        """Shape of a context on a grid: (D,) for 1, else (G, G, C)."""
        if grid == 1:
            return (self.feature_size,)
        return (grid, grid, self.description.context_channels)

    def _row(
        self, shape: tuple[int, ...], image: np.ndarray, mirror: np.ndarray, point: np.ndarray
    ) -> np.ndarray:
        """Number of (image, mirror, point) among all, in the order they lie in."""
        parts = (np.asarray(image), self._mirror_index(mirror), np.asarray(point))
        return np.ravel_multi_index(parts, shape[:3])

    def _mirror_index(self, mirror: np.ndarray) -> np.ndarray:
        index = np.asarray(mirror).astype(np.intp)
        if not self.mirrored and index.any():
            raise BankMismatchError(
                f"the bank in {self.folder} has no mirrored images: pass mirror=False "
                "(glimpse train: --mirror off), or make it with `glimpse bank --mirror`"
            )
        return index

    def noise_keys(
        self, image: np.ndarray, mirror: np.ndarray, point: np.ndarray
    ) -> UInt64[np.ndarray, " B"]:
        """Keys of the noise outside the image at lattice points (`fixations`)."""
        return noise_keys(self.description.noise_seed, image, mirror, point)

    def context_noise_keys(
        self, image: np.ndarray, mirror: np.ndarray, point: np.ndarray
    ) -> UInt64[np.ndarray, " B"]:
        """Keys of the noise at context places: a lattice point's own where the two coincide."""
        return noise_keys(
            self.description.noise_seed, image, mirror, self.context_points()[np.asarray(point)]
        )

    def low_noise_keys(
        self, image: np.ndarray, mirror: np.ndarray, point: np.ndarray
    ) -> UInt64[np.ndarray, " B"]:
        """Keys of the noise of low patches; `point` indexes `low_fixations`."""
        return noise_keys(
            self.description.noise_seed, image, mirror, self.low_points()[np.asarray(point)]
        )

    def low_points(self) -> Integer[np.ndarray, " points"]:
        """Number of each point of `low_fixations`, by which its noise is drawn.

        That of the lattice point it coincides with, or one beyond those of the lattice and the
        context places.
        """
        beyond = len(self.fixations) + len(self.context_fixations)
        own = beyond + np.arange(len(self.low_fixations))
        return coinciding(self.low_fixations, self.fixations, own)

    def context_points(self) -> Integer[np.ndarray, " P"]:
        """Number of each context place, by which its noise is drawn.

        That of the point of `low_fixations` or of the lattice it coincides with, or L + its index.
        """
        own = len(self.fixations) + np.arange(len(self.context_fixations))
        own = coinciding(self.context_fixations, self.fixations, own)
        low = self.context_low_points()
        return np.where(low >= 0, self.low_points()[low], own)

    def context_low_points(self) -> Integer[np.ndarray, " P"]:
        """For each context place, the point of `low_fixations` it coincides with, or -1."""
        none = np.full(len(self.context_fixations), -1)
        return coinciding(self.context_fixations, self.low_fixations, none)


def _take(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of an array seen as a table [rows, D], in float32."""
    table = array.reshape(-1, array.shape[-1])
    if kernels_available():
        from encoders.inference.kernels import widen_rows

        return widen_rows(np.asarray(table), index)
    # torch's conversion is vectorised, numpy's is twenty times slower.
    return torch.from_numpy(table[index]).float().numpy()
