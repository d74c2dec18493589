"""int8 from the command line: calibrated alike in every process, and told apart where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders.bank.feature_bank import BankMismatchError
from encoders.inference.int8 import int8_obstacle
from experiments.data import DataConfig, build_dataset
from experiments.prepare.bank import BankConfig, build_bank
from experiments.prepare.calibration import build_encoder, calibration_patches

DATA = DataConfig(dataset="synthetic", num_images=12)


def test_patches_depend_on_the_images_alone() -> None:
    dataset = build_dataset(DATA, "train")
    patches = calibration_patches(dataset, 8)
    assert patches.shape == (8 * 3, 96, 96, 3)
    assert bool((patches == calibration_patches(dataset, 8)).all())
    # Fewer images than asked for: each once.
    assert len(calibration_patches(dataset, 100)) == 12 * 3


def test_a_mistyped_name_is_told_before_any_image_is_read(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("experiments.prepare.calibration.build_dataset", None)
    with pytest.raises(ValueError, match="googlenat"):
        build_encoder(BankConfig(tmp_path, DATA, encoder="googlenat", precision="int8"))


@pytest.mark.skipif(int8_obstacle() is not None, reason=f"no int8: {int8_obstacle()}")
def test_every_process_of_a_bank_calibrates_alike(
    bvlc_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_DATA", str(bvlc_weights.parent.parent))
    config = BankConfig(
        out=tmp_path / "two",
        data=DATA,
        splits=("train",),
        side=1,
        mirror=False,
        context="center",
        precision="int8",
        workers=2,
        chunk=4,
    )
    encoder = build_encoder(config)
    two = build_bank(config, "train", encoder)
    assert two.description.precision == encoder.precision
    one = build_bank(replace(config, out=tmp_path / "one", workers=1), "train", encoder)
    # The first layer sums in another order by another number of threads, and a level here and there
    # is rounded to the other side: a quarter of a percent. Half the patches make several percent.
    got, expected = (np.asarray(bank.glimpse, np.float32) for bank in (two, one))
    assert np.linalg.norm(got - expected) < 1e-2 * np.linalg.norm(expected)
    # An encoder calibrated otherwise may not go on with it.
    other = build_encoder(replace(config, data=replace(DATA, num_images=11)))
    assert other.precision != encoder.precision
    with pytest.raises(BankMismatchError, match="precision"):
        build_bank(config, "train", other)
