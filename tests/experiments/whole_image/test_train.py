"""`glimpse whole-image` small: stages, resuming, what it learns and what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encoders import spec as spec_module
from encoders.inference.engine import build_network
from encoders.spec import get_spec, register_spec
from experiments.cli import _parse
from experiments.data import DataConfig
from experiments.runtime.runs import RunError, RunFolder
from experiments.whole_image import train as whole_image_module
from experiments.whole_image.augment import WholeImages, load_images
from experiments.whole_image.network import (
    WholeImageNetwork,
    fit_layer,
    schedule,
    trainable_trunk,
)
from experiments.whole_image.train import CLASSIFIERS, Finetuning, WholeImageConfig, whole_image
from glimpse_env.datasets.base import ImageDataset
from tests.experiments.pretrain.test_train import Colours

RANDOM = replace(get_spec("googlenet"), name="random_googlenet", weights=None, sha256=None)


@pytest.fixture(autouse=True)
def random_encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GoogLeNet with random weights under a name, for as long as a test takes."""
    monkeypatch.setattr(spec_module, "_SPECS", dict(spec_module._SPECS))
    register_spec(RANDOM)
    yield


@pytest.fixture(autouse=True)
def images_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than learning from them."""

    def load(dataset: ImageDataset, side: int, fill: tuple[int, int, int]) -> WholeImages:
        key = (dataset.fingerprint, len(dataset), side, fill)
        if key not in _DRAWN:
            _DRAWN[key] = load_images(dataset, side, fill)
        return _DRAWN[key]

    monkeypatch.setattr(whole_image_module, "load_images", load)


_DRAWN: dict[tuple, WholeImages] = {}


@pytest.fixture
def config(tmp_path: Path) -> WholeImageConfig:
    """Two epochs of three steps, from the shipped little encoder."""
    return WholeImageConfig(
        out=tmp_path / "run",
        data=DataConfig(dataset="synthetic", num_images=24),
        encoder="inception_mini",
        side=32,
        layer_steps=5,
        layer_learning_rate=3e-3,
        epochs=2,
        batch_size=8,
        learning_rate=1e-3,
        precision="fp32",
        device="cpu",
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    (path,) = (run / "checkpoint").glob("weights-*.safetensors")
    return load_file(path)


def rows(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.pop("images_per_second", None)
        del row["seconds"]
    return found


def assert_same(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert rows(one) == rows(two)
    scores = [json.loads((run / "evaluation-val.json").read_text()) for run in (one, two)]
    for each in scores:
        del each["settings"]["seconds"]
    assert scores[0] == scores[1]


def test_a_run_folder_holds_what_is_promised(config: WholeImageConfig) -> None:
    record = whole_image(config)
    run = config.out
    saved = json.loads((run / "evaluation-val.json").read_text())
    settings = saved.pop("settings")
    assert saved == record and len(saved) == 2
    for row in saved.values():
        assert 0 <= row["low"] <= row["ma"] <= row["high"] <= 100 and row["num_images"] == 6
    assert settings["split"] == "val" and settings["epochs"] == 2 and settings["seconds"] > 0
    assert settings["dataset"]["images"] == 6 and settings["seed"] == 0
    environment = json.loads((run / "environment.json").read_text())
    assert "pretrain" in environment["encoder"]["seen"]
    assert environment["padding"] == [128, 128, 128]
    assert environment["datasets"]["train"]["images"] == 24
    layer, *epochs = rows(run)
    assert layer["agent"] == "new layer" and "eval_ma" not in layer
    assert [row["epoch"] for row in epochs] == [0, 1]
    assert epochs[-1]["eval_ma"] == saved["whole image"]["ma"]
    events = EventAccumulator(str(run / "tensorboard" / "whole-image"))
    events.Reload()
    assert {"loss", "eval/ma"} <= set(events.Tags()["scalars"])
    with pytest.raises(RunError, match="--resume"):
        whole_image(config)
    with pytest.raises(RunError, match="other settings .learning_rate"):
        whole_image(replace(config, resume=True, learning_rate=0.1))


@pytest.mark.parametrize(
    "encoder, epochs, stop_at",
    [
        ("inception_mini", 2, 0),  # the first step
        ("inception_mini", 2, 3),  # the end of an epoch
        ("inception_mini", 2, 5),  # a step after the checkpoint within an epoch
        ("random_googlenet", 1, 3),
    ],
)
def test_interrupted_and_resumed_ends_as_if_it_had_not_been(
    encoder: str,
    epochs: int,
    stop_at: int,
    config: WholeImageConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(config, encoder=encoder, epochs=epochs, checkpoint_every=2)
    if encoder == "random_googlenet":
        config = replace(config, data=replace(config.data, num_images=8), batch_size=2)
    whole = replace(config, out=config.out.with_name("whole"))
    whole_image(whole)

    step = Finetuning.train_step

    def failing(self: Finetuning, images: np.ndarray) -> dict[str, float]:
        if self.step == stop_at:
            raise KeyboardInterrupt
        return step(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "train_step", failing)
        with pytest.raises(KeyboardInterrupt):
            whole_image(config)
    torch.rand(7)  # the state of global generators must not matter
    whole_image(replace(config, resume=True))
    assert_same(config.out, whole.out)


def test_interrupted_while_the_new_layer_learns(
    config: WholeImageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(config, out=config.out.with_name("whole"))
    whole_image(whole)

    def failing(*arguments: object, **options: object) -> dict[str, float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(whole_image_module, "fit_layer", failing)
        with pytest.raises(KeyboardInterrupt):
            whole_image(config)
    whole_image(replace(config, resume=True))
    assert_same(config.out, whole.out)
    # A finished run only evaluates again.
    whole_image(replace(config, resume=True))
    assert_same(config.out, whole.out)


def test_a_seed_decides_the_run(config: WholeImageConfig) -> None:
    config = replace(config, epochs=1)
    whole_image(config)
    again = replace(config, out=config.out.with_name("again"))
    whole_image(again)
    assert_same(config.out, again.out)
    other = replace(config, out=config.out.with_name("other"), seed=1)
    whole_image(other)
    assert rows(config.out) != rows(other.out)


def test_the_trunk_learns_in_the_second_stage_only(config: WholeImageConfig) -> None:
    start = trainable_trunk(get_spec("inception_mini")).state_dict()

    def moved(run: Path) -> set[str]:
        found = {
            name.removeprefix("network/trunk."): value
            for name, value in weights(run).items()
            if name.startswith("network/trunk.")
        }
        assert found.keys() == start.keys()
        return {name for name, value in found.items() if not torch.equal(value, start[name])}

    first = replace(config, epochs=0)
    whole_image(first)
    assert moved(first.out) == set()
    assert weights(first.out)["network/layer.weight"].abs().sum() > 0
    second = replace(config, out=config.out.with_name("second"), epochs=1)
    whole_image(second)
    assert moved(second.out) == {n for n in start if n.endswith(("weight", "bias"))}


def test_trainval_is_not_evaluated_on_val(config: WholeImageConfig) -> None:
    with pytest.raises(ValueError, match="contains the images of 'val'.*train on 'train'"):
        replace(config, train_split="trainval")
    record = whole_image(
        replace(config, train_split="trainval", eval_split="test", epochs=1, layer_steps=0)
    )
    assert record["whole image"]["num_images"] == 6
    assert (config.out / "evaluation-test.json").is_file()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"epochs": -1}, "at least 0"),
        ({"epochs": 0, "layer_steps": 0}, "nothing is learned"),
        ({"dropout": 1.0}, "at least 0 and below 1"),
        ({"side": 0}, "at least 1"),
    ],
)
def test_impossible_settings(config: WholeImageConfig, wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(config, **wrong)


def test_too_few_images_leave_no_folder(config: WholeImageConfig) -> None:
    with pytest.raises(ValueError, match="--batch-size"):
        whole_image(replace(config, batch_size=25))
    assert not config.out.exists()


def test_it_learns_colours(config: WholeImageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stages, from an encoder that knows nothing of them; a third would be chance."""
    monkeypatch.setattr(
        whole_image_module,
        "build_dataset",
        lambda _, split: Colours(60 if split == "train" else 30),
    )
    augment = replace(config.augment, hue=0.0, saturation=0.0)
    config = replace(config, augment=augment, side=32, dropout=0.0, batch_size=12)
    both = whole_image(replace(config, layer_steps=60, epochs=1))
    assert both["whole image"]["ma"] > 80
    alone = replace(config, out=config.out.with_name("alone"), layer_steps=0, epochs=6)
    assert whole_image(alone)["whole image"]["ma"] > 60


def test_the_layer_fits_features_of_any_size() -> None:
    """Columns a thousand times apart: what is fitted is the layer on the features themselves."""
    generator = torch.Generator().manual_seed(0)
    network = WholeImageNetwork(get_spec("inception_mini"), 4, dropout=0.2, dtype=torch.float32)
    labels = torch.arange(80) % 4
    features = torch.randn(80, 128, generator=generator).abs() * 1e-3
    features[torch.arange(80), labels] += 2e-3
    features[:, 64:] *= 1000
    found = fit_layer(
        network,
        features[None],
        labels,
        steps=80,
        learning_rate=3e-2,
        weight_decay=0.0,
        label_smoothing=0.0,
        seed=0,
    )
    assert found["accuracy"] > 0.9
    assert (network.log_probs(features).argmax(1) == labels.numpy()).mean() > 0.9


@pytest.mark.parametrize("name", ["random_googlenet", "random_torchvision"])
def test_the_trainable_form_is_the_same_function(name: str) -> None:
    spec = RANDOM
    if name == "random_torchvision":
        spec = replace(get_spec("googlenet_torchvision"), weights=None, sha256=None)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255 - 120
    trunk = trainable_trunk(spec)
    torch.testing.assert_close(trunk(x), build_network(spec)(x), rtol=1e-3, atol=1e-4)
    assert all(p.requires_grad for p in trunk.parameters())


def test_the_network_asks_its_frozen_form_the_same(config: WholeImageConfig) -> None:
    run = Finetuning(replace(config, encoder="random_googlenet"), RunFolder(config.out))
    torch.nn.init.normal_(run.network.layer.weight, generator=torch.Generator().manual_seed(0))
    images = run.images(run.eval_set)
    with torch.no_grad():
        scores = run.network(images.pixels).log_softmax(1)
    answers = run.answers(mirrored=True)
    plain, mean = answers.values()
    np.testing.assert_allclose(plain.log_probs, scores.numpy(), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        other = run.network(images.pixels.flip(2)).log_softmax(1)
    np.testing.assert_allclose(mean.log_probs, ((scores + other) / 2).numpy(), atol=1e-3)
    np.testing.assert_array_equal(plain.labels, run.eval_set.labels)
    assert plain.log_probs.shape[1] == len(run.train_set.class_names)


def test_the_rate_rises_and_falls() -> None:
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2, rel=1e-2) and rates[-1] < 0.001
    assert max(rates) == rates[4] and rates[4:] == sorted(rates[4:], reverse=True)
    assert schedule(0, 1) == 1.0


@pytest.mark.parametrize("name, side", [("googlenet-96", 96), ("googlenet-224", 224)])
def test_the_named_classifiers(name: str, side: int) -> None:
    text, config = CLASSIFIERS[name]
    assert "the paper" in text and config.side == side
    assert get_spec(config.encoder).stride == (1 if side == 96 else 2)
    run, parsed = _parse(
        "whole-image", [name, "--out", "there", "--allow-missing", "--epochs", "2"]
    )
    assert run is whole_image
    assert parsed == replace(
        config, out=Path("there"), epochs=2, data=replace(config.data, allow_missing=True)
    )
