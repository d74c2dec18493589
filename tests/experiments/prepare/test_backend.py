"""The option `backend`: of environments, banks, probes and runs, on record, and refused in time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import glimpse_env  # noqa: F401
from encoders.bank.feature_bank import BankMismatchError, FeatureBank
from encoders.inference import backends
from encoders.inference.openvino_form import OpenVinoTrunk, openvino_obstacle
from encoders.weights.files import file_digest
from experiments.cli import main
from experiments.data import DataConfig
from experiments.prepare.bank import bank, settled
from experiments.prepare.config import BankConfig
from experiments.pretrain.config import ProbeConfig
from experiments.pretrain.probe import read_encoder
from experiments.train.config import TrainConfig
from experiments.train.factory import build_source, describe_source
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.encoders.test_googlenet import randomly
from tests.glimpse_env.helpers import GridMeans, options

DATA = DataConfig(dataset="synthetic", num_images=4)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A GoogLeNet of random weights, named by its record as a tuned one is."""
    folder = tmp_path_factory.mktemp("core")
    state = {name: value.contiguous() for name, value in randomly("googlenet_bvlc").items()}
    save_file(state, folder / "core.safetensors")
    record = {
        "name": "core",
        "architecture": "googlenet_bvlc",
        "sha256": file_digest(folder / "core.safetensors"),
        "normalisation": {"mean": [123.0, 117.0, 104.0], "std": [1.0, 1.0, 1.0]},
        "feature_size": 1024,
        "stem": "resampled",
        "seen": "no image",
    }
    (folder / "core.json").write_text(json.dumps(record))
    return str(folder / "core.json")


@pytest.fixture
def openvino() -> None:
    obstacle = openvino_obstacle(torch.float32)
    if obstacle is not None:
        pytest.skip(obstacle)


@pytest.fixture
def winner(openvino: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A trial whose winner is the last name in the list, instead of a second of computing."""
    wins = ["openvino"]
    monkeypatch.setattr(backends, "user_cache", lambda: None)
    monkeypatch.setattr(
        backends, "trial", lambda forms: {name: float(name == wins[-1]) for name in forms}
    )
    return wins


def config(out: Path, core: str, **changes: Any) -> BankConfig:
    return BankConfig(
        **{
            "out": out,
            "data": DATA,
            "splits": ("train",),
            "encoder": core,
            "resolutions": ("low",),
            "side": 1,
            "mirror": False,
            "context": "center",
            "precision": "fp32",
            "device": "cpu",
            "workers": 1,
            **changes,
        }
    )


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "train" / "bank.json").read_text())


def computes(env: Any) -> str:
    return env.unwrapped._dynamics.observer.encoder.backend


def features(env: Any) -> np.ndarray:
    return env.reset(seed=1)[0]["context"]


def test_environments_compute_by_the_backend_asked_for(core: str, openvino: None) -> None:
    how: dict[str, Any] = {
        "encoder": core,
        "precision": "fp32",
        "device": "cpu",
        "context_grid": 1,
        "resolutions": ("low",),
    }
    made = {
        backend: gymnasium.make("SyntheticDogsGlimpse-v0", backend=backend, **how)
        for backend in ("torch", "openvino")
    }
    assert {name: computes(env) for name, env in made.items()} == {name: name for name in made}
    found = {name: features(env) for name, env in made.items()}
    np.testing.assert_allclose(found["openvino"], found["torch"], rtol=1e-3, atol=1e-4)
    assert '"backend": "openvino"' in made["openvino"].spec.to_json()  # type: ignore[union-attr]
    for array in ("numpy", "torch"):
        batch = gymnasium.make_vec(
            "SyntheticDogsGlimpse-v0",
            num_envs=2,
            vectorization_mode="vector_entry_point",
            backend="openvino",
            array=array,
            **how,
        )
        assert computes(batch) == "openvino"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"backend": "onnx"}, "backend is one of 'auto', 'torch', 'openvino', not 'onnx'"),
        (
            {"backend": "openvino", "observation": "features", "encoder": GridMeans()},
            "for GoogLeNets, and GridMeans is none",
        ),
    ],
)
def test_a_backend_that_cannot_be_is_one_sentence(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"encoder": "inception_mini"} | change
    with pytest.raises(ValueError, match=message) as caught:
        gymnasium.make("SyntheticDogsGlimpse-v0", **given)
    assert "\n" not in str(caught.value)


def test_a_recurrent_encoder_is_of_torch_alone() -> None:
    class Memory(nn.Module):
        def initial_state(self, batch: int) -> None:
            return None

    with pytest.raises(ValueError, match="for GoogLeNets, and a recurrent encoder is none"):
        DogsGlimpseVectorEnv(
            1, **options(observation="features", encoder=Memory(), backend="openvino")
        )


def test_a_bank_tells_its_backend_and_goes_on_with_it(
    core: str, winner: list[str], tmp_path: Path
) -> None:
    bank(config(tmp_path / "b", core, backend="openvino"))
    assert described(tmp_path / "b")["backend"] == "openvino"
    assert FeatureBank.open(tmp_path / "b" / "train").description.backend == "openvino"
    with pytest.raises(BankMismatchError, match="differs in: backend"):
        bank(config(tmp_path / "b", core))
    # What is faster by now does not change a bank that is there.
    winner[-1] = "torch"
    chosen, encoder = settled(config(tmp_path / "b", core, backend="auto"))
    assert chosen.backend == encoder.backend == "openvino"
    bank(config(tmp_path / "b", core, backend="auto"))


def test_a_bank_of_torch_has_the_record_it_always_had(
    core: str, winner: list[str], tmp_path: Path
) -> None:
    winner[-1] = "torch"
    bank(config(tmp_path / "b", core, backend="auto"))
    assert "backend" not in described(tmp_path / "b")
    assert FeatureBank.open(tmp_path / "b" / "train").description.backend == "torch"
    bank(config(tmp_path / "b", core))  # the same bank


@pytest.mark.slow
def test_worker_processes_compute_by_the_backend_that_was_chosen(
    core: str, winner: list[str], tmp_path: Path
) -> None:
    asked = config(tmp_path / "b", core, backend="auto", workers=2, chunk=2)
    bank(asked)
    assert described(tmp_path / "b")["backend"] == "openvino"
    bank(replace(asked, out=tmp_path / "c", backend="openvino", workers=1))
    two, one = (FeatureBank.open(tmp_path / name / "train").glimpse for name in ("b", "c"))
    np.testing.assert_allclose(two, one, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("where", [{"share": "1/2"}, {"on": "slurm"}])
def test_shares_are_of_one_named_backend(where: dict[str, Any], core: str, tmp_path: Path) -> None:
    from experiments.cluster.config import ClusterConfig

    asked = {k: ClusterConfig(cluster="slurm") if k == "on" else v for k, v in where.items()}
    with pytest.raises(ValueError, match="--backend auto .* name torch or openvino") as caught:
        config(tmp_path / "b", core, backend="auto", **asked)
    assert "\n" not in str(caught.value)


def test_a_live_run_tells_its_backend(core: str, openvino: None) -> None:
    run = TrainConfig(data=DATA, encoder=core, precision="fp32", device="cpu")
    assert describe_source(build_source(run, "train")) == {"live": "float32"}
    other = build_source(replace(run, backend="openvino"), "train")
    assert isinstance(other.network, OpenVinoTrunk)  # type: ignore[union-attr]
    assert describe_source(other) == {"live": "float32-openvino"}


@pytest.mark.slow
def test_a_probe_tells_its_backend(core: str, openvino: None, tmp_path: Path) -> None:
    asked = ProbeConfig(
        out=tmp_path / "probe.json",
        encoder=core,
        data=replace(DATA, num_images=24),
        resolutions=("low",),
        precision="fp32",
        device="cpu",
        workers=1,
    )
    assert read_encoder(replace(asked, backend="openvino"))["backend"] == "openvino"


def test_the_command_line_refuses_it_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["bank", "--dataset", "synthetic", "--encoder", "inception_mini"]
    assert main([*words, "--backend", "openvino", "--out", str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err.strip()
    assert "backend 'openvino' is for GoogLeNets" in said and "\n" not in said
