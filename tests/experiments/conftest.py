"""Small finished runs on synthetic dogs, shared by what only reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.configs import ReinforceConfig, TwoDeckConfig
from encoders.inference.engine import make_encoder
from experiments.data import DataConfig
from experiments.prepare.bank import BankConfig, build_bank
from experiments.train.config import TrainConfig
from experiments.train.trainer import Trainer, train


@pytest.fixture(scope="session")
def watched_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs by name: `high` (two glimpses, with references) and `both` (one glimpse, without)."""
    folder = tmp_path_factory.mktemp("watched")
    data = DataConfig(dataset="synthetic", num_images=48)
    encoder = make_encoder("inception_mini", precision="fp32")
    banks = BankConfig(
        out=folder / "banks",
        data=data,
        encoder="inception_mini",
        resolutions=("medium", "high"),
        side=3,
        context="center",
        mirror=False,
        workers=1,
        precision="fp32",
    )
    for split in ("train", "val"):
        build_bank(banks, split, encoder)
    base = TrainConfig(
        data=data,
        encoder="inception_mini",
        bank=banks.out,
        resolutions=("high",),
        num_glimpses=2,
        context="center",
        mirror="off",
        epochs=2,
        batch_size=8,
        scanpaths=1,
        precision="fp32",
        network=TwoDeckConfig(hidden_size=16, image_width=16, location_width=8, glimpse_width=16),
        learning=ReinforceConfig(optimizer="adam", learning_rate=1e-2),
    )
    runs = {
        "high": replace(base, out=folder / "high"),
        "both": replace(
            base,
            out=folder / "both",
            resolutions=("medium", "high"),
            num_glimpses=1,
            references=False,
        ),
    }
    for config in runs.values():
        train(config)
    return {name: config.out for name, config in runs.items()}


SMALL_DATA = DataConfig(dataset="synthetic", num_images=128)
"""As many images as a batch of the two-deck agent takes."""


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks of a few synthetic images for runs of agents, 2 x 2 fixations."""
    config = BankConfig(
        out=tmp_path_factory.mktemp("banks"),
        data=SMALL_DATA,
        encoder="inception_mini",
        resolutions=("high",),
        side=2,
        mirror=False,
        context="center",
        workers=1,
    )
    encoder = make_encoder("inception_mini", precision="fp32")
    for split in ("train", "val"):
        build_bank(config, split, encoder)
    return config.out


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have training end as by Ctrl-C after the last batch of the epoch that follows so many."""
    end, count = Trainer._end_epoch, 0

    def failing(self, *arguments):
        nonlocal count
        count += 1
        if count > epochs:
            raise KeyboardInterrupt
        return end(self, *arguments)

    monkeypatch.setattr(Trainer, "_end_epoch", failing)
