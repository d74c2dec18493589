"""`glimpse classifier`: what it writes, and that nobody answers for what he was trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encoders.bank.feature_bank import FeatureBank
from experiments.data import DataConfig, build_dataset
from experiments.tracks.classifier import PREDICTIONS, at_points, classifier
from experiments.tracks.config import ClassifierConfig
from glimpse_env.look.classifier import FrozenClassifiers, answering
from tests.experiments.tracks.conftest import IMAGES

DATA = DataConfig(dataset="synthetic", num_images=IMAGES)


def test_the_record_tells_of_what_and_how_well(classifiers: Path, banks: Path) -> None:
    frozen = FrozenClassifiers.load(classifiers)
    bank = FeatureBank.open(banks / "train")
    assert frozen.record["dataset"] == bank.dataset and frozen.record["encoder"] == bank.encoder
    assert frozen.folds == 3 and frozen.networks.count == 4
    assert 0 <= frozen.record["accuracy_after_one"]["out_of_fold"] <= 100
    assert frozen.record["temperature"] > 0
    predictions = (classifiers / PREDICTIONS).read_bytes()
    assert hashlib.sha256(predictions).hexdigest() == frozen.record["out_of_fold_sha256"]


def test_predictions_of_training_images_are_out_of_fold(classifiers: Path, banks: Path) -> None:
    frozen, data = FrozenClassifiers.load(classifiers), build_dataset(DATA, "train")
    bank, folds = FeatureBank.open(banks / "train"), answering(data, 3)
    kept = load_file(str(classifiers / PREDICTIONS))["log_p"].float()
    assert kept.shape == (IMAGES, 9)
    told = at_points(frozen.networks, bank, folds, ("high",))
    truth = torch.from_numpy(np.asarray(data.labels))[:, None, None].expand(-1, 9, 1)
    torch.testing.assert_close(told.gather(2, truth).squeeze(2), kept, atol=2e-3, rtol=2e-3)


def test_a_classifier_has_not_seen_its_own_fold(banks: Path, tmp_path: Path) -> None:
    """Whatever the features of fold 0 are, classifier 0 is the same."""
    folds = answering(build_dataset(DATA, "train"), 2)
    found = []
    for change in (False, True):
        source = tmp_path / f"banks-{change}"
        for split in ("train", "val"):
            (source / split).mkdir(parents=True)
            for path in (banks / split).iterdir():
                (source / split / path.name).write_bytes(path.read_bytes())
        if change:
            bank = FeatureBank.open(source / "train")
            path = source / "train" / "glimpse.f16"
            values = np.fromfile(path, np.float16).reshape(bank.glimpse.shape)
            values[folds == 0] += 1
            values.tofile(path)
        out = tmp_path / f"classifiers-{change}"
        config = ClassifierConfig(
            source, out, DATA, folds=2, hidden=4, epochs=1, batch_size=32, num_glimpses=1, dropout=0
        )
        classifier(config)
        found.append(FrozenClassifiers.load(out).networks)
    same = [torch.equal(*(each.glimpse_weight[f] for each in found)) for f in range(3)]
    assert same == [True, False, False]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"folds": 1}, "--folds"), ({"dropout": 1.0}, "--dropout"), ({"epochs": 0}, "--epochs")],
)
def test_options_out_of_range_are_refused(change: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ClassifierConfig(Path("b"), Path("c"), **change)
