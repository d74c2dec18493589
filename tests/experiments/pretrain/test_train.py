"""`glimpse pretrain`: honest sampling, exact resuming, a record that tells how to repeat it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from safetensors.torch import load_file

import encoders
from agents.tensor_store import CheckpointError, load_checkpoint, save_checkpoint
from encoders.inference.engine import make_encoder
from experiments.data import DataConfig
from experiments.pretrain.config import PretrainConfig, command
from experiments.pretrain.patches import PatchSampler, normalise
from experiments.pretrain.state import Pretraining
from experiments.pretrain.synthetic_probe import linear_accuracy, look, probe
from experiments.pretrain.train import pretrain
from experiments.runtime.runs import RunError
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.retina.rules import cut_patches

TINY = PretrainConfig(
    data=DataConfig(dataset="synthetic", num_images=24),
    resolutions=("low", "medium"),
    steps=4,
    images=3,
    looks=2,
    held_out=0.2,
    probe=0,
    precision="fp32",
)


class Colours:
    """Images of one colour and a little noise; the colour is the class."""

    class_names = ("red", "green", "blue")
    training, split, num_missing, fingerprint = True, "train", 0, "colours"

    def __init__(self, count: int = 30) -> None:
        self.labels = np.arange(count) % 3
        self.opened: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        self.opened.append(int(index))
        image = np.random.default_rng(index).integers(0, 120, (40, 50, 3), dtype=np.uint8)
        image[..., self.labels[index]] += 100
        return image

    def boxes(self, index: int) -> np.ndarray:
        raise AssertionError("pretraining may not look at boxes")

    def name(self, index: int) -> str:
        return str(index)


def sampler(config: PretrainConfig, indices: np.ndarray | None = None) -> PatchSampler:
    colours = Colours()
    return PatchSampler(config, colours, np.arange(30) if indices is None else indices)


def test_a_batch_depends_on_its_step_only():
    one, other = sampler(TINY), sampler(TINY)
    for step in (0, 1, 2):
        one.batch(step)
    np.testing.assert_array_equal(one.batch(3).patches, other.batch(3).patches)
    assert not np.array_equal(other.batch(3).patches, other.batch(4).patches)
    prefetched = [batch.patches for batch in sampler(TINY).batches(2, 7)]
    assert len(prefetched) == 5
    for step, patches in enumerate(prefetched, start=2):
        np.testing.assert_array_equal(patches, other.batch(step).patches)


def test_shares_of_a_batch_are_the_batch():
    config = replace(TINY, images=4, loaders=3)
    whole = PatchSampler(config, Colours(), np.arange(30)).batch(7)
    parts = [PatchSampler(config, Colours(), np.arange(30), (i, 2)).batch(7) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([p.patches for p in parts]), whole.patches)
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), whole.labels)


def test_many_loaders_give_the_batches_of_one_and_keep_within_the_memory():
    one, many = sampler(TINY), sampler(replace(TINY, loaders=6))
    size = build_pyramid(many.dataset.image(0), TINY.resolutions).nbytes
    many.room = 4 * size + 1  # of 30 images
    many.dataset.opened.clear()
    expected = [batch.patches for batch in one.batches(0, 40)]
    found = [batch.patches for batch in many.batches(0, 40)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert many.room == 1
    opened = Counter(many.dataset.opened)
    assert sum(count <= 6 for count in opened.values()) >= 4  # kept, though six may decode it
    assert len(one.dataset.opened) == 30


def test_every_image_comes_once_an_epoch_and_in_another_order():
    config = replace(TINY, images=4, looks=1, cache_mb=0)
    walk = sampler(config)
    for step in range(15):  # 60 images: two epochs of 30, one batch across both
        walk.batch(step)
    opened = walk.dataset.opened
    assert sorted(opened[:30]) == sorted(opened[30:]) == list(range(30))
    assert opened[:30] != opened[30:]


def test_images_kept_aside_are_never_drawn():
    walk = sampler(TINY, np.arange(10, 30))
    for step in range(20):
        walk.batch(step)
    assert min(walk.dataset.opened) >= 10


def test_patches_are_the_retinas_and_labels_their_images():
    config = replace(TINY, images=1, looks=200, resolutions=("low",), extent=0.5)
    walk = sampler(config, np.array([4]))
    batch = walk.batch(0)
    assert batch.patches.shape == (200, 1, 96, 96, 3)
    assert (batch.labels == 1).all()
    # Fixations reach as far as `extent` and no farther: at its corner, this much is outside.
    outside = cut_patches(
        [build_pyramid(walk.dataset.image(4), ("low",))],
        np.array([[0.5, 0.5]]),
        np.zeros(1, bool),
        np.zeros(1, np.uint64),
        ("low",),
    )
    inside = outside[0, 0, :, :, 1].astype(float).std(1) < 50  # rows of the image: little noise
    assert inside.sum() == 72


def test_training_learns_and_the_held_out_accuracy_tells():
    config = replace(
        TINY, steps=25, images=8, looks=1, resolutions=("low",), learning_rate=1e-2, extent=0.2
    )
    walk, run = sampler(config), Pretraining(config, 3)
    losses = [run.train_step(batch)["loss"] for batch in walk.batches(0, 25)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert run.evaluate(walk.batch(30))["low"] == 1.0


def test_exported_features_have_unit_size_and_quarters_share_their_gain():
    config = replace(TINY, resolutions=("low",))
    walk, run = sampler(config), Pretraining(config, 3)
    run.train_step(walk.batch(0))
    batch = walk.batch(1)
    trunk = run.export(batch)
    with torch.inference_mode():
        features = trunk(normalise(batch.patches, "cpu").flatten(0, 1))
    size = features.unflatten(1, (32, 4)).square().mean((0, 2)).sqrt()
    active = size > 0.1  # a network of one step has channels that are silent, and stay so
    assert active.sum() > 20
    torch.testing.assert_close(size[active], torch.ones(int(active.sum())), rtol=1e-3, atol=1e-3)
    gain = trunk.gain.reshape(32, 4)
    assert (gain == gain[:, :1]).all()


def test_normalise_is_what_the_record_says():
    patches = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 4, 3), dtype=np.uint8)
    x = normalise(patches, "cpu")
    assert x.shape == (2, 1, 3, 4, 4)
    expected = (patches[1, 0, 2, 3].astype(np.float32) - 127.5) / 64.0
    np.testing.assert_allclose(x[1, 0, :, 2, 3], expected)


def test_bf16_trains_fp32_weights():
    config = replace(TINY, precision="bf16")
    run = Pretraining(config, 3)
    assert np.isfinite(run.train_step(sampler(config).batch(0))["loss"])
    assert all(p.dtype == torch.float32 for p in run.towers.parameters())


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_stops_before_a_weight_moves(value: float):
    """The loss is as usual: only what goes back through one weight is spoiled."""
    run = Pretraining(TINY, 3)
    weight = next(run.towers.trunk.parameters())
    weight.register_hook(lambda gradient: gradient * value)
    before = {name: each.clone() for name, each in run.towers.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"at step 0: .*--learning-rate"):
        run.train_step(sampler(TINY).batch(0))
    assert run.step == 0
    for name, each in run.towers.named_parameters():
        torch.testing.assert_close(each, before[name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run from beginning to end."""
    return pretrain(replace(TINY, out=tmp_path_factory.mktemp("pretrain")))


def test_a_run_leaves_weights_that_the_engine_takes(finished: Path):
    encoder = make_encoder(str(finished.with_suffix(".json")), device="cpu", precision="fp32")
    patches = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8)
    features = encoder(patches)
    assert features.shape == (3, 128) and torch.isfinite(features).all()


def test_the_record_says_what_was_used(finished: Path):
    record = json.loads(finished.with_suffix(".json").read_text())
    assert record["data"]["split"] == "pretrain" and len(record["data"]["fingerprint"]) == 64
    accuracy = record["accuracy_at_random_patches_of_held_out_images"]
    assert set(accuracy) == {"low", "medium", "low+medium"}
    assert all(0 <= value <= 1 for value in accuracy.values())
    text = finished.with_suffix(".json").read_text()
    assert str(finished.parent) not in text  # no path of the machine it was made on


def test_the_recorded_command_gives_the_same_options():
    odd = replace(TINY, data=replace(TINY.data, allow_missing=True), seed=3)
    for config in (TINY, odd, PretrainConfig()):
        program, task, *flags = command(config).split()
        assert (program, task) == ("glimpse", "pretrain")
        assert replace(tyro.cli(PretrainConfig, args=flags), probe=config.probe) == config
    assert command(PretrainConfig()) == "glimpse pretrain"


def test_an_interrupted_run_resumes_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(TINY, out=tmp_path, checkpoint_every=2)
    step = Pretraining.train_step

    def interrupted(self, batch):
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    assert not (tmp_path / "inception_mini.safetensors").exists()
    weights = pretrain(replace(config, resume=True))
    ours, theirs = load_file(weights), load_file(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert weights.read_bytes() == finished.read_bytes()
    assert (tmp_path / "metrics.jsonl").read_text() == (
        finished.parent / "metrics.jsonl"
    ).read_text()
    assert not list(tmp_path.glob("*.part*"))


def test_a_run_is_not_overwritten(finished: Path):
    before = finished.read_bytes()
    for config in (TINY, replace(TINY, seed=9)):
        with pytest.raises(RunError, match="--resume"):
            pretrain(replace(config, out=finished.parent))
    assert finished.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "rubbish", "empty", "foreign", "other network"])
def test_a_damaged_checkpoint_is_a_sentence(finished: Path, tmp_path: Path, damage: str):
    folder = tmp_path / "checkpoint"
    tensors, metadata = load_checkpoint(finished.parent / "checkpoint")
    if damage == "other network":
        tensors = {name: value for name, value in tensors.items() if "towers" not in name}
    save_checkpoint(folder, tensors, {} if damage == "foreign" else metadata)
    weights = next(folder.glob("*.safetensors"))
    whole = weights.read_bytes()
    contents = {"cut": whole[: len(whole) // 2], "rubbish": b"\x80\x02 rubbish", "empty": b""}
    weights.write_bytes(contents.get(damage, whole))
    with pytest.raises(CheckpointError, match=r"checkpoint.*(damaged|lack)"):
        pretrain(replace(TINY, out=tmp_path, resume=True))


@pytest.mark.parametrize(
    "option",
    [
        {"held_out": 1.0},
        {"held_out": 0.0},
        {"steps": 0},
        {"images": 0},
        {"looks": 0},
        {"checkpoint_every": 0},
        {"dropout": 1.0},
        {"extent": 1.5},
        {"resolutions": ()},
        {"loaders": 0},
        {"head_steps": -1},
        {"micro_batch": -1},
        {"learning_rate": 0.0},
        {"trunk_lr_scale": -1.0},
    ],
)
def test_impossible_options_are_told(option: dict):
    with pytest.raises(ValueError, match=f"--{next(iter(option)).replace('_', '-')} "):
        replace(TINY, **option)


def test_an_unknown_device_is_a_sentence():
    with pytest.raises(ValueError, match="'foo'"):
        Pretraining(replace(TINY, device="foo"), 3)


def test_flags_of_the_images_have_no_prefix():
    config = tyro.cli(PretrainConfig, args=["--dataset", "image_folder", "--data-dir", "here"])
    # The number of synthetic dogs must not stick to images that are there anyway.
    assert config.data == DataConfig(dataset="image_folder", data_dir=Path("here"))
    assert command(config) == "glimpse pretrain --dataset image_folder"


def test_resuming_needs_a_checkpoint_of_the_same_run(finished: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        pretrain(replace(TINY, out=tmp_path / "none", resume=True))
    with pytest.raises(ValueError, match="differs in seed"):
        pretrain(replace(TINY, out=finished.parent, seed=1, resume=True))


def test_the_shipped_encoder_reads_breeds_on_heads_only():
    shipped = Path(encoders.__file__).parent / "data" / "inception_mini.safetensors"
    encoder = make_encoder(str(shipped.with_suffix(".json")), device="cpu", precision="fp32")
    found = probe(
        lambda patches: encoder(torch.from_numpy(patches)).numpy(),
        SyntheticDogs("train", num_images=360),
        SyntheticDogs("test", num_images=120),
    )
    assert found["breed_from_high_patch_at_head"] > 0.9
    assert found["breed_from_high_patch_at_centre"] < 0.35
    assert found["breed_from_low_patch_at_centre"] < 0.2  # the context; chance is 0.083
    assert found["head_found_from_context"] > 0.7


def test_smaller_images_are_probed_as_they_were_trained_on(tmp_path: Path):
    small = replace(TINY, out=tmp_path, steps=1, probe=24, data=replace(TINY.data, short_side=60))
    record = json.loads(pretrain(small).with_suffix(".json").read_text())
    assert len(record["linear_probes"]) == 7
    dogs = SyntheticDogs("val", num_images=2)
    found, heads = look(lambda patches: patches.reshape(len(patches), -1), dogs, 60)
    plain, same = look(lambda patches: patches.reshape(len(patches), -1), dogs)
    np.testing.assert_array_equal(heads, same)
    found, plain = found.astype(float), plain.astype(float)
    # The same places, with less in them: what is fine is gone, the mean stays.
    np.testing.assert_allclose(found.mean(-1), plain.mean(-1), atol=6)
    assert (found[:, 0, -1].std(-1) < 0.9 * plain[:, 0, -1].std(-1)).all()


def test_a_linear_probe_is_right_where_classes_are_linear_and_at_chance_on_noise():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    features = rng.normal(size=(300, 8)).astype(np.float32)
    noise = linear_accuracy(features[:200], labels[:200], features[200:], labels[200:])
    assert noise < 0.5
    features[:, 2:5] += 6 * np.eye(3)[labels]
    signal = linear_accuracy(features[:200], labels[:200], features[200:], labels[200:])
    assert signal > 0.95
