"""The encoder that options name, and for int8 the training patches that it is calibrated on."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from encoders.inference.engine import Encoder, make_encoder
from encoders.spec import Backend, Precision, get_spec
from experiments.data import DataConfig, build_dataset
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.pyramid import PATCH_SIDE, RESOLUTIONS, dataset_pyramid
from glimpse_env.retina.rules import cut_patches

_IMAGES = 96
# As far out as the outermost points of a bank's usual lattice: what lies outside an image is
# noise, whose activations differ from an image's.
_EXTENT = 0.8


class EncoderOptions(Protocol):
    """Options of a command that builds an encoder."""

    @property
    def encoder(self) -> str:
        """Return the name of a registered encoder."""
        ...

    @property
    def data(self) -> DataConfig:
        """Return which images int8 is calibrated on (their training split)."""
        ...

    @property
    def patch_side(self) -> int:
        """Return P, the side of the patches in pixels."""
        ...

    @property
    def device(self) -> str:
        """Return where it computes: `auto`, `cpu` or `cuda[:i]`."""
        ...

    @property
    def precision(self) -> Precision:
        """Return the arithmetic that it computes in."""
        ...

    @property
    def backend(self) -> Backend:
        """Return the library that computes it."""
        ...


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


def build_encoder(options: EncoderOptions) -> Encoder:
    """Build the encoder that a command's options name; every command does it here.

    For int8 it is calibrated on the split `train`.

    Raises:
        ValueError, DeviceNotAvailableError: see `make_encoder`.
    """
    patches = None
    if options.precision == "int8":
        get_spec(options.encoder)  # a mistyped name is told before images are read
        images = build_dataset(options.data, "train")
        patches = calibration_patches(images, patch_side=options.patch_side)
    return make_encoder(
        options.encoder,
        device=options.device,
        precision=options.precision,
        calibration=patches,
        patch_side=options.patch_side,
        backend=options.backend,
    )
