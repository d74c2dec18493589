"""An encoder by name, and for int8 the training patches that it is calibrated on."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from encoders.inference.engine import Encoder, Precision, make_encoder
from encoders.spec import get_spec
from experiments.data import DataConfig, build_dataset
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.pyramid import PATCH_SIDE, RESOLUTIONS, dataset_pyramid
from glimpse_env.retina.rules import cut_patches

_IMAGES = 96
# As far out as the outermost points of a bank's usual lattice: what lies outside an image is
# noise, whose activations differ from an image's.
_EXTENT = 0.8


def calibration_patches(
    dataset: ImageDataset, count: int = _IMAGES, patch_side: int = PATCH_SIDE
) -> UInt8[Tensor, "N P P 3"]:
    """Glimpses at random places of images spread over a training split, at every resolution.

    Args:
        dataset: Images, which decide the patches: every process gets the same.
        count: How many images to look at, if there are as many.
        patch_side: P.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).astype(np.int64))
    places = np.random.default_rng(0).uniform(-_EXTENT, _EXTENT, (len(chosen), 2))
    cut = cut_patches(
        [dataset_pyramid(dataset, int(index), RESOLUTIONS, patch_side) for index in chosen],
        places.astype(np.float32),
        np.zeros(len(chosen), bool),
        chosen.astype(np.uint64),
    )
    return torch.from_numpy(cut).flatten(0, 1)


def build_encoder(
    name: str,
    data: DataConfig,
    *,
    device: str,
    precision: Precision,
    patch_side: int = PATCH_SIDE,
) -> Encoder:
    """Build an encoder; for int8 it is calibrated on the split `train`.

    Raises:
        ValueError, DeviceNotAvailableError: see `make_encoder`.
    """
    patches = None
    if precision == "int8":
        get_spec(name)  # a mistyped name is told before images are read
        patches = calibration_patches(build_dataset(data, "train"), patch_side=patch_side)
    return make_encoder(
        name, device=device, precision=precision, calibration=patches, patch_side=patch_side
    )
