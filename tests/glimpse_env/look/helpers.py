"""Small classifiers of the test encoder's features."""

from __future__ import annotations

from typing import Any

import torch

from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.look.classifier import FrozenClassifiers
from glimpse_env.look.network import LookNetworks
from tests.glimpse_env.helpers import FEATURES, encoder


def classifiers(folds: int = 3, seed: int = 0, **record: Any) -> FrozenClassifiers:
    """Classifiers of one high patch that differ from fold to fold."""
    names = SyntheticDogs("val", num_images=1).class_names
    networks = LookNetworks(folds + 1, 1, FEATURES, 8, len(names))
    drawn = torch.Generator().manual_seed(seed)
    for parameter in networks.parameters():
        parameter.data = torch.randn(parameter.shape, generator=drawn)
    known = {
        "class_names": list(names),
        "resolutions": ["high"],
        "folds": folds,
        "encoder": encoder().fingerprint,
        "encoder_name": "grid means",
    }
    return FrozenClassifiers(networks, known | record)
