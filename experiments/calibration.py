"""An encoder by name, and for int8 the training patches that it is calibrated on."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from encoders.engine import Encoder, Precision, make_encoder
from experiments.data import DataConfig, build_dataset
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramid import RESOLUTIONS, build_pyramid
from glimpse_env.retina import cut_patches

_PICTURES = 96


def calibration_patches(dataset: ImageDataset, count: int = _PICTURES) -> UInt8[Tensor, "N P P 3"]:
    """Central glimpses of pictures spread over a training split, at every resolution.

    Args:
        dataset: Pictures, which decide the patches: every process gets the same.
        count: How many pictures to look at, if there are as many.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).astype(np.int64))
    centre, plain = np.zeros((1, 2), np.float32), np.zeros(1, bool)
    cut = [
        cut_patches(
            [build_pyramid(dataset.image(int(index)), RESOLUTIONS)], centre, plain,
            np.array([index], np.uint64),
        )[0]
        for index in chosen
    ]  # fmt: skip
    return torch.from_numpy(np.concatenate(cut))


def build_encoder(name: str, data: DataConfig, *, device: str, precision: Precision) -> Encoder:
    """Build an encoder; for int8 it is calibrated on the split `train`.

    Raises:
        ValueError, DeviceNotAvailableError: see `make_encoder`.
    """
    patches = calibration_patches(build_dataset(data, "train")) if precision == "int8" else None
    return make_encoder(name, device=device, precision=precision, calibration=patches)
