"""Killed at any moment and started again, everything ends as if it had never been killed.

Children are forked, so that a kill costs no start of Python; SIGKILL leaves them no last word.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from agents.tensor_store import load_checkpoint
from experiments.data import DataConfig
from experiments.paper.table1 import Table1Config, table1
from experiments.prepare.pyramids import PyramidsConfig, pyramids
from experiments.pretrain.config import PretrainConfig
from experiments.pretrain.train import pretrain
from experiments.train.config import TrainConfig
from experiments.train.trainer import train
from tests.children import ended
from tests.experiments.conftest import SMALL_NETWORK, small_banks, small_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

DATA = DataConfig(dataset="synthetic", num_images=32)
PRETRAIN = PretrainConfig(
    data=DATA,
    resolutions=("low",),
    steps=2,
    images=2,
    looks=1,
    held_out=0.2,
    probe=0,
    precision="fp32",
    checkpoint_every=2,
    device="cpu",
)
TIMES = ("seconds", "glimpses_per_second")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Fixed threads, as exactness asks for; OpenMP's would not survive the fork either."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_child(work: Callable[[], Any], *, kill_after: float | None = None) -> int:
    """Run in a forked child, killed after so many seconds if it lasts that long; exit status."""

    def quietly() -> None:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        work()

    child = multiprocessing.get_context("fork").Process(target=quietly)
    child.start()
    if kill_after is not None:
        child.join(kill_after)
        child.kill()
    return ended(child)


def until_done(start: Callable[[bool], Any], begun: Callable[[], bool], kills: list[float]) -> int:
    """Start, kill, start again ...; returns how many kills struck before it ended."""
    struck = 0
    for after in [*kills, None]:
        resume = begun()
        status = run_child(lambda resume=resume: start(resume), kill_after=after)
        if status == 0:
            return struck
        assert status == -signal.SIGKILL, status
        struck += 1
    raise AssertionError("it did not end")


def killing(module: Any, name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a process kill itself at its n-th call of a function."""
    function, calls, home = getattr(module, name), [0], os.getpid()

    def deadly(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if os.getpid() != home and calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, deadly)


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_banks(tmp_path_factory.mktemp("banks"), DATA, resolutions=("low", "high"))


def test_a_bar_is_not_stopped_by_a_child_killed_while_it_drew_one() -> None:
    list(tqdm([1], disable=True))  # the lock is made

    def child() -> None:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_child(child) == -signal.SIGKILL
    assert run_child(lambda: list(tqdm([1], disable=True))) == 0
    list(tqdm([1], disable=True))


def training(banks: Path, out: Path) -> TrainConfig:
    return small_run(
        out,
        banks,
        DATA,
        epochs=4,
        references=False,
        device="cpu",
        network=replace(SMALL_NETWORK, dropout=0.2),
    )


def trained(run: Path) -> dict[str, Any]:
    """All that a run ends in: weights, optimiser and generators, metrics, evaluation."""
    tensors, metadata = load_checkpoint(run / "checkpoint")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "tensors": {name: value.numpy().tobytes() for name, value in tensors.items()},
        "metadata": metadata,
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "evaluation": json.loads((run / "evaluation-val.json").read_text()),
    }


@pytest.fixture(scope="module")
def unkilled(banks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, float]:
    config = training(banks, tmp_path_factory.mktemp("whole") / "run")
    start = time.monotonic()
    assert run_child(lambda: train(config)) == 0
    return trained(config.out), time.monotonic() - start


@pytest.mark.slow
def test_training_killed_at_twenty_points(banks, unkilled, tmp_path) -> None:
    """Fourteen random moments here, six inside the writing of a checkpoint below."""
    whole, seconds = unkilled
    rng, struck, attempts = random.Random(0), 0, 0
    while struck < 14:
        config = training(banks, tmp_path / str(attempts))
        hits = until_done(
            lambda resume, config=config: train(replace(config, resume=resume)),
            (config.out / "config.json").is_file,
            [rng.uniform(0.1, 1.0) * seconds for _ in range(2)],
        )
        assert trained(config.out) == whole
        struck, attempts = struck + hits, attempts + 1
        if not hits:  # a run takes less time than it did
            seconds *= 0.8
        assert attempts < 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [("fsync", 1), ("fsync", 4), ("replace", 3), ("replace", 4), ("replace", 5), ("fsync", 9)],
)
def test_training_killed_while_it_writes(banks, unkilled, tmp_path, monkeypatch, name, number):
    config = training(banks, tmp_path / "run")
    with monkeypatch.context() as patched:
        killing(os, name, number, patched)
        assert run_child(lambda: train(config)) == -signal.SIGKILL
    resume = (config.out / "config.json").is_file()
    assert run_child(lambda: train(replace(config, resume=resume))) == 0
    assert trained(config.out) == unkilled[0]
    assert not list((config.out / "checkpoint").glob(".*.part"))


def test_a_signal_while_an_epoch_is_evaluated_loses_nothing(banks, unkilled, tmp_path, monkeypatch):
    """It is asked for in the last batch, and whoever asks may not wait for an evaluation."""
    from agents.reinforce import ReinforceAgent
    from experiments.train.trainer import Trainer

    config = training(banks, tmp_path / "run")
    update, calls = ReinforceAgent.update, [0]

    def signalled(self, trajectory):
        calls[0] += 1
        if calls[0] == 8:  # the last of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, trajectory)

    def child() -> None:
        monkeypatch.setattr(ReinforceAgent, "update", signalled)
        evaluate = Trainer._evaluate
        monkeypatch.setattr(
            Trainer,
            "_evaluate",
            lambda self, agent: os._exit(99) if calls[0] == 8 else evaluate(self, agent),
        )
        try:
            train(config)
        except KeyboardInterrupt:
            os._exit(7)

    assert run_child(child) == 7
    _, metadata = load_checkpoint(config.out / "checkpoint")
    assert metadata["progress"]["batches"] == 4
    assert run_child(lambda: train(replace(config, resume=True))) == 0
    assert trained(config.out) == unkilled[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_midst_of_an_epoch_saves_and_says_where(
    banks, unkilled, tmp_path, number, monkeypatch, capfd
) -> None:
    """The last batch but one of the second epoch: neither start nor end of one."""
    from agents.reinforce import ReinforceAgent
    from experiments.cli import main

    config = training(banks, tmp_path / "run")
    update, calls = ReinforceAgent.update, [0]

    def signalled(self, trajectory):
        calls[0] += 1
        if calls[0] == 6:
            os.kill(os.getpid(), number)
        return update(self, trajectory)

    def child() -> None:
        # As a shell starts a program: a test's own process may be deaf to SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(ReinforceAgent, "update", signalled)
        monkeypatch.setattr("experiments.cli._parse", lambda *_: (train, config))
        os._exit(main(["train"]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert ended(process) == 128 + number
    assert "saved after batch 2 of 4 of epoch 2" in capfd.readouterr().out
    _, metadata = load_checkpoint(config.out / "checkpoint")
    assert metadata["progress"]["batches"] == 2
    assert run_child(lambda: train(replace(config, resume=True))) == 0
    assert trained(config.out) == unkilled[0]


@pytest.mark.slow
def test_pretraining_killed_anywhere(tmp_path) -> None:
    base = replace(PRETRAIN, steps=6, images=3, looks=2)
    start = time.monotonic()
    assert run_child(lambda: pretrain(replace(base, out=tmp_path / "whole"))) == 0
    seconds = time.monotonic() - start
    out, rng = tmp_path / "killed", random.Random(1)
    struck = until_done(
        lambda resume: pretrain(replace(base, out=out, resume=resume)),
        (out / "checkpoint" / "checkpoint.json").is_file,
        [rng.uniform(0.1, 0.6) * seconds for _ in range(4)],
    )
    assert struck >= 1
    for name in ("inception_mini.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_pretraining_killed_before_its_first_checkpoint_begins_again(tmp_path, monkeypatch) -> None:
    config = replace(PRETRAIN, out=tmp_path / "run")
    with monkeypatch.context() as patched:
        killing(os, "fsync", 1, patched)
        assert run_child(lambda: pretrain(config)) == -signal.SIGKILL
    assert (config.out / "checkpoint").is_dir()
    assert run_child(lambda: pretrain(config)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bank", "pyramids"])
def test_banks_and_pyramids_killed_anywhere(tmp_path, kind) -> None:
    def start(out: Path) -> Any:
        if kind == "pyramids":
            return pyramids(PyramidsConfig(out=out, data=DATA, splits=("train",), workers=1))
        return small_banks(out, DATA, side=1, splits=("train",), chunk=4, device="cpu")

    begun = time.monotonic()
    assert run_child(lambda: start(tmp_path / "whole")) == 0
    seconds = time.monotonic() - begun
    rng = random.Random(2)
    kills = [rng.uniform(0.05, 0.6) * seconds for _ in range(5)]
    struck = until_done(lambda resume: start(tmp_path / "killed"), lambda: False, kills)
    assert struck >= 1
    files = {path.name for path in (tmp_path / "whole" / "train").iterdir()} - {".lock"}
    assert len(files) >= 4
    for name in files:
        one, other = ((tmp_path / which / "train" / name) for which in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.slow
def test_a_table_killed_with_its_jobs(banks, tmp_path) -> None:
    """A job ends with the table that started it, and both go on where they were."""
    base = Table1Config(
        cells=("low-1",),
        data=DATA,
        bank=banks,
        encoder="inception_mini",
        seeds=1,
        epochs=3,
        batch_size=8,
        hidden_size=16,
        device="cpu",
        jobs=1,
        out=tmp_path / "whole",
    )
    start = time.monotonic()
    assert run_child(lambda: table1(base)) == 0
    seconds = time.monotonic() - start
    config = replace(base, out=tmp_path / "killed")
    for share in (0.5, 0.8):
        run_child(lambda: table1(config), kill_after=share * seconds)
        time.sleep(3)  # the job has its last word
    assert run_child(lambda: table1(config)) == 0
    run = Path("low-1/seed-0")
    assert trained(config.out / run) == trained(base.out / run)
