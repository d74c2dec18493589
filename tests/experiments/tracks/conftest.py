"""A track small enough for a test: a few images, a lattice of 3 x 3, classifiers of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from encoders.inference.engine import make_encoder
from experiments.data import DataConfig
from experiments.prepare.bank import BankConfig, build_bank
from experiments.tracks import registry
from experiments.tracks.classifier import classifier
from experiments.tracks.config import ClassifierConfig

IMAGES = 96


@pytest.fixture(scope="session")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks of a few synthetic images, 3 x 3 fixations."""
    config = BankConfig(
        out=tmp_path_factory.mktemp("tracks") / "banks",
        data=DataConfig(dataset="synthetic", num_images=IMAGES),
        encoder="inception_mini",
        resolutions=("high",),
        side=3,
        mirror=False,
        context="center",
        workers=1,
    )
    encoder = make_encoder("inception_mini", precision="fp32")
    for split in ("train", "val"):
        build_bank(config, split, encoder)
    return config.out


@pytest.fixture(scope="session")
def classifiers(banks: Path) -> Path:
    """Classifiers of three folds, trained for a moment."""
    config = ClassifierConfig(
        bank=banks,
        out=banks.parent / "classifiers",
        data=DataConfig(dataset="synthetic", num_images=IMAGES),
        folds=3,
        num_glimpses=2,
        hidden=16,
        epochs=3,
        batch_size=32,
        learning_rate=1e-2,
    )
    classifier(config)
    return config.out


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A track of those images, with a budget of a moment; returns its name."""
    own = registry.TRACKS["look-synthetic"]
    track = replace(own, name="tiny", num_images=IMAGES, steps=384, evaluations=6, seeds=2)
    monkeypatch.setitem(registry.TRACKS, "tiny", track)
    return "tiny"
