"""A track small enough for a test: a few images, a lattice of 3 x 3, classifiers of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.data import DataConfig
from experiments.tracks import registry
from experiments.tracks.classifier import classifier
from experiments.tracks.config import ClassifierConfig
from tests.experiments.conftest import small_banks

IMAGES = 96


@pytest.fixture(scope="session")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks of a few synthetic images, 3 x 3 fixations."""
    return small_banks(
        tmp_path_factory.mktemp("tracks") / "banks",
        DataConfig(dataset="synthetic", num_images=IMAGES),
        side=3,
        mirror=False,
    )


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
