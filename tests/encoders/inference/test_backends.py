"""OpenVINO beside torch: the same features, chosen by a trial, and refused in one sentence."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from encoders.inference import backends, openvino_form
from encoders.inference.devices import DeviceNotAvailableError
from encoders.inference.engine import make_encoder
from encoders.inference.openvino_form import OpenVinoTrunk, openvino_obstacle
from encoders.spec import EncoderSpec, get_spec
from encoders.weights.files import load_state
from tests.children import run_command
from tests.encoders.inference.test_engine import (
    bvlc_spec,
    patches,
    plain_features,
    relative_error,
)
from tests.encoders.test_googlenet import randomly

PRECISIONS = pytest.mark.parametrize("precision, bound", [("fp32", 1e-4), ("bf16", 2e-2)])


def needs_openvino(precision: str = "fp32") -> None:
    obstacle = openvino_obstacle(torch.bfloat16 if precision == "bf16" else torch.float32)
    if obstacle is not None:
        pytest.skip(obstacle)


def unloaded(name: str = "googlenet") -> EncoderSpec:
    return replace(get_spec(name), weights=None, sha256=None)


@PRECISIONS
@pytest.mark.parametrize("architecture", ["googlenet_bvlc", "googlenet_torchvision"])
def test_features_and_cells_are_those_of_the_plain_module(
    architecture: str, precision: str, bound: float, tmp_path: Path
) -> None:
    needs_openvino(precision)
    state = randomly(architecture)
    torch.save(state, tmp_path / "w.pth")
    name = "googlenet" if architecture == "googlenet_bvlc" else "googlenet_torchvision"
    spec = replace(get_spec(name), weights=str(tmp_path / "w.pth"), sha256=None)
    encoder = make_encoder(spec, device="cpu", precision=precision, backend="openvino")
    assert isinstance(encoder.network, OpenVinoTrunk) and encoder.precision == precision
    ours = make_encoder(spec, device="cpu", precision=precision)
    assert encoder.fingerprint == ours.fingerprint
    x = patches(3)
    got = encoder(x)
    assert got.dtype == torch.float32 and got.shape == (3, spec.feature_size)
    assert relative_error(got, plain_features(spec, state, x)) < bound
    features, cells = encoder.encode(x, 3)
    own_features, own_cells = ours.encode(x, 3)
    assert cells.shape == own_cells.shape == (3, 3, 3, 1024)
    assert relative_error(features, own_features) < bound
    assert relative_error(cells, own_cells) < bound


@PRECISIONS
@pytest.mark.parametrize("name", ["googlenet", "googlenet_truncated", "googlenet_224"])
def test_real_weights_too(name: str, precision: str, bound: float, bvlc_weights: Path) -> None:
    needs_openvino(precision)
    spec = bvlc_spec(bvlc_weights, name)
    x = patches(3)
    got = make_encoder(spec, device="cpu", precision=precision, backend="openvino")(x)
    assert relative_error(got, plain_features(spec, load_state(bvlc_weights), x)) < bound


def test_any_batch_of_any_thread_and_copy_is_served() -> None:
    needs_openvino()
    encoder = make_encoder(unloaded(), device="cpu", precision="fp32", backend="openvino")
    x = patches(5)
    features = encoder(x)
    assert not features.requires_grad and torch.equal(encoder(x), features)
    torch.testing.assert_close(encoder(x[2:3]), features[2:3], rtol=1e-4, atol=1e-5)
    assert encoder(x[:0]).shape == (0, 1024)
    torch.testing.assert_close(encoder(x.flip(0)), features.flip(0), rtol=1e-4, atol=1e-5)
    with ThreadPoolExecutor(2) as pool:
        for each in pool.map(encoder, [x, x]):
            torch.testing.assert_close(each, features, rtol=1e-4, atol=1e-5)
    for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        torch.testing.assert_close(copied(x), features, rtol=1e-4, atol=1e-5)


def test_a_signal_after_it_is_handled() -> None:
    """Where OpenVINO sets a stack for signals, it is gone with the graph."""
    needs_openvino()
    encoder = make_encoder(unloaded(), device="cpu", precision="fp32", backend="openvino")
    x = patches(1)
    encoder(x)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(encoder, x).result()
        held = [encoder]
        del encoder
        pool.submit(held.clear).result()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# Chosen by a trial


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(backends, "user_cache", lambda: tmp_path)
    return tmp_path / "backends.json"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A trial whose winner is the last name in the list, instead of a second of computing."""
    wins = ["openvino"]

    def trial(forms):
        wins.insert(0, "tried")
        return {name: float(name == wins[-1]) for name in forms}

    monkeypatch.setattr(backends, "trial", trial)
    return wins


@pytest.mark.parametrize("winner", ["torch", "openvino"])
def test_auto_takes_the_faster_one_and_remembers_it(
    winner: str, cache: Path, trials: list[str]
) -> None:
    needs_openvino()
    trials[-1] = winner
    for _ in range(2):
        encoder = make_encoder(unloaded(), device="cpu", precision="fp32", backend="auto")
        assert isinstance(encoder.network, OpenVinoTrunk) == (winner == "openvino")
    assert trials.count("tried") == 1
    (entry,) = json.loads(cache.read_text()).values()
    assert entry["backend"] == winner and set(entry["patches_a_second"]) == {"torch", "openvino"}
    make_encoder(unloaded("googlenet_224"), device="cpu", precision="fp32", backend="auto")
    assert trials.count("tried") == 2, "another network is another trial"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"KEY": 3}', '{"KEY": {"backend": "abacus"}}'])
def test_a_broken_cache_is_another_trial(content: str, cache: Path, trials: list[str]) -> None:
    needs_openvino()
    trunk = make_encoder(unloaded(), device="cpu", precision="fp32").network.trunk  # pyright: ignore
    key = backends._key(trunk, torch.float32)  # pyright: ignore[reportArgumentType]
    cache.write_text(content.replace("KEY", key))
    for _ in range(2):
        make_encoder(unloaded(), device="cpu", precision="fp32", backend="auto")
    assert trials.count("tried") == 1
    assert json.loads(cache.read_text())[key]["backend"] == "openvino"


def test_without_a_home_it_is_tried_each_time(
    trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_openvino()
    monkeypatch.setattr(backends, "user_cache", lambda: None)
    for _ in range(2):
        make_encoder(unloaded(), device="cpu", precision="fp32", backend="auto")
    assert trials.count("tried") == 2


def test_a_trial_measures_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_SECONDS", 0.0)
    shapes = []

    class Form(nn.Module):
        def forward(self, pixels):
            shapes.append((tuple(pixels.shape), pixels.dtype))
            return pixels.float().mean()

    rates = backends.trial({"one": Form(), "two": Form()})
    assert set(rates) == {"one", "two"} and min(rates.values()) > 0
    assert set(shapes) == {((16, 96, 96, 3), torch.uint8)} and len(shapes) == 4


@pytest.mark.parametrize("name", ["inception_mini", "a module"])
def test_auto_leaves_other_encoders_to_torch(name: str, trials: list[str]) -> None:
    given = nn.AvgPool2d(16) if name == "a module" else name
    encoder = make_encoder(given, device="cpu", backend="auto")
    plain = make_encoder(given, device="cpu")
    assert type(encoder.network) is type(plain.network) and "tried" not in trials


# Refused


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("googlenet", {"backend": "onnx"}, "backend is one of 'auto', 'torch', 'openvino'"),
        ("googlenet", {"precision": "int8"}, "int8 is computed by torch"),
        ("googlenet", {"compile": True}, "computes on the CPU, not compiled"),
        ("inception_mini", {}, "for GoogLeNets, and 'inception_mini' is none"),
        (nn.AvgPool2d(16), {}, "for GoogLeNets, and AvgPool2d is none"),
    ],
)
def test_what_it_cannot_compute_is_told(given: object, options: dict, message: str) -> None:
    spec = unloaded() if given == "googlenet" else given
    with pytest.raises(ValueError, match=message) as caught:
        make_encoder(spec, device="cpu", **{"backend": "openvino"} | options)  # pyright: ignore
    assert "\n" not in str(caught.value)


def test_an_encoder_that_is_there_keeps_its_backend() -> None:
    there = make_encoder("inception_mini", device="cpu")
    assert make_encoder(there, backend="torch") is there is make_encoder(there, backend="auto")
    with pytest.raises(ValueError, match="cannot be asked of an encoder that is there") as caught:
        make_encoder(there, device="cpu", backend="openvino")
    assert "\n" not in str(caught.value)


@pytest.fixture
def asked_anew():
    openvino_obstacle.cache_clear()
    yield
    openvino_obstacle.cache_clear()


def test_openvino_absent_is_told_and_auto_does_without(
    asked_anew: None, cache: Path, trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_form, "find_spec", lambda name: None)
    with pytest.raises(DeviceNotAvailableError, match=r"pip install 'glimpse-env\[openvino\]'"):
        make_encoder(unloaded(), device="cpu", backend="openvino")
    make_encoder(unloaded(), device="cpu", backend="auto")
    assert "tried" not in trials and not cache.exists()


def test_an_arithmetic_that_the_processor_lacks_is_told(
    asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device, name):
            return ["FP32"]

    module = type("module", (), {"Core": Core})
    monkeypatch.setattr(openvino_form, "find_spec", lambda name: True)
    monkeypatch.setattr(openvino_form, "import_module", lambda name: module)
    with pytest.raises(DeviceNotAvailableError, match="no bf16 .* give precision='fp32'"):
        make_encoder(unloaded(), device="cpu", precision="bf16", backend="openvino")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_told_what_to_do() -> None:
    """In a process of its own: OpenVINO would end it without a word, or never answer."""
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    code = """
import os, signal, sys
from dataclasses import replace
import torch
from encoders.inference.engine import make_encoder
from encoders.spec import get_spec
spec, x = get_spec("googlenet_truncated"), torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
spec = replace(spec, weights=None, sha256=None)
def make():
    return make_encoder(spec, device="cpu", precision="fp32", backend="openvino")
encoder = make()
encoder(x)
pid = os.fork()
if pid == 0:
    signal.alarm(400)
    for again in (lambda: encoder, make):
        try:
            again()(x)
            os._exit(1)
        except RuntimeError as error:
            if "'spawn'" not in str(error):
                os._exit(2)
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = run_command(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        # The threads of torch's own OpenMP would not survive the fork either.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 7, done.stderr[-1000:]
