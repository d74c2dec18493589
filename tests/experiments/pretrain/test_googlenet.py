"""`glimpse pretrain --core`: a GoogLeNet is fine-tuned, and what comes out is an encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.tensor_store import load_checkpoint, save_checkpoint, unpack_state
from encoders.googlenet import GoogLeNetTrunk
from encoders.inference.engine import build_network, make_encoder
from encoders.spec import get_spec, register_spec, spec_from_record
from experiments.data import DataConfig
from experiments.pretrain.config import PretrainConfig, command, resolve_defaults
from experiments.pretrain.patches import PatchSampler
from experiments.pretrain.state import Pretraining, build_trunk
from experiments.pretrain.train import pretrain
from glimpse_env.datasets.synthetic import SyntheticDogs

# The first attempt of the paper: the cheapest GoogLeNet there is.
TINY = PretrainConfig(
    core="googlenet_truncated",
    from_scratch=True,
    data=DataConfig(dataset="synthetic", num_images=12),
    resolutions=("low",),
    steps=3,
    images=2,
    looks=1,
    held_out=0.2,
    probe=0,
    precision="fp32",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run from beginning to end; returns the record."""
    out = tmp_path_factory.mktemp("core")
    return pretrain(replace(TINY, out=out)).with_suffix(".json")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a registered spec whose weights are random, in the form of BVLC's file."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    torch.manual_seed(3)
    network = GoogLeNetTrunk(replace(get_spec("googlenet_224"), weights=None))
    save_file(network.network.state_dict(), path)
    for name in ("googlenet", "googlenet_truncated"):
        spec = replace(get_spec(name), name=f"test_{name}", weights=str(path), sha256=None)
        register_spec(replace(spec, seen="random numbers"))
    return "test_googlenet"


def patches(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 96, 96, 3), dtype=torch.uint8, generator=generator)


def test_a_record_is_an_encoder(finished: Path):
    spec = get_spec(str(finished))
    assert spec == spec_from_record(finished)
    assert (spec.depth, spec.stride, spec.feature_size) == ("truncated", 2, 832)
    features = make_encoder(str(finished), device="cpu", precision="fp32")(patches())
    assert features.shape == (2, 832) and torch.isfinite(features).all() and features.std() > 0
    env = gymnasium.make("glimpse_env:SyntheticDogsGlimpse-v0", encoder=str(finished))
    assert env.observation_space["glimpse"].shape == (3, 832)
    env.close()


def test_the_weights_are_the_trained_ones(finished: Path):
    """What the run holds at its last checkpoint is what the encoder computes."""
    run = Pretraining(TINY, 13)
    before = run.export(dogs_sampler(TINY).batch(0)).network.conv1.conv.weight
    tensors, metadata = load_checkpoint(finished.parent / "checkpoint")
    run.towers.load_state_dict(unpack_state(tensors, metadata["state"])["towers"])
    trunk = run.export(dogs_sampler(TINY).batch(0))
    saved = load_file(finished.with_suffix(".safetensors"))
    assert {v.dtype for v in saved.values()} == {torch.float32}
    assert "conv1.conv.weight" in saved and not any(name.startswith("fc.") for name in saved)
    torch.testing.assert_close(
        build_network(get_spec(str(finished))).state_dict(), trunk.state_dict(), rtol=0, atol=0
    )
    assert not torch.equal(before, trunk.network.conv1.conv.weight)


def test_a_resampled_stem_is_not_resampled_twice(pretrained: str, tmp_path: Path):
    """A run of no consequence (a rate of almost nothing) gives the features it began with."""
    config = replace(
        TINY, core=pretrained, from_scratch=False, steps=1, images=1, learning_rate=1e-12
    )
    record = pretrain(replace(config, out=tmp_path)).with_suffix(".json")
    spec = get_spec(str(record))
    assert (spec.stem, spec.feature_size) == ("resampled", 1024)
    assert json.loads(record.read_text())["started_from"]["name"] == pretrained
    assert spec.seen.startswith("random numbers; then fine-tuned on 10 images of synthetic")
    ours = make_encoder(spec, device="cpu", precision="fp32")(patches())
    theirs = make_encoder(get_spec(pretrained), device="cpu", precision="fp32")(patches())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_fingerprint_follows_the_weights(finished: Path, tmp_path: Path):
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"core{suffix}").write_bytes(finished.with_suffix(suffix).read_bytes())
    moved = get_spec(str(tmp_path / "core.json"))
    assert moved.fingerprint == get_spec(str(finished)).fingerprint
    record = json.loads(finished.read_text()) | {"sha256": "0" * 64}
    (tmp_path / "core.json").write_text(json.dumps(record))
    other = get_spec(str(tmp_path / "core.json"))
    assert other.fingerprint != moved.fingerprint
    with pytest.raises(ValueError, match="0000 was expected"):
        make_encoder(other, device="cpu")


@pytest.mark.parametrize("damage", ["cut", "list", "no hash", "no mean", "architecture", "stem"])
def test_a_damaged_record_is_a_sentence(finished: Path, tmp_path: Path, damage: str):
    text, record = finished.read_text(), json.loads(finished.read_text())
    changed = {
        "cut": text[: len(text) // 2],
        "list": "[]",
        "no hash": json.dumps(record | {"sha256": None}),
        "no mean": json.dumps(record | {"normalisation": {}}),
        "architecture": json.dumps(record | {"architecture": "resnet"}),
        "stem": json.dumps(record | {"stem": "wide"}),
    }[damage]
    (tmp_path / "core.json").write_text(changed)
    with pytest.raises(ValueError, match=r"core\.json is no record of an encoder.*pretrain"):
        get_spec(str(tmp_path / "core.json"))
    with pytest.raises(FileNotFoundError, match="glimpse pretrain"):
        get_spec(str(tmp_path / "none.json"))


def test_an_interrupted_run_resumes_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(TINY, out=tmp_path, checkpoint_every=1)
    step = Pretraining.train_step

    def interrupted(self, batch):
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    weights = pretrain(replace(config, resume=True))
    assert weights.read_bytes() == finished.with_suffix(".safetensors").read_bytes()


def dogs_sampler(config: PretrainConfig) -> PatchSampler:
    return PatchSampler(config, SyntheticDogs("train", 12), np.arange(12))


def test_heads_are_warmed_first_and_the_trunk_follows_at_its_own_rate():
    config = replace(
        TINY, steps=4, head_steps=1, learning_rate=1e-3, trunk_lr_scale=0.1, weight_decay=0.0
    )
    run, walk = Pretraining(config, 12), dogs_sampler(config)

    def step() -> dict[str, float]:
        before = {n: v.clone() for n, v in run.towers.state_dict().items()}
        run.train_step(walk.batch(run.step))
        change = {n: float((v - before[n]).abs().max()) for n, v in run.towers.state_dict().items()}
        return {
            part: max(v for n, v in change.items() if n.startswith(part))
            for part in ("heads", "trunk")
        }

    assert run.heads_only
    first, second = step(), step()
    assert first["heads"] > 0 and first["trunk"] == 0
    # Adam's very first step moves a weight by its learning rate, which is a tenth of the heads'.
    heads, trunk = (group["max_lr"] for group in run.optimizer.param_groups)
    assert trunk == pytest.approx(0.1 * heads)
    assert 0 < second["trunk"] <= 1.05 * trunk


def test_small_parts_add_up_to_the_batch():
    """Without dropout a step in parts is a step: same loss and gradients, less memory."""
    whole = replace(TINY, images=3, dropout=0.0)
    found = []
    for config in (whole, replace(whole, micro_batch=2)):
        run = Pretraining(config, 12)
        metrics = run.train_step(dogs_sampler(config).batch(0))
        gradient = torch.cat([p.grad.flatten() for p in run.towers.parameters()])
        found.append((metrics, gradient))
    (one, expected), (other, gradient) = found
    assert other == pytest.approx(one, rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max())


def test_bf16_trains_fp32_weights_near_the_fp32_gradients():
    gradients = []
    for precision in ("fp32", "bf16"):
        config = replace(TINY, precision=precision, dropout=0.0)
        run = Pretraining(config, 12)
        run.train_step(dogs_sampler(config).batch(0))
        assert all(p.dtype == torch.float32 for p in run.towers.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in run.towers.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


def test_every_parameter_of_a_trunk_takes_part():
    """What never gets a gradient would be decayed away unseen, and stop data parallelism."""
    for name in ("googlenet_truncated", "googlenet_torchvision_224"):
        trunk = build_trunk(get_spec(name), from_scratch=True).train()
        trunk(torch.randn(2, 3, 64, 64)).square().sum().backward()
        assert all(p.grad is not None for p in trunk.parameters()), name


def test_a_new_trunk_keeps_its_signal():
    """22 layers of torch's own initial scale would leave nothing of it."""
    trunk = build_trunk(get_spec("googlenet_224"), from_scratch=True)
    with torch.no_grad():
        features = trunk(torch.randn(4, 3, 96, 96) * 60)
    assert 0.1 < features.std() / 60 < 30


def test_defaults_follow_the_core(pretrained: str):
    mini, fresh = resolve_defaults(PretrainConfig()), resolve_defaults(TINY)
    tuned = resolve_defaults(replace(TINY, from_scratch=False, core=pretrained))
    assert (mini.learning_rate, mini.trunk_lr_scale, mini.name) == (5e-3, 1.0, "inception_mini")
    assert (fresh.learning_rate, fresh.trunk_lr_scale, fresh.name) == (1e-3, 1.0, "core")
    assert (tuned.learning_rate, tuned.trunk_lr_scale) == (2e-3, 0.1)
    splits = {"synthetic": "pretrain", "stanford_dogs": "train", "image_folder": "trainval"}
    for dataset, split in splits.items():
        assert resolve_defaults(PretrainConfig(data=DataConfig(dataset))).split == split
    assert command(replace(PretrainConfig(), core="googlenet_native", split=None)) == (
        "glimpse pretrain --core googlenet_native"
    )


def test_a_mini_is_never_half_pretrained(tmp_path: Path):
    with pytest.raises(ValueError, match="--micro-batch"):
        resolve_defaults(replace(PretrainConfig(), micro_batch=4))
    with pytest.raises(ValueError, match="no encoder named 'vgg'"):
        pretrain(replace(TINY, core="vgg", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_its_own_files_only(finished: Path, tmp_path: Path):
    """A checkpoint knows what it stands on: images, start and list."""
    tensors, metadata = load_checkpoint(finished.parent / "checkpoint")
    metadata["facts"]["images"] = "f" * 64
    save_checkpoint(tmp_path / "checkpoint", tensors, metadata)
    with pytest.raises(ValueError, match="differs in images"):
        pretrain(replace(TINY, out=tmp_path, resume=True))


def test_a_checkpoint_of_before_pictures_were_called_images(finished: Path, tmp_path: Path):
    tensors, metadata = load_checkpoint(finished.parent / "checkpoint")
    for part in ("config", "facts"):
        metadata[part]["pictures"] = metadata[part].pop("images")
    save_checkpoint(tmp_path / "checkpoint", tensors, metadata)
    assert pretrain(replace(TINY, out=tmp_path, resume=True)).is_file()


def test_an_endless_loss_is_told():
    config = replace(TINY, learning_rate=1e30)
    run, walk = Pretraining(config, 12), dogs_sampler(config)
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        for step in range(3):
            run.train_step(walk.batch(step))
