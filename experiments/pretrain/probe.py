"""`glimpse probe`: what an encoder's features tell, before any agent has learned to look.

Classifiers are fitted on the frozen features of each image's central patches: of every resolution
alone and of all together.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16
from tqdm import tqdm

from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder
from encoders.spec import get_spec
from experiments.data import build_dataset
from experiments.metrics import score
from experiments.prepare.bank import BankConfig, build_bank
from experiments.prepare.calibration import build_encoder
from experiments.pretrain.config import ProbeConfig
from experiments.pretrain.linear import (
    hidden_reading,
    linear_reading,
    ridge_reading,
    standardise,
    training_gap,
)
from experiments.runtime.runs import environment_record, write_json
from glimpse_env.datasets.base import ImageDataset, size_of
from glimpse_env.pyramids.pyramid import PATCH_SIDE, dataset_pyramid
from glimpse_env.retina.rules import cut_patches

DECAYS = (1e2, 1e3, 1e4, 1e5)
"""Decays that a ridge regression of many cells is chosen from."""
_BATCH = 32


def read_encoder(config: ProbeConfig) -> dict[str, Any]:
    """Measure, write the result to `out`, and print it.

    Returns:
        What was written: readings by patch, with mA and its interval in percent.

    Raises:
        BankMismatchError, BankIncompleteError: For a bank of something else, or half a bank.
        ValueError: If a bank has no point at the centre, or the encoder does not serve a grid.
    """
    spec = get_spec(config.encoder)
    encoder = None if config.bank is not None else build_encoder(config)
    if encoder is not None:
        for grid in config.cells:
            encoder.resolve_grid(grid)  # told before anything is computed
    sets = [build_dataset(config.data, split) for split in (config.fit_split, config.eval_split)]
    banks = _banks(config, sets, encoder)
    fitted, measured = (_central(bank, config.resolutions) for bank in banks)
    choices = {name: [index] for index, name in enumerate(config.resolutions)}
    choices["+".join(config.resolutions)] = list(range(len(config.resolutions)))
    readings: dict[str, dict[str, Any]] = {}
    print(f"{'patches':<20} {'classifier':<12} {'mA %':>6}  {'95% interval':>14}")
    for name, chosen in choices.items():
        x, z = (standardise(features[:, chosen]) for features in (fitted, measured))
        readings[name] = {}
        for kind in ("linear", *(["hidden"] if config.hidden else [])):
            record = _read(kind, x, z, sets, config)
            readings[name][kind] = record
            interval = f"{record['low']:6.1f} - {record['high']:5.1f}"
            print(f"{name:<20} {kind:<12} {record['ma']:6.1f}  {interval}")
    found = None
    if "low" in config.resolutions:
        level = config.resolutions.index("low")
        found = find_dogs(sets, fitted[:, level], measured[:, level])
        if found is not None:
            along = ", ".join(f"{r:.2f}" for r in found["correlation"])
            print(f"middle of the dog, read from the low patch: correlation along x, y {along}")
    by_cells = {str(grid): _read_cells(config, grid, sets, banks, encoder) for grid in config.cells}
    result = {
        "encoder": {"name": spec.name, "fingerprint": spec.fingerprint, "seen": spec.seen},
        "precision": banks[0].description.precision,
        "backend": banks[0].description.backend,
        "fixation": [0.0, 0.0],
        "resolutions": list(config.resolutions),
        "patch_side": config.patch_side,
        "splits": {
            which: {
                "split": each.split,
                "fingerprint": each.fingerprint,
                "images": len(each),
                "missing": each.num_missing,
            }
            for which, each in zip(("fitted_on", "measured_on"), sets, strict=True)
        },
        "hidden": config.hidden,
        "readings": readings,
        "dog_from_low_patch": found,
        **({"cells": by_cells} if config.cells else {}),
        **environment_record(seed=config.seed),
    }
    write_json(config.out, result)
    print(f"result: {config.out}")
    return result


def _read_cells(
    config: ProbeConfig,
    grid: int,
    sets: list[ImageDataset],
    banks: list[FeatureBank],
    encoder: Encoder | None,
) -> dict[str, Any]:
    """Readings of each patch as cells, and of the dog's middle from those of the low patch."""
    if encoder is None:
        fitted, measured = (_stored_cells(bank, grid) for bank in banks)
    else:
        fitted, measured = (
            central_cells(dataset, encoder, grid, config.resolutions, config.patch_side)
            for dataset in sets
        )
    found: dict[str, Any] = {}
    for level, name in enumerate(config.resolutions):
        x, z = (standardise(cells[:, [level]]) for cells in (fitted, measured))
        found[name] = record = _read("linear", x, z, sets, config)
        title = f"{name}, {grid} x {grid} cells"
        interval = f"{record['low']:6.1f} - {record['high']:5.1f}"
        print(f"{title:<20} {'linear':<12} {record['ma']:6.1f}  {interval}")
        if name == "low":
            dog = find_dogs(sets, fitted[:, level], measured[:, level], DECAYS)
            found["dog_from_low_cells"] = dog
            if dog is not None:
                along = ", ".join(f"{r:.2f}" for r in dog["correlation"])
                print(f"middle of the dog, read from {title}: correlation along x, y {along}")
    return found


def central_cells(
    dataset: ImageDataset,
    encoder: Encoder,
    grid: int,
    resolutions: tuple[str, ...],
    patch_side: int = PATCH_SIDE,
) -> Float16[np.ndarray, "N S X"]:
    """Cells of the central patches of every image, X = G * G * C.

    Raises:
        ValueError: If the encoder does not serve the grid.
    """
    size = math.prod(encoder.context_shape(encoder.resolve_grid(grid)))
    found = np.empty((len(dataset), len(resolutions), size), np.float16)
    # Nothing of a central patch lies outside its image, so that no noise is seen.
    centre, plain, key = np.zeros((1, 2)), np.zeros(1, bool), np.zeros(1, np.uint64)
    for start in tqdm(range(0, len(dataset), _BATCH), desc=f"{grid} x {grid} cells", leave=False):
        images = range(start, min(start + _BATCH, len(dataset)))
        pyramids = [dataset_pyramid(dataset, image, resolutions, patch_side) for image in images]
        cut = [cut_patches([each], centre, plain, key, resolutions)[0] for each in pyramids]
        cells = encoder.encode(torch.from_numpy(np.concatenate(cut)), grid)[1]
        found[images.start : images.stop] = cells.cpu().view(len(cut), len(resolutions), -1)
    return found


def _stored_cells(bank: FeatureBank, grid: int) -> Float[np.ndarray, "N 1 X"]:
    """Cells of every image's central context, from a bank."""
    place = bank.snap_context(np.zeros((1, 2), np.float32))
    if bank.context_fixations[place].any():
        raise ValueError(f"the bank in {bank.folder} has no context at the centre")
    images = np.arange(bank.num_images)
    cells = bank.contexts(images, np.zeros(len(images), bool), place.repeat(len(images)), grid)
    return cells.reshape(len(images), 1, -1)


def find_dogs(
    sets: list[ImageDataset],
    fitted: Float[np.ndarray, "N D"],
    measured: Float[np.ndarray, "M D"],
    decays: tuple[float, ...] = (100.0,),
) -> dict[str, Any] | None:
    """Measure how well the context tells where the dog is, which is all a policy can know.

    Images with one box only. Boxes serve to measure; no agent sees them.

    Args:
        sets: Fitted on, measured on.
        fitted: Features of the central low patch, which is the context, of the first.
        measured: Of the second.
        decays: Of the ridge regression; of several the best on a held-out tenth of the first set.

    Returns:
        Correlation and share of the variance explained, along x and y, of the dog's middle (as a
        fixation) and its ridge regression; None where there are no boxes.
    """
    kept, places = zip(*(_middles(each) for each in sets), strict=True)
    if min(len(each) for each in kept) < 2:
        return None
    x, z = (
        standardise(features[chosen][:, None])
        for features, chosen in zip((fitted, measured), kept, strict=True)
    )
    target, truth = (torch.from_numpy(each) for each in places)
    decay = decays[0]
    if len(decays) > 1:
        held = torch.arange(len(x)) % 10 == 0
        errors = [
            float(
                (ridge_reading(x[~held], target[~held], x[held], d) - target[held]).square().sum()
            )
            for d in decays
        ]
        decay = decays[int(np.argmin(errors))]
    read = ridge_reading(x, target, z, decay)
    explained = 1 - (truth - read).square().mean(0) / truth.var(0, correction=0)
    pairs = [torch.corrcoef(torch.stack([read[:, k], truth[:, k]]))[0, 1] for k in (0, 1)]
    return {
        "correlation": [round(float(r), 3) for r in pairs],
        "explained": [round(float(r), 3) for r in explained],
        "images": len(truth),
        **({"decay": decay} if len(decays) > 1 else {}),
    }


def _middles(dataset: ImageDataset) -> tuple[np.ndarray, Float[np.ndarray, "N 2"]]:
    """Images with exactly one box, and its middle as a fixation."""
    kept, places = [], []
    for index in range(len(dataset)):
        boxes = dataset.boxes(index)
        if len(boxes) == 1:
            left, top, right, bottom = boxes[0]
            width, height = size_of(dataset, index)
            kept.append(index)
            places.append(((left + right) / width - 1, (top + bottom) / height - 1))
    return np.array(kept, np.int64), np.array(places, np.float64).reshape(-1, 2)


def _banks(
    config: ProbeConfig, sets: list[ImageDataset], encoder: Encoder | None
) -> list[FeatureBank]:
    """The banks given; else some of the centre alone, computed unless they are there."""
    if config.bank is not None:
        spec, banks = get_spec(config.encoder), []
        for dataset in sets:
            banks.append(FeatureBank.open(config.bank / dataset.split))
            banks[-1].check(
                split=dataset.split,
                dataset=dataset.fingerprint,
                encoder=spec.fingerprint,
                resolutions=config.resolutions,
                patch_side=config.patch_side,
            )
        return banks
    assert encoder is not None
    return [_centre_bank(config, dataset, encoder) for dataset in sets]


def _centre_bank(config: ProbeConfig, dataset: ImageDataset, encoder: Encoder) -> FeatureBank:
    """The bank of the centre alone."""
    what: tuple[Any, ...] = (
        encoder.fingerprint,
        encoder.precision,
        dataset.fingerprint,
        config.resolutions,
    )
    if config.patch_side != PATCH_SIDE:
        what = (*what, config.patch_side)
    if encoder.backend != "torch":
        what = (*what, encoder.backend)
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:12]
    centre = BankConfig(
        out=config.out.parent / "features" / key,
        data=config.data,
        splits=(dataset.split,),
        encoder=config.encoder,
        resolutions=config.resolutions,
        patch_side=config.patch_side,
        side=1,
        mirror=False,
        context="center",
        precision=config.precision,
        backend=encoder.backend,
        device=config.device,
        workers=config.workers,
    )
    return build_bank(centre, dataset.split, encoder)


def _central(bank: FeatureBank, resolutions: tuple[str, ...]) -> Float[np.ndarray, "N S D"]:
    """Features at the centre of every image."""
    point = bank.snap(np.zeros((1, 2), np.float32))
    if bank.fixations[point].any():
        raise ValueError(
            f"the lattice of the bank in {bank.folder} has no point at the centre: give a bank of "
            "an odd --side, or none"
        )
    images = np.arange(bank.num_images)
    return bank.glimpses(
        images, np.zeros(len(images), bool), point.repeat(len(images)), resolutions
    )


def _read(
    kind: str,
    x: Float[torch.Tensor, "N X"],
    z: Float[torch.Tensor, "M X"],
    sets: list[ImageDataset],
    config: ProbeConfig,
) -> dict[str, Any]:
    """Fit one classifier on the first set and score it on the second."""
    (labels, truth), classes = (each.labels for each in sets), len(sets[0].class_names)
    if kind == "linear":
        fit, decay = linear_reading(x, np.array(labels), classes, config.seed)
        gap = training_gap(x, np.array(labels), z, np.array(truth), decay, config.seed)
        scores, chosen = fit.scores(z), {"weight_decay": decay, "training_gap": gap}
    else:
        network, epochs = hidden_reading(x, np.array(labels), classes, config.hidden, config.seed)
        scores, chosen = network(z), {"epochs": epochs}
    predictions = scores.argmax(1).numpy()
    return {**vars(score(truth, predictions, classes)), **chosen}
