"""`glimpse train` and `evaluate` as a person runs them, small: run folders, resuming, reports."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.reinforce import ReinforceAgent
from agents.tensor_store import load_checkpoint
from encoders.inference.engine import make_encoder
from encoders.spec import get_spec
from encoders.weights.files import WeightsNotFoundError
from experiments.data import DataConfig
from experiments.prepare.pyramids import PyramidsConfig, pyramids
from experiments.runtime.runs import RunError
from experiments.train import factory as environment_module, trainer as train_module
from experiments.train.config import TrainConfig
from experiments.train.evaluate import EvaluateConfig, batches, evaluate, load_run, play
from experiments.train.factory import build_env
from experiments.train.side_channel import AT_CENTRE, ELSEWHERE, UNTOLD
from experiments.train.trainer import train
from tests.experiments.conftest import SMALL_NETWORK, interrupt_after, small_banks, small_run

DATA = DataConfig(dataset="synthetic", num_images=48)


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_banks(tmp_path_factory.mktemp("banks"), DATA)


@pytest.fixture
def config(banks: Path, tmp_path: Path) -> TrainConfig:
    return small_run(
        tmp_path / "run",
        banks,
        DATA,
        epochs=3,
        scanpaths=2,
        network=replace(SMALL_NETWORK, dropout=0.2),
    )


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for folder in (run / "checkpoint", run / "references/center", run / "references/random"):
        found[folder.name] = load_checkpoint(folder)[0]
    return found


def rows(run: Path) -> list[dict]:
    text = (run / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    for row in found:
        del row["glimpses_per_second"], row["seconds"]
    return sorted(found, key=lambda row: (row["agent"], row["epoch"]))


def test_a_run_folder_holds_what_is_promised(config: TrainConfig) -> None:
    record = train(config)
    run = config.out
    assert set(record) == {
        "learned",
        "learned, mean of 2 scanpaths",
        "center",
        "random",
        "oracle",
        UNTOLD,
        ELSEWHERE,
        AT_CENTRE,
    }
    for row in record.values():
        assert 0 <= row["low"] <= row["ma"] <= row["high"] <= 100
        assert row["num_images"] == 12
    assert record["oracle"]["ma"] >= record["random"]["ma"]
    saved = json.loads((run / "evaluation-val.json").read_text())
    assert saved["learned"]["ma"] == record["learned"]["ma"]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["encoder"]["weights_sha256"] == get_spec("inception_mini").sha256
    assert "pretrain" in environment["encoder"]["seen"]
    assert environment["bank"]["val"]["fixations"] == {"count": 4, "min": -0.5, "max": 0.5}
    assert str(config.bank) not in json.dumps(environment["bank"])
    assert saved["settings"]["epochs"] == {"learned": 3, "center": 3, "random": 3}
    assert environment["datasets"]["train"]["images"] == 48
    assert len(rows(run)) == 9
    events = EventAccumulator(str(run / "tensorboard" / "learned"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"classification_loss", "eval/ma", "fixation_spread", "glimpses_per_second"} <= tags
    assert "entropy" in tags


def test_same_seed_same_run(config: TrainConfig) -> None:
    train(config)
    again = replace(config, out=config.out.with_name("again"))
    train(again)
    assert rows(config.out) == rows(again.out)
    other = replace(config, out=config.out.with_name("other"), seed=1)
    train(other)
    assert rows(config.out) != rows(other.out)


@pytest.mark.parametrize("stop_after", [1, 4, 8])
def test_interrupted_and_resumed_ends_as_if_it_had_not_been(
    stop_after: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch of the first, second or third agent."""
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)

    interrupt_after(stop_after, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    with pytest.raises(RunError, match="--resume"):
        train(config)
    train(replace(config, resume=True))

    for name, expected in weights(whole.out).items():
        got = weights(config.out)[name]
        assert got.keys() == expected.keys()
        for key in expected:
            assert torch.equal(got[key], expected[key]), (name, key)
    assert rows(config.out) == rows(whole.out)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_saving_loses_no_row(
    moment: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, references=False)
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    save, saved = ReinforceAgent.save, []

    def failing(self, *arguments, **keep):
        saved.append(arguments)
        if len(saved) == 2 and moment == "before":
            raise OSError("power cut")
        save(self, *arguments, **keep)
        if len(saved) == 2:
            raise OSError("power cut")

    monkeypatch.setattr(ReinforceAgent, "save", failing)
    with pytest.raises(OSError, match="power cut"):
        train(config)
    monkeypatch.undo()
    train(replace(config, resume=True))
    assert rows(config.out) == rows(whole.out)


def test_evaluation_shows_images_as_they_are(config: TrainConfig) -> None:
    live = replace(config, bank=None, mirror="on", context="random", batch_size=48)
    encoder = make_encoder("inception_mini", precision="fp32")

    def first_contexts(training: bool | None, split: str, seed: int) -> np.ndarray:
        env = build_env(live, split, source=encoder, training=training)
        images = np.arange(48) % len(env.dataset)
        observation, _ = env.reset(seed=seed, options={"image": images})
        return np.asarray(observation["context"])

    for training, split in ((False, "train"), (None, "val")):
        plain = build_env(
            replace(live, mirror="off", context="center"), split, source=encoder, training=False
        )
        images = np.arange(48) % len(plain.dataset)
        observation, _ = plain.reset(seed=0, options={"image": images})
        expected = np.asarray(observation["context"])
        np.testing.assert_allclose(first_contexts(training, split, 1), expected, atol=1e-4)
    assert not np.allclose(
        first_contexts(None, "train", 0), first_contexts(None, "train", 1), atol=1e-4
    )


def test_ctrl_c_says_where_things_are(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stop(self) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module.Trainer, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert f"saved in {config.out}" in capsys.readouterr().out


def test_evaluate_repeats_what_training_reported(
    config: TrainConfig, capsys: pytest.CaptureFixture
) -> None:
    reported = train(config)
    written = (config.out / "evaluation-val.json").read_text()
    found = evaluate(EvaluateConfig(run=config.out, examples=2))
    for name, row in reported.items():
        assert found[name]["ma"] == row["ma"], name
    assert (config.out / "evaluation-val.json").read_text() == written
    assert len(list((config.out / "examples").glob("*.png"))) == 2
    said = capsys.readouterr().out
    assert "oracle" in said and "not trained to the end" not in said


def test_evaluate_tells_a_run_that_was_cut_short(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save = train_module.Trainer._save

    def stop(self, *arguments) -> None:  # after the first epoch's checkpoint
        save(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module.Trainer, "_save", stop)
    config = replace(config, references=False, scanpaths=1)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    evaluate(EvaluateConfig(run=config.out, examples=0))
    assert "not trained to the end, epochs of 3: learned 1" in capsys.readouterr().out


def test_other_kinds_of_evaluation_go_elsewhere(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, epochs=1, references=False, scanpaths=1, precision="fp32")
    train(config)
    written = (config.out / "evaluation-val.json").read_text()
    finer = small_banks(tmp_path / "finer", DATA, side=3)
    base = EvaluateConfig(run=config.out, examples=0)
    for other in (
        {"live": True},
        {"seed": 3},
        {"scanpaths": 2, "oracle": True},
        {"bank": finer},
    ):
        evaluate(replace(base, **other))
    assert (config.out / "evaluation-val.json").read_text() == written
    found = {path.name: path for path in config.out.glob("evaluation-*.json")}
    (banked,) = [name for name in found if name.startswith("evaluation-val-bank-")]
    assert found.keys() == {
        "evaluation-val.json",
        "evaluation-val-live.json",
        "evaluation-val-seed-3.json",
        "evaluation-val-scanpaths-2-oracle.json",
        banked,
    }
    settings = {name: json.loads(path.read_text())["settings"] for name, path in found.items()}
    assert settings["evaluation-val-live.json"]["source"] == {"live": "float32"}
    assert settings["evaluation-val-seed-3.json"]["seed"] == 3
    assert settings[banked]["source"]["bank"]["fixations"]["count"] == 9
    assert all(each["epochs"] == {"learned": 1} for each in settings.values())


def test_banks_may_move_but_not_change(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, epochs=1, references=False)
    train(config)
    moved = tmp_path / "moved"
    shutil.copytree(config.bank or "", moved)
    train(replace(config, bank=moved, resume=True))
    assert json.loads((config.out / "config.json").read_text())["bank"] == str(moved)
    shutil.rmtree(moved)
    small_banks(moved, DATA, side=3)
    with pytest.raises(RunError, match="bank.train.fixations.count"):
        train(replace(config, bank=moved, resume=True))
    with pytest.raises(RunError, match="other settings .bank."):
        train(replace(config, bank=None, resume=True))


def test_a_bank_does_for_absent_weights(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(spec):
        raise WeightsNotFoundError("no weights")

    monkeypatch.setattr(environment_module, "find_weights", absent)
    train(replace(config, epochs=1, references=False))
    encoder = json.loads((config.out / "environment.json").read_text())["encoder"]
    assert encoder["weights_sha256"] is None and "from the bank" in encoder["weights"]
    with pytest.raises(WeightsNotFoundError):
        environment_module.describe_encoder("inception_mini", live=True)


def test_evaluate_needs_a_checkpoint(config: TrainConfig) -> None:
    train(replace(config, epochs=1, references=False))
    (config.out / "checkpoint" / "checkpoint.json").unlink()
    with pytest.raises(RunError, match="no checkpoint"):
        evaluate(EvaluateConfig(run=config.out))


def test_the_live_encoder_trains_too(config: TrainConfig) -> None:
    live = replace(config, bank=None, epochs=1, references=False, data=replace(DATA, num_images=16))
    record = train(live)
    assert record["learned"]["num_images"] == 4


def test_bank_of_another_encoder(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="encoder"):
        train(replace(config, encoder="googlenet"))


def test_several_scanpaths_an_image(config: TrainConfig) -> None:
    learning = replace(config.learning, samples=4, baseline="leave_one_out")
    train(replace(config, epochs=1, references=False, learning=learning))


def test_too_few_images_for_a_batch(config: TrainConfig) -> None:
    learning = replace(config.learning, samples=2, baseline="leave_one_out")
    refused = r"48 training images \(96 scanpaths\).* 512 scanpaths.*batch-size"
    with pytest.raises(ValueError, match=refused):
        train(replace(config, batch_size=512, learning=learning))


def test_evaluation_plays_every_image_once_in_order(config: TrainConfig) -> None:
    parts = batches(12, 8)
    assert [count for _, count in parts] == [8, 4]
    assert all(len(images) == 8 for images, _ in parts)
    train(replace(config, epochs=1, references=False))
    env = build_env(config, "val")
    agent = load_run(config.out, config, env)["learned"]
    answers = play(agent, env)
    np.testing.assert_array_equal(answers.labels, env.dataset.labels)
    part = play(agent, env, images=np.array([5, 3]))
    np.testing.assert_allclose(part.log_probs, answers.log_probs[[5, 3]], atol=1e-4)


def test_a_logger_gets_every_epoch_of_every_agent(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_lines.py").write_text(
        "seen = []\n"
        "class Lines:\n"
        "    def __init__(self, folder, settings): self.log = seen.append\n"
        "    def close(self): seen.append('closed')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    train(replace(config, epochs=2, references=False, logger="outside_lines:Lines"))
    import outside_lines  # type: ignore[import-not-found]

    first, second, end = outside_lines.seen
    assert (first["epoch"], second["epoch"], end) == (0, 1, "closed")
    assert second["learned/eval_ma"] == rows(config.out)[-1]["eval_ma"]


def test_a_live_encoder_reads_mapped_pyramids(config: TrainConfig, tmp_path: Path) -> None:
    pyramids(PyramidsConfig(out=tmp_path / "pyramids", data=DATA, workers=1))
    live = replace(config, bank=None, epochs=1, references=False, precision="fp32")
    train(live)
    mapped = replace(live, out=live.out.with_name("mapped"), storage=str(tmp_path / "pyramids"))
    train(mapped)
    ours, theirs = (load_checkpoint(run.out / "checkpoint")[0] for run in (mapped, live))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(FileNotFoundError, match="glimpse pyramids"):
        train(replace(mapped, out=live.out.with_name("none"), storage=str(tmp_path / "nowhere")))
