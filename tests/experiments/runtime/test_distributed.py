"""Several processes train what one would: same batches, same weights, one writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agents.tensor_store import load_checkpoint, unpack_state
from experiments.data import DataConfig
from experiments.pretrain.config import PretrainConfig, command
from experiments.pretrain.state import Pretraining
from experiments.pretrain.train import _pretrain, pretrain
from experiments.runtime import distributed
from experiments.runtime.distributed import Ranks, joined

ROOT = Path(__file__).resolve().parents[3]
# No batch norm and no dropout: what one process computes of an image does not depend on others.
TINY = PretrainConfig(
    core="googlenet_truncated",
    from_scratch=True,
    data=DataConfig(dataset="synthetic", num_images=24),
    resolutions=("low", "high"),
    steps=4,
    head_steps=1,
    images=4,
    looks=1,
    held_out=0.2,
    precision="fp32",
    dropout=0.0,
    probe=0,
    checkpoint_every=2,
)


def towers(run: Path) -> dict[str, torch.Tensor]:
    """The towers' state at a run's last checkpoint."""
    tensors, metadata = load_checkpoint(run / "checkpoint")
    return unpack_state(tensors, metadata["state"])["towers"]


def test_alone_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks == Ranks() and ranks.first
        assert ranks.mean({"loss": 2.0}, torch.device("cpu")) == {"loss": 2.0}
    assert not torch.distributed.is_initialized()


def test_a_first_process_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "_MEETING", 0.2)
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    store.set("first", "one that has died")
    with pytest.raises(TimeoutError, match="process 0 did not answer process 1"):
        distributed._own_store(store, 1, 2)


def test_a_batch_that_cannot_be_shared_equally_is_told(tmp_path: Path):
    with pytest.raises(ValueError, match="--images 4 cannot be shared equally by 3"):
        _pretrain(replace(TINY, out=tmp_path / "run"), Ranks(0, 3))
    assert not (tmp_path / "run").exists()


def test_each_process_has_its_own_gpu():
    assert Ranks(5, 8, 1).device(torch.device("cuda")) == torch.device("cuda", 1)
    assert Ranks(5, 8, 1).device(torch.device("cpu")) == torch.device("cpu")
    assert Ranks().device(torch.device("cuda", 3)) == torch.device("cuda", 3)


@pytest.mark.slow
def test_two_processes_go_on_with_a_run_of_one_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = pretrain(replace(TINY, out=tmp_path / "one"))
    step = Pretraining.train_step

    def interrupted(self, batch):
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(replace(TINY, out=tmp_path / "two"))
    torch.set_num_threads(threads)
    before = towers(tmp_path / "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = command(TINY).split()[1:]
    subprocess.run(
        [
            *torchrun,
            "--nproc-per-node",
            "2",
            "-m",
            "experiments.cli",
            *words,
            "--resume",
            "--probe",
            "0",
            "--out",
            str(tmp_path / "two"),
        ],
        cwd=ROOT,
        check=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    states = [towers(tmp_path / name) for name in ("one", "two")]
    ours, theirs, start = (
        torch.cat([value.flatten() for value in state.values()]) for state in (*states, before)
    )
    # Adam turns gradients that are rounding errors into whole steps, here and there: hence norms.
    assert (ours - theirs).norm() < 5e-3 * (theirs - start).norm()
    logs = [json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("one", "two")]
    assert logs[1] == pytest.approx(logs[0], rel=1e-3)
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {".lock", "checkpoint", "core.json", "core.safetensors", "metrics.jsonl"}
    assert load_file(tmp_path / "two" / "core.safetensors").keys() == load_file(one).keys()
