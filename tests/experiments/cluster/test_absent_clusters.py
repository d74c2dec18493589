"""What is not there, does not answer, or does not fit: one sentence that says what to do."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from experiments.cli import main
from experiments.cluster.config import ClusterConfig
from experiments.cluster.executor import make_executor
from experiments.cluster.worker import Order, run_task
from experiments.runtime.runs import RunError


def refused(tmp_path: Path, **options: str) -> str:
    with pytest.raises(RunError) as found:
        make_executor(ClusterConfig(**options), out=tmp_path, parallel=None)  # type: ignore[arg-type]
    said = str(found.value)
    assert "\n" not in said
    return said


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", ModuleType("submitit"))


def test_without_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    said = refused(tmp_path, cluster="slurm")
    assert said == "--cluster slurm needs submitit: pip install 'glimpse-env[slurm]'"


def test_where_there_is_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitit: None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused(tmp_path, cluster="slurm")
    assert said == (
        "no SLURM here (no `sbatch`): run this on a login node of the cluster, or leave --cluster "
        "slurm out"
    )


def test_a_command_says_so_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitit: None, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["pyramids", "--dataset", "synthetic", "--num-images", "8", "--splits", "val"]
    assert main([*words, "--out", str(tmp_path / "out"), "--cluster", "slurm"]) == 1
    said = capsys.readouterr().err
    assert "no SLURM here (no `sbatch`)" in said and "Traceback" not in said


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refused(tmp_path, cluster="ray")
    assert said == "--cluster ray needs Ray: pip install 'glimpse-env[ray]'"


class Ray(ModuleType):
    """A Ray whose `init` ends as told."""

    __version__ = "2.40"

    def __init__(self, error: Exception) -> None:
        super().__init__("ray")
        self.error = error

    def init(self, **options: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error, said",
    [
        (
            ConnectionError("no cluster was found"),
            "no Ray cluster answers at auto: start one with `ray start --head` here and ",
        ),
        (
            RuntimeError("Version mismatch: The cluster was started with Ray 2.9\nPython 3.9"),
            "Ray at auto cannot be used (Version mismatch: The cluster was started with Ray 2.9): "
            "it must have the same version of Ray and Python as here, Ray 2.40",
        ),
    ],
    ids=["none answers", "another version"],
)
def test_a_ray_that_does_not_fit(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", Ray(error))
    assert said in refused(tmp_path, cluster="ray")


def test_an_address_where_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", Ray(AssertionError("it is asked first")))
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(tmp_path, cluster="ray", ray_address=address)
    assert f"no Ray cluster answers at {address}" in said and "ray start --head" in said
    said = refused(tmp_path, cluster="ray", ray_address="127.0.0.1:many")
    assert said == "--ray-address 127.0.0.1:many: give HOST:PORT, ray://HOST:PORT or auto"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk without room")
def test_a_disk_without_room(tmp_path: Path) -> None:
    file = tmp_path / "run.job.json"
    file.write_text("{}")
    os.symlink("/dev/full", tmp_path / "run.log")
    outcome = run_task(Order(str(file), str(tmp_path / "run.log"), str(tmp_path), 1))
    assert outcome.code == 1
    assert "run.log (No space left on device): make room on that disk, or give" in outcome.said
    assert "\n" not in outcome.said
