"""Probes in the record of a small encoder of the synthetic dogs: what its features tell.

Boxes serve to place the patches that are measured, after training; never to train an encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from experiments.pretrain.linear import fit_linear
from glimpse_env.datasets.degraded import Degraded
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.pyramid import PATCH_SIDE, RESOLUTIONS, build_pyramid
from glimpse_env.retina.rules import cut_patches

Encode = Callable[[UInt8[np.ndarray, "N P P 3"]], Float[np.ndarray, "N D"]]


def look(
    encode: Encode, dogs: SyntheticDogs, short_side: int | None = None
) -> tuple[Float[np.ndarray, "N 2 S D"], Float[np.ndarray, "N 2"]]:
    """Features on the head and at the centre of each image, and the fixations on the heads."""
    images = dogs if short_side is None else Degraded(dogs, short_side)
    features, heads = [], []
    for index in range(len(dogs)):
        scene, (left, top, right, bottom) = dogs.scene(index), dogs.head_box(index)
        heads.append(((left + right) / scene.width - 1, (top + bottom) / scene.height - 1))
        patches = cut_patches(
            [build_pyramid(images.image(index))] * 2,
            np.array([heads[-1], (0.0, 0.0)]),
            np.zeros(2, bool),
            np.full(2, index, np.uint64),
            RESOLUTIONS,
        )
        features.append(encode(patches.reshape(-1, PATCH_SIDE, PATCH_SIDE, 3)))
    stacked = np.stack(features).reshape(len(dogs), 2, len(RESOLUTIONS), -1)
    return stacked, np.array(heads)


def linear_accuracy(
    train: Float[np.ndarray, "N D"],
    labels: Int64[np.ndarray, " N"],
    val: Float[np.ndarray, "M D"],
    truth: Int64[np.ndarray, " M"],
) -> float:
    """Accuracy of a logistic regression on standardised features (L-BFGS, weight decay 1e-3)."""
    mean, std = train.mean(0), train.std(0) + 1e-4
    x, z = (torch.tensor((f - mean) / std, dtype=torch.float32) for f in (train, val))
    fit = fit_linear(x, torch.tensor(labels), int(labels.max()) + 1, 1e-3, iterations=100)
    return float((fit.scores(z).argmax(1).numpy() == truth).mean())


def probe(
    encode: Encode, train: SyntheticDogs, val: SyntheticDogs, short_side: int | None = None
) -> dict[str, float]:
    """Measure what the features tell, by linear readings fitted on `train` and tried on `val`.

    Args:
        encode: From patches to features.
        train: Dogs to fit on.
        val: Dogs to measure on.
        short_side: Make images smaller first, as the encoder was trained on them.

    Returns:
        Accuracy of the breed from patches on the head and at the centre of the image, at each
        resolution; and the share of images whose head is found in the centred context, by ridge
        regression, to within 0.2 (in fixations, both ways).
    """
    (seen, heads), (new, places) = (look(encode, dogs, short_side) for dogs in (train, val))
    found = {}
    for where, place in enumerate(("head", "centre")):
        for level, resolution in enumerate(RESOLUTIONS):
            found[f"breed_from_{resolution}_patch_at_{place}"] = linear_accuracy(
                seen[:, where, level], train.labels, new[:, where, level], val.labels
            )
    x, z = (
        np.pad(features[:, 1, 0].astype(np.float64), ((0, 0), (0, 1)), constant_values=1.0)
        for features in (seen, new)
    )
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ heads)
    error = np.abs(z @ weights - places).max(1)
    found["head_found_from_context"] = float((error < 0.2).mean())
    return found
