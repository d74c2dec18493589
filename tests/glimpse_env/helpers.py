"""What the environment's tests share: a small dataset, an encoder of nothing but averages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encoders.bank.description import BankDescription
from encoders.bank.feature_bank import FeatureBank
from encoders.bank.points import lattice
from encoders.inference.engine import Encoder, make_encoder
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.retina.rules import cut_patches

GRID = 4
FEATURES = 3 * GRID * GRID


class GridMeans(nn.Module):
    """Mean colour of each cell of a grid: features that tell patches apart and cost nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, GRID).flatten(1)


class CountingMeans(GridMeans):
    """Counts its calls and the patches it is given; a class attribute, since modules are copied."""

    calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return super().forward(x)


@cache
def dogs(split: str = "val", num_images: int = 10) -> SyntheticDogs:
    return SyntheticDogs(split, num_images=num_images)


def encoder() -> Encoder:
    return make_encoder(GridMeans(), device="cpu")


def options(split: str = "val", num_images: int = 10, **more: Any) -> dict[str, Any]:
    """Options of a small environment; pixels unless told otherwise."""
    chosen: dict[str, Any] = {"dataset": dogs(split, num_images), "device": "cpu"}
    if "encoder" not in more and more.get("observation", "pixels") != "pixels":
        chosen["encoder"] = GridMeans()
    return {"observation": "pixels", **chosen, **more}


def action(x: float = 0.0, y: float = 0.0, label: int = 0) -> dict[str, Any]:
    return {"fixation": np.array([x, y], np.float32), "label": label}


def equal(first: Any, second: Any, tolerance: float = 0.0) -> bool:
    """Compare nested observations and infos: same types, keys, dtypes, shapes and values."""
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(equal(first[key], second[key], tolerance) for key in first)
        )
    if isinstance(first, np.ndarray) and first.dtype == object:
        return (
            second.dtype == object
            and first.shape == second.shape
            and all(equal(a, b, tolerance) for a, b in zip(first, second, strict=True))
        )
    if isinstance(first, np.ndarray):
        same = first.dtype == second.dtype and first.shape == second.shape
        if tolerance and first.dtype.kind == "f":
            return same and np.allclose(first, second, rtol=0, atol=tolerance)
        return same and np.array_equal(first, second)
    return type(first) is type(second) and first == second


def make_bank(
    folder: Path,
    dataset: SyntheticDogs,
    *,
    side: int = 3,
    mirrored: bool = False,
    places: tuple[tuple[float, float], ...] = ((0.0, 0.0),),
    resolutions: tuple[str, ...] = ("low", "medium", "high"),
    encode: Encoder | None = None,
    grid: int = 1,
) -> FeatureBank:
    """Fill a bank straight from the retina and an encoder (`encoder()`), one patch at a time."""
    points = tuple((float(x), float(y)) for x, y in lattice(side))
    encode = encoder() if encode is None else encode
    description = BankDescription(
        split=dataset.split,
        dataset=dataset.fingerprint,
        encoder="grid means",
        encoder_name="grid means",
        precision="fp32",
        num_images=len(dataset),
        feature_size=encode.feature_size,
        resolutions=resolutions,
        mirrored=mirrored,
        fixations=points,
        context_fixations=places,
        noise_seed=5,
        context_grid=grid,
        context_channels=encode.context_shape(grid)[-1] if grid > 1 else 0,
    )
    bank = FeatureBank.create(folder, description)

    def features(index: int, flip: int, at: np.ndarray, key: np.ndarray, names) -> np.ndarray:
        pyramid = build_pyramid(dataset.image(index))
        count = len(at)
        patches = cut_patches([pyramid] * count, at, np.full(count, bool(flip)), key, names)
        found, cells = encode.encode(torch.from_numpy(patches).flatten(0, 1), grid)
        if bank.context_cells is not None and names == ("low",):
            bank.context_cells[index, flip] = cells.flatten(1).numpy()
        return found.view(count, len(names), -1).numpy()

    for index in range(len(dataset)):
        for flip in range(description.num_mirrors):
            for at, key, target, names in (
                (bank.fixations, bank.noise_keys, bank.glimpse, resolutions),
                (bank.context_fixations, bank.context_noise_keys, bank.context, ("low",)),
            ):
                ones = np.ones(len(at), np.int64)
                keys = key(index * ones, flip * ones, np.arange(len(at)))
                found = features(index, flip, at, keys, names)
                target[index, flip] = found if target is bank.glimpse else found[:, 0]
    bank.done[:] = 1
    return bank
