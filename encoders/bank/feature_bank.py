"""FeatureBank: features computed beforehand on a lattice of fixations, served from memory maps.

A frozen encoder gives the same features for the same patch for ever, so a data set's patches can be
encoded once. An agent then trains on thousands of glimpses a second where the encoder does a few
hundred patches. The price is that fixations snap to the lattice.

On disk a bank is a folder: `bank.json` (what it is), `context.f16` [N, M, C, D], `glimpse.f16`
[N, M, L, S, D] and `done.u8` (one byte a chunk of pictures). N pictures, M = 2 if mirrored pictures
are there too, C and L lattice points, S resolutions, D features.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt64

from encoders.bank.description import BankDescription
from encoders.folders import lay_out
from encoders.inference.fused import kernels_available

FORMAT = 1
_DESCRIPTION = "bank.json"


class BankMismatchError(ValueError):
    """A bank holds the features of something else than what it is asked for."""


class BankIncompleteError(RuntimeError):
    """A bank's computation has not finished."""


def lattice(side: int, extent: float | None = None) -> Float[np.ndarray, "L 2"]:
    """Square lattice of `side * side` fixations (x, y), row by row from the top left.

    Args:
        side: points a side, at least 1.
        extent: outermost coordinate; by default 1 - 1 / side, the centres of equal cells.

    Raises:
        ValueError: for a side below 1 or an extent outside (0, 1].
    """
    if side < 1:
        raise ValueError(f"a lattice has at least one point a side, not {side}")
    if extent is not None and not 0 < extent <= 1:
        raise ValueError(f"the extent of a lattice lies in (0, 1], not {extent}")
    reach = 1 - 1 / side if extent is None else extent
    line = np.linspace(-reach, reach, side) if side > 1 else np.zeros(1)
    if side % 2:
        line[side // 2] = 0.0  # not what is left of it by rounding: the centre is looked for
    x, y = np.meshgrid(line, line)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def noise_keys(
    seed: int,
    image: Integer[np.ndarray, " B"],
    mirror: Shaped[np.ndarray, " B"],
    point: Integer[np.ndarray, " B"],
) -> UInt64[np.ndarray, " B"]:
    """Key of the noise that each (picture, mirror, point) has outside the picture.

    An injective packing (39 bits picture, 1 mirror, 24 point), shifted by the seed; the retina
    hashes it.
    """
    packed = (
        (np.asarray(image).astype(np.uint64) << np.uint64(25))
        | (np.asarray(mirror).astype(np.uint64) << np.uint64(24))
        | np.asarray(point).astype(np.uint64)
    )
    return packed ^ np.uint64((seed * 0x9E3779B97F4A7C15) % (1 << 64))


class FeatureBank:
    """Memory-mapped features of a split on a lattice of fixations; read-only once complete.

    Attributes:
        folder: where it lives.
        description: everything that determines its content.
        fixations: float32 [L, 2].
        context_fixations: float32 [C, 2].
    """

    def __init__(self, folder: str | Path, description: BankDescription, mode: str) -> None:
        """Map the arrays; use `create` or `open`."""
        self.folder = Path(folder)
        self.description = description
        self.fixations = np.array(description.fixations, np.float32).reshape(-1, 2)
        self.context_fixations = np.array(description.context_fixations, np.float32).reshape(-1, 2)
        self._map(mode)

    def _map(self, mode: str) -> None:
        d = self.description
        self.mode = mode
        self.context = self._array("context.f16", np.float16, d.context_shape)
        self.glimpse = self._array("glimpse.f16", np.float16, d.glimpse_shape)
        self.done = self._array("done.u8", np.uint8, (d.num_chunks,))

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
        record = {"format": FORMAT} | json.loads(json.dumps(asdict(description)))
        path = folder / _DESCRIPTION
        if path.exists():
            found = _read_record(path)
            if found != record:
                differing = sorted(
                    k for k in found.keys() | record.keys() if found.get(k) != record.get(k)
                )
                raise BankMismatchError(
                    f"{folder} holds another bank; it differs in: {', '.join(differing)}. "
                    "Give another --out, or delete the folder."
                )
        else:
            sizes = {
                "context.f16": 2 * int(np.prod(description.context_shape)),
                "glimpse.f16": 2 * int(np.prod(description.glimpse_shape)),
                "done.u8": description.num_chunks,
            }
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
        try:
            record = _read_record(path)
            if record.pop("format") != FORMAT:
                raise BankMismatchError(f"{path} is of another format: make the bank again")
            for key in ("fixations", "context_fixations"):
                record[key] = tuple((float(x), float(y)) for x, y in record[key])
            if not isinstance(record["resolutions"], list):
                raise TypeError("resolutions are a list")
            record["resolutions"] = tuple(record["resolutions"])
            description = BankDescription(**record)
        except BankMismatchError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(path, error) from error
        bank = cls(folder, description, "r")
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
        """Whether every chunk has been computed."""
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
        """Resolutions it holds."""
        return self.description.resolutions

    @property
    def feature_size(self) -> int:
        """D."""
        return self.description.feature_size

    @property
    def num_images(self) -> int:
        """N."""
        return self.description.num_images

    @property
    def mirrored(self) -> bool:
        """Whether mirrored pictures are there too."""
        return self.description.mirrored

    def check(
        self,
        *,
        dataset: str | None = None,
        split: str | None = None,
        encoder: str | None = None,
        resolutions: tuple[str, ...] | None = None,
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
                f"the bank in {self.folder} was made from other pictures (fingerprint "
                f"{d.dataset[:12]}, here {dataset[:12]}; another --num-images, for one, draws "
                "others): make one of these with `glimpse bank`, in another folder, and name it by "
                "--bank"
            )
        if encoder is not None and encoder != d.encoder:
            raise BankMismatchError(
                f"the bank in {self.folder} was made by encoder {d.encoder_name!r} (fingerprint "
                f"{d.encoder[:12]}, wanted {encoder[:12]}): make it again with `glimpse bank`"
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
        return _nearest(fixation, self.fixations)

    def snap_context(self, place: Float[np.ndarray, "B 2"]) -> Integer[np.ndarray, " B"]:
        """Index of the context place nearest to each given place."""
        return _nearest(place, self.context_fixations)

    def glimpses(
        self,
        image: Integer[np.ndarray, " B"],
        mirror: np.ndarray,
        point: Integer[np.ndarray, " B"],
        resolutions: tuple[str, ...],
    ) -> Float[np.ndarray, "B S D"]:
        """Features of glimpses, axis S in the order of `resolutions`.

        Raises:
            BankMismatchError: for mirrored pictures that are not in the bank.
        """
        scales = [self.resolutions.index(name) for name in resolutions]
        shape = self.description.glimpse_shape
        row = self._row(shape, image, mirror, point)[:, None] * shape[3] + np.array(scales)
        features = _take(self.glimpse, row.ravel())
        return features.reshape(len(row), len(scales), self.feature_size)

    def zooms(
        self, resolutions: tuple[str, ...], order: tuple[str, ...]
    ) -> dict[int, tuple[str, ...]]:
        """At which zooms it holds all of these resolutions, and under which names.

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
    ) -> Float[np.ndarray, "B D"]:
        """Features of context patches; `point` indexes `context_fixations`.

        Raises:
            BankMismatchError: for mirrored pictures that are not in the bank.
        """
        row = self._row(self.description.context_shape, image, mirror, point)
        return _take(self.context, row)

    def _row(
        self, shape: tuple[int, ...], image: np.ndarray, mirror: np.ndarray, point: np.ndarray
    ) -> np.ndarray:
        """Number of (picture, mirror, point) among all, in the order they lie in."""
        parts = (np.asarray(image), self._mirror_index(mirror), np.asarray(point))
        return np.ravel_multi_index(parts, shape[:3])

    def _mirror_index(self, mirror: np.ndarray) -> np.ndarray:
        index = np.asarray(mirror).astype(np.intp)
        if not self.mirrored and index.any():
            raise BankMismatchError(
                f"the bank in {self.folder} has no mirrored pictures: pass mirror=False "
                "(glimpse train: --mirror off), or make it with `glimpse bank --mirror`"
            )
        return index

    def noise_keys(
        self, image: np.ndarray, mirror: np.ndarray, point: np.ndarray
    ) -> UInt64[np.ndarray, " B"]:
        """Keys of the noise outside the picture at lattice points (`fixations`)."""
        return noise_keys(self.description.noise_seed, image, mirror, point)

    def context_noise_keys(
        self, image: np.ndarray, mirror: np.ndarray, point: np.ndarray
    ) -> UInt64[np.ndarray, " B"]:
        """Keys of the noise at context places: a lattice point's own where the two coincide."""
        return noise_keys(
            self.description.noise_seed, image, mirror, self.context_points()[np.asarray(point)]
        )

    def context_points(self) -> Integer[np.ndarray, " C"]:
        """For each context place the lattice point it coincides with, or L + its own index."""
        same = np.all(self.context_fixations[:, None] == self.fixations[None], axis=2)
        own = len(self.fixations) + np.arange(len(self.context_fixations))
        return np.where(same.any(axis=1), same.argmax(axis=1), own)


def _damaged(path: Path, error: Exception) -> BankMismatchError:
    return BankMismatchError(
        f"{path} is not a bank's description ({error}): delete the folder and run `glimpse bank` "
        "again"
    )


def _read_record(path: Path) -> dict[str, Any]:
    """Content of a `bank.json`; BankMismatchError if it is anything but a JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise _damaged(path, error) from error
    if not isinstance(record, dict):
        raise _damaged(path, TypeError("no JSON object"))
    return record


def _take(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of an array seen as a table [rows, D], in float32."""
    table = array.reshape(-1, array.shape[-1])
    if kernels_available():
        from encoders.inference.kernels import widen_rows

        return widen_rows(np.asarray(table), index)
    # torch's conversion is vectorised, numpy's is twenty times slower.
    return torch.from_numpy(table[index]).float().numpy()


def _nearest(points: np.ndarray, lattice_points: np.ndarray) -> np.ndarray:
    """Index of the nearest lattice point (squared distance without the constant |p|^2)."""
    points = np.asarray(points, np.float32)
    score = points @ lattice_points.T - 0.5 * (lattice_points**2).sum(axis=1)
    return score.argmax(axis=1)
