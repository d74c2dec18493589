"""The fast encoder equals the plain modules, in every precision, batch and compilation."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from encoders.googlenet import GoogLeNetTrunk
from encoders.inference import fused
from encoders.inference.engine import (
    CPU_BUCKETS,
    CUDA_BUCKETS,
    PACKED_BUCKETS,
    Encoder,
    build_network,
    make_encoder,
    resolve_device,
    resolve_precision,
    split_batch,
)
from encoders.inference.fused import fuse_googlenet, packing_available
from encoders.spec import EncoderSpec, get_spec
from encoders.weights.files import load_state
from tests.children import run_command
from tests.encoders.test_googlenet import randomly


def patches(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images: white noise would exercise no structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 12, 12, generator=generator) * 255
    fine = nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic").clamp(0, 255)
    return fine.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def plain_features(spec: EncoderSpec, state: dict, x: torch.Tensor) -> torch.Tensor:
    """The slow reference: torchvision's module after surgery, fp32, NCHW."""
    scale = spec.normalisation
    pixels = (x.float() - torch.tensor(scale.mean)) / torch.tensor(scale.std)
    with torch.inference_mode():
        return GoogLeNetTrunk(spec, state)(pixels.permute(0, 3, 1, 2).contiguous())


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.cpu() - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def bvlc_state(bvlc_weights: Path) -> dict:
    return load_state(bvlc_weights)


def bvlc_spec(path: Path, name: str) -> EncoderSpec:
    return replace(get_spec(name), weights=str(path))


@pytest.mark.parametrize(
    "name", ["googlenet", "googlenet_native", "googlenet_truncated", "googlenet_224"]
)
@pytest.mark.parametrize("precision, bound", [("fp32", 1e-4), ("bf16", 2e-2)])
def test_engine_equals_plain_module_on_real_weights(
    name: str, precision: str, bound: float, bvlc_weights: Path, bvlc_state: dict
) -> None:
    spec = bvlc_spec(bvlc_weights, name)
    x = patches(3)
    got = make_encoder(spec, device="cpu", precision=precision)(x)
    assert got.dtype == torch.float32 and got.shape == (3, spec.feature_size)
    assert relative_error(got, plain_features(spec, bvlc_state, x)) < bound


@pytest.mark.parametrize("architecture", ["googlenet_bvlc", "googlenet_torchvision"])
@pytest.mark.parametrize("precision, bound", [("fp32", 1e-4), ("bf16", 2e-2)])
def test_engine_equals_plain_module_on_random_weights(
    architecture: str, precision: str, bound: float, tmp_path: Path
) -> None:
    """Batch norm folding too, with statistics that are not trivial; needs no shared file."""
    state = randomly(architecture)
    torch.save(state, tmp_path / "w.pth")
    name = "googlenet" if architecture == "googlenet_bvlc" else "googlenet_torchvision"
    spec = replace(get_spec(name), weights=str(tmp_path / "w.pth"), sha256=None)
    x = patches(2)
    got = make_encoder(spec, device="cpu", precision=precision)(x)
    assert relative_error(got, plain_features(spec, state, x)) < bound


@pytest.mark.parametrize("side", [64, 128, 224])
def test_engine_equals_plain_module_at_every_patch_side(side: int, tmp_path: Path) -> None:
    """The fast forms, on patches of other sides than 96; the map follows the spec."""
    state = randomly("googlenet_bvlc")
    torch.save(state, tmp_path / "w.pth")
    spec = replace(get_spec("googlenet"), weights=str(tmp_path / "w.pth"), sha256=None)
    x = nn.functional.interpolate(patches(2).permute(0, 3, 1, 2).float(), size=(side, side))
    x = x.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    encoder = make_encoder(spec, device="cpu", precision="fp32", patch_side=side)
    assert encoder.map_shape == spec.map_shape(side)
    features, cells = encoder.encode(x, 2)
    assert relative_error(features, plain_features(spec, state, x)) < 1e-4
    torch.testing.assert_close(cells.mean((1, 2)), features, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_equals_eager(bvlc_weights: Path, bvlc_state: dict) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on CPU")
    spec = bvlc_spec(bvlc_weights, "googlenet")
    x = patches(3)
    compiled = make_encoder(spec, device="cpu", precision="fp32", compile=True)
    assert relative_error(compiled(x), plain_features(spec, bvlc_state, x)) < 1e-4


@pytest.mark.parametrize("precision, bound", [("fp32", 1e-5), ("bf16", 2e-2)])
def test_a_patch_does_not_see_its_neighbours(precision: str, bound: float) -> None:
    encoder = make_encoder(
        replace(get_spec("googlenet"), weights=None, sha256=None),
        device="cpu",
        precision=precision,
    )
    x = patches(37)
    whole = encoder(x)
    singles = torch.cat([encoder(x[i : i + 1]) for i in (0, 5, 36)])
    assert relative_error(whole[[0, 5, 36]], singles) < bound


@pytest.mark.parametrize("buckets", [CPU_BUCKETS, PACKED_BUCKETS, CUDA_BUCKETS, (1,)])
def test_batches_are_cut_into_buckets_with_little_waste(buckets: tuple[int, ...]) -> None:
    for count in [*range(70), 700, 1023, 1025, 5000]:
        parts = split_batch(count, buckets)
        assert sum(take for take, _ in parts) == count
        assert all(0 < take <= bucket for take, bucket in parts)
        assert {bucket for _, bucket in parts} <= set(buckets)
        assert all(take == bucket for take, bucket in parts[:-1])
        assert sum(bucket for _, bucket in parts) <= 1.5 * count
    assert split_batch(3, (1, 4)) == [(3, 4)]
    assert split_batch(2, (1, 4)) == [(1, 1), (1, 1)]
    assert split_batch(33, tuple(range(1, 33))) == [(32, 32), (1, 1)]


def test_a_fixed_set_of_sizes_reaches_what_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the batches of a loop, a compiled network sees few shapes, and the same features."""
    shapes = []

    def compile_nothing(network, **options):
        def forward(x):
            shapes.append(len(x))
            return network(x)

        return forward

    monkeypatch.setattr(torch, "compile", compile_nothing)
    x = patches(40)
    compiled = make_encoder("inception_mini", device="cpu", precision="fp32", compile=True)
    plain = make_encoder("inception_mini", device="cpu", precision="fp32")
    for count in (1, 2, 3, 7, 30, 40):
        torch.testing.assert_close(compiled(x[:count]), plain(x[:count]), rtol=1e-4, atol=1e-4)
    assert set(shapes) <= set(CPU_BUCKETS)


def test_empty_batch() -> None:
    encoder = make_encoder("inception_mini", device="cpu")
    assert encoder(patches(1)[:0]).shape == (0, encoder.feature_size)


def test_same_input_same_bytes() -> None:
    encoder = make_encoder("inception_mini", device="cpu")
    x = patches(9)
    assert torch.equal(encoder(x), encoder(x))


def test_frozen_whatever_the_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient, evaluation mode, and the user's module is neither moved nor switched."""
    module = nn.Sequential(
        nn.BatchNorm2d(3), nn.Dropout(0.9), nn.Flatten(), nn.Linear(3 * 96**2, 4)
    )
    module.train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    encoder = make_encoder(module, device="cpu")
    x = patches(4)
    first = encoder(x)
    assert not first.requires_grad
    assert torch.equal(first, encoder(x))
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_module_gets_floats_in_zero_to_one() -> None:
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3))

    x = torch.full((2, 96, 96, 3), 51, dtype=torch.uint8)
    encoder = make_encoder(Mean(), device="cpu")
    assert encoder.feature_size == 3
    torch.testing.assert_close(encoder(x), torch.full((2, 3), 0.2))


@pytest.mark.parametrize(
    "module", [nn.Flatten(2), nn.Flatten(0), nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, -1)))]
)
def test_module_of_wrong_output_is_told(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        make_encoder(module, device="cpu")


def test_what_is_not_an_encoder_is_told() -> None:
    with pytest.raises(TypeError, match="name of one"):
        make_encoder(42)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inception_mini"):
        make_encoder("vgg")


def test_an_encoder_passes_through() -> None:
    encoder = make_encoder("inception_mini", device="cpu")
    assert make_encoder(encoder) is encoder
    # Where it computes is settled, whatever else is asked for.
    assert make_encoder(encoder, device="cuda:7") is encoder
    assert isinstance(encoder, Encoder)


def test_cuda_asked_for_and_absent() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(RuntimeError, match="no CUDA device"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


def test_a_device_that_nobody_knows_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="'foo'.*'cpu'"):
        resolve_device("foo")


def test_building_touches_no_random_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    reseeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", reseeded.append)
    torch.manual_seed(5)
    assert reseeded == [5]  # this is how torch reaches the other devices' generators
    before = torch.get_rng_state()
    spec = replace(get_spec("inception_mini"), weights=None, sha256=None)
    first = build_network(spec).state_dict()
    assert reseeded == [5] and torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = build_network(spec).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision, bound", [("fp32", 1e-5), ("bf16", 2e-2)])
def test_kernels_equal_torch_in_the_fused_form(precision: str, bound: float, monkeypatch) -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    x = patches(11)
    with_kernels = make_encoder(spec, device="cpu", precision=precision)
    monkeypatch.setattr("encoders.inference.engine.kernels_available", lambda: False)
    by_torch = make_encoder(spec, device="cpu", precision=precision)
    assert type(with_kernels.network) is not type(by_torch.network)
    assert relative_error(with_kernels(x), by_torch(x)) < bound


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_packed_once_for_every_size_of_batch(precision: str, capfd) -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    encoder = make_encoder(spec, device="cpu", precision=precision)
    for count in (*range(1, 34), 64):
        x = patches(count)
        encoder(x)
        capfd.readouterr()
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            encoder(x)
        said = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
        if not any(",convolution," in line for line in said):
            pytest.skip("torch does not convolve by oneDNN here, or does not say so")
        assert not [line for line in said if ",reorder," in line], count


def test_an_encoder_that_was_used_can_be_copied() -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    encoder = make_encoder(spec, device="cpu")
    x = patches(8)
    features = encoder(x)
    for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(copied(x), features)


@pytest.mark.slow  # GoogLeNet in emulated bf16, in a process of its own
def test_bf16_without_instructions_for_it_computes_all_the_same() -> None:
    """As on most desktops: slow, but right. oneDNN is told of an older processor."""
    code = """
from dataclasses import replace
import torch
from encoders.inference.engine import make_encoder
from encoders.spec import get_spec
spec = replace(get_spec("googlenet"), weights=None, sha256=None)
x = torch.randint(0, 256, (5, 96, 96, 3), dtype=torch.uint8)
fp32, bf16 = (make_encoder(spec, device="cpu", precision=p)(x) for p in ("fp32", "bf16"))
assert (fp32 - bf16).norm() < 0.03 * fp32.norm()
"""
    done = run_command(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert done.returncode == 0, done.stderr[-1000:]


def test_fusing_leaves_the_plain_module_alone() -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    trunk = build_network(spec)
    assert isinstance(trunk, GoogLeNetTrunk)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    fuse_googlenet(trunk)
    after = trunk.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.cuda
@pytest.mark.parametrize("count", [1, 5, 64, 100])
def test_graphs_on_cuda_replay_any_batch(count: int) -> None:
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    encoder = make_encoder(spec, device="cuda", precision="fp32")
    x = patches(count)
    first, second = encoder(x).clone(), encoder(x.flip(0))
    assert torch.equal(first, second.flip(0)) or relative_error(first, second.flip(0).cpu()) < 1e-5
    assert relative_error(first, make_encoder(spec, device="cpu", precision="fp32")(x)) < 1e-3


@pytest.mark.cuda
def test_building_leaves_the_generators_of_cuda_alone() -> None:
    torch.cuda.manual_seed_all(11)
    before = torch.cuda.get_rng_state()
    build_network(replace(get_spec("inception_mini"), weights=None, sha256=None))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_modules_fingerprint_tells_structure_and_weights() -> None:
    def made(seed: int, bias: bool = True, pool: int = 16) -> nn.Module:
        torch.manual_seed(seed)
        pooled = 3 * (96 // pool) ** 2
        return nn.Sequential(nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(pooled, 4, bias=bias))

    def fingerprint(module: nn.Module) -> str:
        return make_encoder(module, device="cpu").fingerprint

    one = fingerprint(made(0))
    assert one == fingerprint(made(0)) and len(one) == 64
    others = {fingerprint(m) for m in (made(1), made(0, bias=False), made(0, pool=32))}
    assert len(others | {one}) == 4
    halves = made(0)
    halves[2].bias.data[0] += 1e-6
    assert fingerprint(halves) != one
    assert fingerprint(made(0).bfloat16()) != one
    scalar = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 96**2))  # has a 0-d tensor
    assert fingerprint(scalar) == fingerprint(scalar)


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="fp32"):
        resolve_precision("fp16", torch.device("cpu"))


@pytest.mark.cuda
@pytest.mark.parametrize("precision, bound", [("fp32", 1e-3), ("bf16", 2e-2)])
def test_cuda_equals_cpu(precision: str, bound: float, tmp_path: Path) -> None:
    state = randomly("googlenet_bvlc")
    torch.save(state, tmp_path / "w.pth")
    spec = replace(get_spec("googlenet"), weights=str(tmp_path / "w.pth"), sha256=None)
    x = patches(5)
    got = make_encoder(spec, device="cuda", precision=precision)(x)
    assert got.is_cuda
    assert relative_error(got, plain_features(spec, state, x)) < bound


@pytest.mark.parametrize("name", ["inception_mini", "googlenet_truncated"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cells_are_the_map_in_parts_and_the_features_stay(name: str, precision: str) -> None:
    spec = replace(get_spec(name), weights=None, sha256=None)
    encoder = make_encoder(spec, device="cpu", precision=precision)  # type: ignore[arg-type]
    patches = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8)
    features, cells = encoder.encode(patches, 3)
    height, width, channels = encoder.map_shape  # type: ignore[misc]
    assert (height, width, channels) == spec.map_shape()
    assert cells.shape == (3, 3, 3, channels) and cells.dtype == torch.float32
    assert features.shape == (3, spec.feature_size)
    torch.testing.assert_close(features, encoder(patches), rtol=1e-4, atol=1e-5)
    plain = build_network(spec)
    norm = spec.normalisation
    x = ((patches - torch.tensor(norm.mean)) / torch.tensor(norm.std)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = torch.nn.functional.adaptive_avg_pool2d(plain.feature_map(x), 3)  # type: ignore[operator]
    expected = expected.permute(0, 2, 3, 1)
    if name == "inception_mini":  # scaled as its features are
        gain = plain.gain.view(channels, 4).mean(1)
        expected = gain * ((expected + 0.06**2).sqrt() - 0.06)
    else:
        torch.testing.assert_close(features, cells.mean((1, 2)), rtol=1e-4, atol=1e-5)
    tolerance = 1e-4 if precision == "fp32" else 0.05 * float(expected.amax())
    torch.testing.assert_close(cells, expected, rtol=0, atol=tolerance)


def test_a_module_may_give_a_map() -> None:
    encoder = make_encoder(nn.AvgPool2d(16), device="cpu")
    assert encoder.map_shape == (6, 6, 3) and encoder.feature_size == 3
    patches = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    features, cells = encoder.encode(patches, 2)
    expected = (patches.float() / 255).view(2, 2, 48, 2, 48, 3).mean((2, 4))
    torch.testing.assert_close(cells, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(features, expected.mean((1, 2)), rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder(patches), features, rtol=0, atol=1e-5)


def test_which_grids_are_served() -> None:
    vectors = make_encoder(nn.Sequential(nn.AvgPool2d(48), nn.Flatten()), device="cpu")
    assert vectors.resolve_grid("auto") == vectors.resolve_grid(1) == 1
    with pytest.raises(ValueError, match="needs an encoder with a feature map"):
        vectors.resolve_grid(2)
    six, eight = (make_encoder(nn.AvgPool2d(s), device="cpu") for s in (16, 12))
    assert six.resolve_grid("auto") == 3 and six.context_shape(3) == (3, 3, 3)
    assert eight.resolve_grid("auto") == 1 and eight.context_shape(1) == (3,)
    with pytest.raises(ValueError, match="8 x 8: take one of 1, 2, 4, 8"):
        eight.resolve_grid(3)


@pytest.mark.parametrize("change", ["gone", "another signature", "other numbers"])
def test_a_private_operator_that_has_changed_is_not_used(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*_: object) -> torch.Tensor:
        if change == "other numbers":
            return torch.zeros(1, 8, 6, 6)
        raise AttributeError if change == "gone" else TypeError

    monkeypatch.setattr(fused, "_packed_conv_relu", changed)
    assert not packing_available.__wrapped__()
