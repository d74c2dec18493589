"""Small finished runs on synthetic dogs, shared by what only reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.configs import ReinforceConfig, TwoDeckConfig
from encoders.inference.engine import make_encoder
from experiments.data import DataConfig
from experiments.prepare.bank import BankConfig, build_bank
from experiments.train.config import TrainConfig
from experiments.train.trainer import Trainer, train

SMALL_NETWORK = TwoDeckConfig(hidden_size=16, image_width=16, location_width=8, glimpse_width=16)
"""A network that trains in moments."""


def small_banks(out: Path, data: DataConfig, **changes: Any) -> Path:
    """Compute banks of `train` and `val` in fp32, high resolution at 2 x 2 fixations.

    Args:
        out: Their folder, which is returned.
        data: The images.
        changes: Other settings of the banks.
    """
    config = BankConfig(
        **{
            "out": out,
            "data": data,
            "encoder": "inception_mini",
            "resolutions": ("high",),
            "side": 2,
            "context": "center",
            "workers": 1,
            "precision": "fp32",
            **changes,
        }
    )
    encoder = make_encoder("inception_mini", device=config.device, precision="fp32")
    for split in config.splits:
        build_bank(config, split, encoder)
    return out


def small_run(out: Path, banks: Path, data: DataConfig, **changes: Any) -> TrainConfig:
    """Give the settings of a run on small banks: two glimpses, high resolution, a small network.

    Args:
        out: Its folder.
        banks: Of `small_banks`.
        data: The images.
        changes: Other settings of the run.
    """
    return TrainConfig(
        **{
            "out": out,
            "data": data,
            "encoder": "inception_mini",
            "bank": banks,
            "resolutions": ("high",),
            "num_glimpses": 2,
            "context": "center",
            "epochs": 2,
            "batch_size": 8,
            "scanpaths": 1,
            "network": SMALL_NETWORK,
            "learning": ReinforceConfig(optimizer="adam", learning_rate=1e-2),
            **changes,
        }
    )


@pytest.fixture(scope="session")
def watched_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs by name: `high` (two glimpses, with references) and `both` (one glimpse, without)."""
    folder = tmp_path_factory.mktemp("watched")
    data = DataConfig(dataset="synthetic", num_images=48)
    banks = small_banks(
        folder / "banks", data, resolutions=("medium", "high"), side=3, mirror=False
    )
    base = small_run(folder / "high", banks, data, mirror="off", precision="fp32")
    both = replace(
        base,
        out=folder / "both",
        resolutions=("medium", "high"),
        num_glimpses=1,
        references=False,
    )
    for config in (base, both):
        train(config)
    return {"high": base.out, "both": both.out}


SMALL_DATA = DataConfig(dataset="synthetic", num_images=128)
"""As many images as a batch of the two-deck agent takes."""


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks of a few synthetic images for runs of agents, 2 x 2 fixations."""
    return small_banks(tmp_path_factory.mktemp("banks"), SMALL_DATA, mirror=False)


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
