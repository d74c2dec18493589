"""int8: exact sums of integers in each layer, features near the plain module's, clear refusals."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from encoders.inference import engine, int8 as quantised
from encoders.inference.engine import DeviceNotAvailableError, make_encoder
from encoders.inference.fused import PackedWeights, fuse_googlenet
from encoders.inference.int8 import QuantisedConv, find_steps, int8_obstacle
from encoders.spec import get_spec
from glimpse_env.datasets.stanford_dogs import StanfordDogs
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.retina.rules import cut_patches
from tests.children import run_command
from tests.encoders.inference.test_engine import bvlc_spec, patches, plain_features, relative_error
from tests.encoders.test_googlenet import randomly


@pytest.fixture(scope="module")
def real_patches(dogs_dir: Path) -> torch.Tensor:
    """The middle of 160 real images, seen at low resolution."""
    dogs = StanfordDogs(dogs_dir, "train", allow_missing=True)
    chosen = range(0, len(dogs), len(dogs) // 160)[:160]
    pyramids = [build_pyramid(dogs.image(index), ("low",)) for index in chosen]
    count = len(pyramids)
    cut = cut_patches(
        pyramids,
        np.zeros((count, 2), np.float32),
        np.zeros(count, bool),
        np.arange(count, dtype=np.uint64),
        ("low",),
    )
    return torch.from_numpy(cut[:, 0])


BYTES = pytest.mark.skipif(int8_obstacle() is not None, reason=f"no int8: {int8_obstacle()}")


@BYTES
@pytest.mark.parametrize("kernel, padding", [(1, 0), (3, 1), (5, 2)])
@pytest.mark.parametrize("floats", [None, torch.float32, torch.bfloat16])
def test_a_layer_is_exact_arithmetic_of_integers(kernel, padding, floats) -> None:
    generator = torch.Generator().manual_seed(kernel)
    conv = nn.Conv2d(16, 24, kernel, padding=padding).requires_grad_(False)
    step_in = torch.rand(16, generator=generator) * 0.05 + 0.001
    step_out = torch.rand(24, generator=generator) * 0.02 + 0.001
    x = torch.randint(0, 256, (3, 16, 9, 7), generator=generator, dtype=torch.uint8)
    layer = QuantisedConv(conv, step_in, None if floats else step_out, floats or torch.float32)
    got = layer(x.contiguous(memory_format=torch.channels_last))
    # The reference: the same levels of the weights, summed without rounding.
    exact = nn.functional.conv2d(x.double(), layer.weight.double(), padding=padding)
    exact = (exact * layer.step.double()[:, None, None] + layer.bias[:, None, None]).relu()
    if floats is None:
        assert got.dtype == torch.uint8
        assert ((got - exact.clamp(max=255)).abs() <= 0.5 + 1e-3).all()
    else:
        assert got.dtype == floats
        torch.testing.assert_close(got.double(), exact, rtol=2**-8, atol=1e-4)
    # And the levels of the weights are those of the layer: half a level off at most.
    plain = conv(x * step_in[:, None, None]).relu() / (1 if floats else step_out[:, None, None])
    bound = layer.step * 0.5 * x.float().sum(1).max() * kernel**2
    assert ((exact - plain).abs() <= bound[:, None, None] + 1e-3).all()


@BYTES
@pytest.mark.parametrize("architecture", ["googlenet_bvlc", "googlenet_torchvision"])
@pytest.mark.parametrize("depth", ["full", "truncated"])
def test_features_are_near_the_plain_modules(architecture, depth, tmp_path: Path) -> None:
    name = "googlenet" if architecture == "googlenet_bvlc" else "googlenet_torchvision"
    size = 1024 if depth == "full" else 832
    spec = replace(get_spec(name), depth=depth, feature_size=size)
    state = randomly(architecture)
    path = tmp_path / "random.pth"
    torch.save(state, path)
    spec = replace(spec, weights=str(path), sha256=None)
    encoder = make_encoder(spec, device="cpu", precision="int8", calibration=patches(64, seed=1))
    x = patches(37, seed=2)
    got = encoder(x)
    assert encoder.precision.startswith("int8:") and got.dtype == torch.float32
    assert relative_error(got, plain_features(spec, state, x)) < 0.1


@BYTES
def test_real_weights_on_patches_like_those_of_the_calibration(
    bvlc_weights: Path, real_patches: torch.Tensor
) -> None:
    spec = bvlc_spec(bvlc_weights, "googlenet")
    calibration, x = real_patches[::2], real_patches[1::2]
    exact = make_encoder(spec, device="cpu", precision="fp32")(x)
    got = make_encoder(spec, device="cpu", precision="int8", calibration=calibration)(x)
    assert relative_error(got, exact) < 0.15
    # Which image is which is as clear as before: each is nearest to itself.
    distances = torch.cdist(got - exact.mean(0), exact - exact.mean(0))
    assert (distances.argmin(1) == torch.arange(len(x))).all()


@BYTES
def test_a_patch_sees_no_neighbour_and_the_same_bytes_come_again() -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    encoder = make_encoder(spec, device="cpu", precision="int8", calibration=patches(16))
    x = patches(11, seed=3)
    together = encoder(x)
    assert torch.equal(together, encoder(x))
    alone = torch.cat([encoder(patch[None]) for patch in x])
    torch.testing.assert_close(alone, together, rtol=1e-2, atol=1e-2 * float(together.abs().max()))


@BYTES
def test_a_used_encoder_can_be_copied_and_pickled() -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    encoder = make_encoder(spec, device="cpu", precision="int8", calibration=patches(16))
    expected = encoder(patches(2))
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other(patches(2)), expected)


@BYTES
def test_calibrating_twice_is_the_same() -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    one, two = (
        make_encoder(spec, device="cpu", precision="int8", calibration=patches(24))
        for _ in range(2)
    )
    assert torch.equal(one(patches(3)), two(patches(3)))


def test_steps_are_those_of_the_brightest_patch_wherever_it_comes() -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    trunk = fuse_googlenet(engine.build_network(spec))  # type: ignore[arg-type]
    x = patches(20)
    forwards, backwards, part = (
        find_steps(trunk, spec.normalisation, each) for each in (x, x.flip(0), x[:1])
    )
    assert len(forwards) == 3 + 2 + 9 * 4  # first layers, both LRN, four convolutions a block
    for name, steps in forwards.items():
        torch.testing.assert_close(backwards[name], steps, rtol=1e-4, atol=0)
        assert (steps >= part[name] * (1 - 1e-4)).all() and not steps.is_inference()


@pytest.mark.parametrize("isa, exact", [("AVX2", False), ("ALL", True)])
def test_saturating_sums_are_noticed(isa: str, exact: bool) -> None:
    if exact and int8_obstacle() is not None:
        pytest.skip(f"no int8: {int8_obstacle()}")
    code = "from encoders.inference.int8 import int8_obstacle; print(int8_obstacle())"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    said = run_command([sys.executable, "-c", code], env=environment, check=True).stdout
    assert (said.strip() == "None") == exact, said


def test_other_operators_of_torch_are_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TypeError("other arguments")

    monkeypatch.setattr(QuantisedConv, "forward", refuse)
    assert "this torch" in str(int8_obstacle.__wrapped__())
    monkeypatch.setattr(quantised, "kernels_available", lambda: False)
    assert "numba" in str(int8_obstacle.__wrapped__())


def test_packed_weights_are_few_and_shared_by_threads() -> None:
    kept = PackedWeights()

    def ask(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 60, 3000).tolist():
            assert int(kept.get((number,), lambda n=number: torch.tensor(n))) == number

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
    finally:
        sys.setswitchinterval(before)
    assert len(kept._kept) <= 24 + 8  # one more a thread, until the next comes


PATCH = torch.arange(27648).reshape(1, 96, 96, 3).byte()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"precision": "int8"}, "calibration=patches"),
        ({"precision": "int8", "calibration": PATCH[:0]}, r"not torch.uint8 \(0, 96"),
        ({"precision": "int8", "calibration": PATCH[0]}, r"not torch.uint8 \(96, 96, 3\)"),
        ({"precision": "int8", "calibration": PATCH.permute(0, 3, 1, 2)}, r"\(1, 3, 96, 96\)"),
        ({"precision": "int8", "calibration": PATCH.float()}, "not torch.float32"),
        ({"precision": "int8", "calibration": PATCH.numpy()}, "ndarray"),
        ({"precision": "int8", "calibration": torch.zeros_like(PATCH)}, "blank"),
        ({"precision": "bf16", "calibration": PATCH}, "for precision='int8'"),
        ({"precision": "int8", "calibration": PATCH, "compile": True}, "not compiled"),
        ({"precision": "int4"}, "'int8'"),
    ],
)
def test_half_a_request_is_refused(options: dict, said: str) -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    with pytest.raises(ValueError, match=said):
        make_encoder(spec, device="cpu", **options)


@pytest.mark.parametrize("other", ["inception_mini", nn.Flatten(), "encoder"])
def test_other_networks_are_refused(other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "int8_obstacle", lambda: None)
    given = make_encoder("inception_mini", device="cpu") if other == "encoder" else other
    with pytest.raises(ValueError, match="int8 is for GoogLeNets"):
        make_encoder(given, device="cpu", precision="int8", calibration=PATCH)


def test_a_machine_without_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "int8_obstacle", lambda: "the moon is not full")
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    with pytest.raises(DeviceNotAvailableError, match="the moon"):
        make_encoder(spec, device="cpu", precision="int8", calibration=PATCH)
