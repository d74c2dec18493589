"""Experiments by name: what each is, and its settings. `glimpse train NAME` runs one."""

from __future__ import annotations

from pathlib import Path

from agents.configs import ReinforceConfig, TwoDeckConfig
from experiments.configs import Resolution, TrainConfig
from experiments.data import DataConfig


def _dogs(resolutions: tuple[Resolution, ...], num_glimpses: int) -> TrainConfig:
    """One cell of Table 1 from banks, at a width that two CPU cores train in minutes."""
    return TrainConfig(
        out=Path(f"runs/dogs-{num_glimpses}"),
        bank=Path("banks/dogs"),
        context="center",
        resolutions=resolutions,
        num_glimpses=num_glimpses,
        epochs=20,
        network=TwoDeckConfig(
            hidden_size=512,
            image_width=1024,
            glimpse_width=512,
            sigma=0.12,
            dropout=0.25,
            feature_dropout=0.5,
            normalise_features="root",
        ),
        learning=ReinforceConfig(
            optimizer="adam", learning_rate=5e-4, learning_rate_decay=0.88, weight_decay=0.5
        ),
    )


EXPERIMENTS: dict[str, tuple[str, TrainConfig]] = {
    "synthetic": (
        "Synthetic dogs, high resolution only, from banks: minutes on a CPU.",
        TrainConfig(
            out=Path("runs/synthetic"),
            data=DataConfig(dataset="synthetic"),
            encoder="inception_mini",
            bank=Path("banks/synthetic"),
            context="center",
            resolutions=("high",),
            num_glimpses=2,
            epochs=20,
            network=TwoDeckConfig(
                hidden_size=256, image_width=256, glimpse_width=256, location_width=64, sigma=0.2
            ),
            learning=ReinforceConfig(optimizer="adam", learning_rate=1e-3),
        ),
    ),
    "dogs-1": (
        "Stanford Dogs, three resolutions, one glimpse (paper Table 1: 76.3).",
        _dogs(("low", "medium", "high"), 1),
    ),
    "dogs-3": (
        "Stanford Dogs, three resolutions, three glimpses (paper Table 1: 76.8).",
        _dogs(("low", "medium", "high"), 3),
    ),
    "dogs-full": (
        "Stanford Dogs, live encoder, 4,096 units a deck, the paper's settings: for a GPU.",
        TrainConfig(out=Path("runs/dogs-full"), epochs=60),
    ),
}
