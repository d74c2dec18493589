"""`glimpse probe`: fits of what can be fitted, and nothing chosen on what is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import experiments.pretrain.probe as module
from encoders.bank.feature_bank import BankMismatchError
from encoders.inference.engine import make_encoder
from experiments.data import DataConfig
from experiments.prepare.bank import BankConfig, build_bank
from experiments.pretrain.linear import (
    DECAYS,
    fit_linear,
    hidden_reading,
    linear_reading,
    ridge_reading,
    standardise,
    training_gap,
)
from experiments.pretrain.probe import ProbeConfig, find_dogs, read_encoder
from experiments.pretrain.synthetic_probe import linear_accuracy
from glimpse_env.datasets.synthetic import SyntheticDogs

DATA = DataConfig(dataset="synthetic", num_images=48)


def blobs(spread: float, count: int = 300, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Three classes around three corners of a cube, in noise of unit size."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    x = rng.normal(size=(count, 8)).astype(np.float32)
    x[:, 2:5] += spread * np.eye(3, dtype=np.float32)[labels]
    return torch.from_numpy(x), labels


def right(scores: torch.Tensor, labels: np.ndarray) -> float:
    return float((scores.argmax(1).numpy() == labels).mean())


def test_a_fit_is_a_stationary_point_of_what_it_minimises():
    x, labels = blobs(1.5)
    y = torch.from_numpy(labels)
    fit = fit_linear(x, y, 3, 1e-2, iterations=200)
    probabilities = fit.scores(x).softmax(1) - torch.nn.functional.one_hot(y, 3)
    gradient = x.T @ probabilities / len(x) + 2e-2 * fit.weight
    assert gradient.abs().max() < 1e-4
    assert probabilities.mean(0).abs().max() < 1e-4


def test_a_start_changes_the_way_and_not_the_end():
    x, labels = blobs(1.5)
    y = torch.from_numpy(labels)
    cold = fit_linear(x, y, 3, 1e-2, iterations=200)
    warm = fit_linear(x, y, 3, 1e-2, fit_linear(x, y, 3, 1e-1), iterations=200)
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "hidden"])
def test_readings_are_right_where_they_can_be_and_at_chance_on_noise(kind: str):
    for spread, low, high in ((6.0, 0.97, 1.0), (0.0, 0.2, 0.47)):
        (x, labels), (z, truth) = blobs(spread, 900), blobs(spread, seed=1)
        if kind == "linear":
            scores = linear_reading(x, labels, 3)[0].scores(z)
        else:
            scores = hidden_reading(x, labels, 3, 16)[0](z)
        assert low <= right(scores, truth) <= high


def test_a_shift_of_all_features_changes_no_score():
    (x, labels), (z, _) = blobs(2.0), blobs(2.0, seed=1)
    one, decay = linear_reading(x, labels, 3)
    other, same = linear_reading(x + 5, labels, 3)
    assert decay == same
    torch.testing.assert_close(other.scores(z + 5), one.scores(z), rtol=1e-2, atol=2e-2)


def test_the_held_out_tenth_chooses_the_decay():
    """Useless features ask for much, a class in a small difference of two large ones for little."""
    rng = np.random.default_rng(0)
    (x, labels), (z, truth) = blobs(2.0), blobs(2.0, count=900, seed=1)
    wide, wider = (
        torch.cat([part, torch.from_numpy(rng.normal(size=(len(part), 400)).astype(np.float32))], 1)
        for part in (x, z)
    )
    strong, weak = (fit_linear(wide, torch.from_numpy(labels), 3, d) for d in (0.1, 1e-4))
    assert right(strong.scores(wider), truth) > right(weak.scores(wider), truth) + 0.01
    assert linear_reading(wide, labels, 3)[1] >= 1e-2

    large, sides = rng.normal(size=3000), np.arange(3000) % 2
    pair = np.stack([large, large + 0.2 * (2 * sides - 1) + 0.1 * rng.normal(size=3000)], 1)
    inputs = torch.from_numpy(pair.astype(np.float32))
    fit, decay = linear_reading(inputs[:2000], sides[:2000], 2)
    assert decay <= 1e-2 and right(fit.scores(inputs[2000:]), sides[2000:]) > 0.93


def test_the_training_gap_tells_memorised_features_from_general_ones() -> None:
    """Features that hold the label of training images alone show a gap; equal ones show none."""
    generator = np.random.default_rng(3)
    labels, truth = np.arange(600) % 6, np.arange(300) % 6

    def features(of: np.ndarray, strength: float) -> torch.Tensor:
        noise = generator.standard_normal((len(of), 12))
        noise[np.arange(len(of)), of] += strength
        return torch.from_numpy(noise.astype(np.float32))

    memorised = training_gap(features(labels, 6.0), labels, features(truth, 1.0), truth, 1e-3)
    equal = training_gap(features(labels, 2.0), labels, features(truth, 2.0), truth, 1e-3)
    assert memorised["other_half"] > 95
    assert memorised["gap"] > 20
    assert abs(equal["gap"]) < 10
    assert equal["gap"] == equal["other_half"] - equal["validation"]


def test_a_hidden_layer_reads_what_a_plane_cannot():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 2)).astype(np.float32)
    labels = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(np.int64)
    inputs = torch.from_numpy(x)
    plane, _ = linear_reading(inputs[:800], labels[:800], 2)
    network, epochs = hidden_reading(inputs[:800], labels[:800], 2, 64)
    assert right(plane.scores(inputs[800:]), labels[800:]) < 0.65
    assert right(network(inputs[800:]), labels[800:]) > 0.9 and 1 <= epochs <= 40
    again, _ = hidden_reading(inputs[:800], labels[:800], 2, 64)
    torch.testing.assert_close(again(inputs), network(inputs), rtol=0, atol=0)


def test_patches_are_standardised_each_by_itself():
    features = np.random.default_rng(0).normal(size=(5, 2, 64)).astype(np.float32)
    both = standardise(features)
    alone = standardise(features[:, 1:])
    assert both.shape == (5, 128)
    torch.testing.assert_close(both[:, 64:], alone)
    torch.testing.assert_close(
        both.unflatten(1, (2, 64)).mean(2), torch.zeros(5, 2), atol=1e-6, rtol=0
    )
    # The signed root: ranks stay, signs too, before the mean is taken off.
    row = features[0, 0]
    np.testing.assert_array_equal(np.argsort(both[0, :64].numpy()), np.argsort(row))
    torch.testing.assert_close(standardise(4 * features), both, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProbeConfig, dict]:
    """A probe of the shipped encoder on few images."""
    out = tmp_path_factory.mktemp("probe") / "result.json"
    config = ProbeConfig(
        out, encoder="inception_mini", data=DATA, resolutions=("low", "high"), workers=1, hidden=8
    )
    return config, read_encoder(config)


def test_the_result_says_what_was_read(read: tuple[ProbeConfig, dict]):
    config, result = read
    written = json.loads(config.out.read_text())
    assert written["readings"] == result["readings"]
    assert set(written["readings"]) == {"low", "high", "low+high"}
    for reading in written["readings"].values():
        assert reading.keys() == {"linear", "hidden"}
        for score in reading.values():
            assert 0 <= score["low"] <= score["ma"] <= score["high"] <= 100
            assert score["num_images"] == 12
        assert reading["linear"]["weight_decay"] in DECAYS
        assert set(reading["linear"]["training_gap"]) == {"other_half", "validation", "gap"}
    assert (
        written["encoder"]["name"] == "inception_mini" and "pretrain" in written["encoder"]["seen"]
    )
    assert written["splits"]["fitted_on"]["images"] == 48
    assert written["splits"]["measured_on"]["split"] == "val"


def test_a_second_reading_computes_no_features(
    read: tuple[ProbeConfig, dict], monkeypatch: pytest.MonkeyPatch
):
    config, result = read

    def refused(*_: object) -> None:
        raise AssertionError("the features are there")

    monkeypatch.setattr("experiments.prepare.bank.BankBuilder.build_image", refused)
    assert read_encoder(config)["readings"] == result["readings"]
    with pytest.raises(AssertionError, match="are there"):  # other features are not those
        read_encoder(replace(config, resolutions=("medium",)))


def test_a_bank_gives_the_same_reading(read: tuple[ProbeConfig, dict], tmp_path: Path):
    """Its central point is a glimpse at the centre, where nothing is outside the image."""
    config, result = read
    precision = result["precision"]
    encoder = make_encoder("inception_mini", precision=precision)
    made = BankConfig(
        tmp_path,
        DATA,
        encoder="inception_mini",
        side=3,
        workers=1,
        precision=precision,
        resolutions=("high", "low"),
        mirror=False,
    )
    for split in made.splits:
        build_bank(made, split, encoder)
    from_bank = read_encoder(replace(config, bank=tmp_path, out=tmp_path / "r.json"))
    for name in ("low", "high"):
        ours, theirs = from_bank["readings"][name]["linear"], result["readings"][name]["linear"]
        assert ours["ma"] == pytest.approx(theirs["ma"], abs=5)
    assert not (tmp_path / "features").exists()
    with pytest.raises(BankMismatchError, match="glimpse bank"):
        read_encoder(replace(config, bank=tmp_path, encoder="googlenet"))
    even = replace(made, out=tmp_path / "even", side=2)
    build_bank(even, "train", encoder)
    build_bank(even, "val", encoder)
    with pytest.raises(ValueError, match="no point at the centre"):
        read_encoder(replace(config, bank=tmp_path / "even"))


def test_nothing_is_chosen_on_what_is_measured(
    read: tuple[ProbeConfig, dict], monkeypatch: pytest.MonkeyPatch
):
    """Other labels on the measured split change the score and not the fit."""
    config, result = read
    build = module.build_dataset

    def scrambled(data: DataConfig, split: str):
        dataset = build(data, split)
        if split == config.eval_split:
            monkeypatch.setattr(dataset, "labels", np.roll(dataset.labels, 1), raising=False)
        return dataset

    monkeypatch.setattr(module, "build_dataset", scrambled)
    other = read_encoder(config)["readings"]
    for name, reading in result["readings"].items():
        assert other[name]["linear"]["weight_decay"] == reading["linear"]["weight_decay"]
        assert other[name]["hidden"]["epochs"] == reading["hidden"]["epochs"]
    assert other != result["readings"]


@pytest.mark.parametrize(
    "option, words",
    [
        ({"hidden": -1}, "--hidden"),
        ({"resolutions": ()}, "--resolutions"),
        ({"eval_split": "train"}, "measure on other images"),
        ({"cells": (1,)}, "--cells"),
        ({"cells": (2,), "bank": Path("bank")}, "cells of the low patch only"),
    ],
)
def test_impossible_options_are_told(option: dict, words: str, tmp_path: Path):
    with pytest.raises(ValueError, match=words):
        replace(ProbeConfig(tmp_path / "r.json"), **option)


def test_the_records_own_probe_still_tells_signal_from_noise():
    for spread, low, high in ((6.0, 0.95, 1.0), (0.0, 0.0, 0.5)):
        x, labels = blobs(spread)
        found = linear_accuracy(x[:200].numpy(), labels[:200], x[200:].numpy(), labels[200:])
        assert low <= found <= high


def test_ridge_reads_what_is_linear_in_the_features() -> None:
    x, z = torch.randn(200, 5), torch.randn(40, 5)
    weights, offset = torch.randn(5, 2).double(), torch.tensor([3.0, -1.0]).double()
    read = ridge_reading(x, x.double() @ weights + offset, z, decay=1e-9)
    torch.testing.assert_close(read, z.double() @ weights + offset)


def test_the_place_of_the_dog_is_read_from_features_that_tell_it() -> None:
    """Along y the features say where it is, along x they say nothing."""
    sets: list = [SyntheticDogs("train", 80), SyntheticDogs("val", 60)]
    features = []
    for dogs in sets:
        rng, rows = np.random.default_rng(len(dogs)), []
        for index in range(len(dogs)):
            (box,), (_, height) = dogs.boxes(index), dogs.size(index)
            y = (box[1] + box[3]) / height - 1
            # Squares, since features are read by their roots, standardised over each row.
            rows.append(np.square([1 + y, 1 - y, 3.0, 0.5, *rng.uniform(0.9, 1.1, 2)]))
        features.append(np.array(rows, np.float32))
    found = find_dogs(sets, *features)
    assert found is not None and found["images"] == 60
    assert found["correlation"][1] > 0.95 and abs(found["correlation"][0]) < 0.5
    assert found["explained"][1] > 0.3 > abs(found["explained"][0])


def test_cells_are_read_beside_the_vector_and_from_a_bank_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = ProbeConfig(
        tmp_path / "live.json",
        encoder="inception_mini",
        data=DATA,
        resolutions=("low",),
        workers=1,
        cells=(2, 3),
        precision="fp32",
        device="cpu",
    )
    live = read_encoder(config)["cells"]
    assert set(live) == {"2", "3"} and "low, 3 x 3 cells" in capsys.readouterr().out
    assert 0 <= live["2"]["low"]["ma"] <= 100
    assert live["3"]["dog_from_low_cells"]["decay"] in (1e2, 1e3, 1e4, 1e5)
    made = BankConfig(
        tmp_path / "bank",
        DATA,
        encoder="inception_mini",
        side=1,
        workers=1,
        precision="fp32",
        resolutions=("low",),
        mirror=False,
        device="cpu",
    )
    encoder = make_encoder("inception_mini", precision="fp32", device="cpu")
    for split in made.splits:
        build_bank(made, split, encoder)
    banked = replace(config, bank=tmp_path / "bank", cells=(3,), out=tmp_path / "bank.json")
    found = read_encoder(banked)["cells"]["3"]
    assert found["low"]["ma"] == pytest.approx(live["3"]["low"]["ma"], abs=10)
    np.testing.assert_allclose(
        found["dog_from_low_cells"]["correlation"],
        live["3"]["dog_from_low_cells"]["correlation"],
        atol=0.05,
    )
    with pytest.raises(BankMismatchError, match="grid of 1 and 3, not 2"):
        read_encoder(replace(banked, cells=(2,)))


def test_cells_tell_where_the_dog_is_if_they_follow_it() -> None:
    """Of several decays the one is taken that serves a held-out tenth."""
    sets: list = [SyntheticDogs("train", 80), SyntheticDogs("val", 60)]
    rng = np.random.default_rng(0)
    features = []
    for dogs in sets:
        rows = []
        for index in range(len(dogs)):
            (box,), (width, height) = dogs.boxes(index), dogs.size(index)
            x, y = (box[0] + box[2]) / width - 1, (box[1] + box[3]) / height - 1
            place = [1 + x, 1 - x, 1 + y, 1 - y, 3.0]
            rows.append(np.square([*place, *rng.uniform(0.9, 1.1, 20)]))
        features.append(np.array(rows, np.float32))
    decays = (1e-3, 1e6)
    found = find_dogs(sets, *features, decays)
    assert found is not None and found["decay"] == 1e-3
    assert min(found["correlation"]) > 0.8
