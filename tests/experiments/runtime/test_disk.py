"""Disks that fill up, folders that may not be written to or go away, and two at one folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agents import tensor_store
from agents.reinforce import ReinforceAgent
from agents.tensor_store import BEST, load_checkpoint
from experiments.cli import main
from experiments.runtime.runs import LOCK, RunError, load_config, sole_user
from experiments.train.config import TrainConfig
from experiments.train.evaluate import EvaluateConfig, evaluate
from experiments.train.trainer import Trainer, train
from tests.children import ended


@pytest.fixture
def config(watched_runs: dict[str, Path], tmp_path: Path) -> TrainConfig:
    own = load_config(TrainConfig, watched_runs["high"])
    return replace(own, out=tmp_path / "run", references=False, epochs=3)


def run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command as a person runs it, with this configuration."""
    monkeypatch.setattr("experiments.cli._parse", lambda *_: (train, config))
    return main(["train"])


def sentence(capsys: pytest.CaptureFixture) -> str:
    """What was said on stderr, the progress bar aside: one line, no traceback."""
    err = capsys.readouterr().err.replace("\r", "\n")
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("glimpse train:")]
    return line


def test_a_full_disk_leaves_the_last_checkpoint(config, monkeypatch, capsys) -> None:
    write, calls = tensor_store._write, [0]

    def full(path, data):
        calls[0] += 1
        if calls[0] > 4:  # in the midst of the second epoch's checkpoint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(tensor_store, "_write", full)
        assert run(config, patched) == 1
    assert "No space left on device" in sentence(capsys)
    _, metadata = load_checkpoint(config.out / "checkpoint")
    assert dict(metadata["state"]["dict"])["epoch"] == 1
    assert run(replace(config, resume=True), monkeypatch) == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told(config, monkeypatch, capsys) -> None:
    config.out.parent.chmod(0o500)
    try:
        assert run(config, monkeypatch) == 1
    finally:
        config.out.parent.chmod(0o700)
    assert "Permission denied" in sentence(capsys)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_made_is_told(config, monkeypatch, capsys, code) -> None:
    """As root, too, to whom permissions say nothing."""

    def refuse(self, *arguments, **options):
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        assert run(config, patched) == 1
    assert str(config.out) in sentence(capsys)
    assert not config.out.exists()


def test_a_folder_removed_under_the_run_is_told(config, monkeypatch, capsys) -> None:
    update, calls = ReinforceAgent.update, [0]

    def removing(self, trajectory):
        calls[0] += 1
        if calls[0] == 8:  # in the second epoch
            shutil.rmtree(config.out)
        return update(self, trajectory)

    with monkeypatch.context() as patched:
        patched.setattr(ReinforceAgent, "update", removing)
        assert run(config, patched) == 1
    assert str(config.out) in sentence(capsys)


def test_a_corrupt_checkpoint_is_told_and_the_offer_is_good(config, monkeypatch, capsys) -> None:
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    train(config)
    folder = config.out / "checkpoint"
    (weights,) = [
        path
        for path in folder.glob("weights-*")
        if path.name in (folder / "checkpoint.json").read_text()
    ]
    weights.write_bytes(weights.read_bytes()[:-4])
    capsys.readouterr()
    assert run(replace(config, resume=True), monkeypatch) == 1
    said = sentence(capsys)
    assert "changed or damaged" in said and "rename" in said
    (folder / "previous-1.json").rename(folder / "checkpoint.json")
    assert run(replace(config, resume=True), monkeypatch) == 0
    ours, theirs = (load_checkpoint(out / "checkpoint")[0] for out in (config.out, whole.out))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_the_best_checkpoint_is_kept_and_evaluated(config, monkeypatch) -> None:
    config = replace(config, keep_best=True, keep_last=1)
    scores = iter([30.0, 50.0, 40.0])
    original = Trainer._evaluate
    monkeypatch.setattr(
        Trainer,
        "_evaluate",
        lambda self, agent: (original(self, agent)[0], {"eval_ma": next(scores)}),
    )
    train(config)
    _, metadata = load_checkpoint(config.out / "checkpoint", record=BEST)
    assert dict(metadata["state"]["dict"])["epoch"] == 2
    before = (config.out / "evaluation-val.json").read_bytes()
    evaluate(EvaluateConfig(config.out, best=True, examples=0))
    assert (config.out / "evaluation-val.json").read_bytes() == before
    assert '"learned": 2' in (config.out / "evaluation-val-best.json").read_text()
    other = replace(config, keep_best=False, out=config.out.with_name("other"))
    monkeypatch.undo()
    train(other)
    with pytest.raises(RunError, match="--keep-best"):
        evaluate(EvaluateConfig(other.out, best=True, examples=0))


# --- Two at one folder ---


def hold(folder: Path, held, leave) -> None:
    with sole_user(folder):
        held.set()
        leave.wait(60)


def test_the_second_process_is_refused(config, monkeypatch, capsys) -> None:
    context = multiprocessing.get_context("fork")
    held, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(config.out, held, leave))
    other.start()
    assert held.wait(60)
    try:
        assert run(config, monkeypatch) == 1
        assert "another process is at work" in sentence(capsys)
        assert [path.name for path in config.out.iterdir()] == [LOCK]
    finally:
        leave.set()
        ended(other)
    assert run(config, monkeypatch) == 0


def test_a_lock_ends_with_its_process(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    held, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, leave))
    other.start()
    assert held.wait(60)
    other.kill()
    ended(other)
    with sole_user(tmp_path):
        pass


def test_a_context_that_fails_gives_the_folder_free(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), sole_user(tmp_path):
        raise ZeroDivisionError
    with sole_user(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(config, monkeypatch, capsys, code: int) -> None:
    def refuse(lock: object, *given: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("experiments.runtime.runs.FileLock.acquire", refuse)
    assert run(config, monkeypatch) == 1
    said = sentence(capsys)
    assert str(config.out) in said and "no locks" in said and "--out" in said
