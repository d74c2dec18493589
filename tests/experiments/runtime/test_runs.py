"""Run folders: configurations come back as they were, and nothing is overwritten or mixed up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.configs import ReinforceConfig, TwoDeckConfig
from experiments.data import DataConfig
from experiments.runtime.runs import (
    RunError,
    RunFolder,
    environment_record,
    from_record,
    load_config,
    to_record,
    write_json,
    write_whole,
)
from experiments.train.config import TrainConfig
from experiments.train.evaluate import EvaluateConfig
from experiments.train.presets import EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_configurations_survive_json(name: str) -> None:
    config = EXPERIMENTS[name][1]
    assert from_record(TrainConfig, json.loads(json.dumps(to_record(config)))) == config


def test_paths_survive_json() -> None:
    config = EvaluateConfig(run=Path("runs/x"), data_dir=Path("/images"))
    assert from_record(EvaluateConfig, to_record(config)) == config


def test_unknown_setting_is_named() -> None:
    record = to_record(TrainConfig()) | {"nonsense": 1}
    with pytest.raises(RunError, match="nonsense"):
        from_record(TrainConfig, record)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 0}, {"train_split": "trainval"}, {"num_glimpses": 0}],
)
def test_impossible_settings(change: dict) -> None:
    with pytest.raises(ValueError):
        replace(TrainConfig(), **change)


def test_batch_must_hold_whole_blocks_of_scanpaths() -> None:
    with pytest.raises(ValueError, match="multiple"):
        TrainConfig(batch_size=10, learning=ReinforceConfig(samples=4))


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(), {}, resume=False)
    with pytest.raises(RunError, match="--resume"):
        folder.begin(TrainConfig(), {}, resume=False)
    folder.begin(TrainConfig(resume=True), {}, resume=True)


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(), {}, resume=False)
    other = TrainConfig(epochs=31, data=DataConfig(dataset="synthetic"))
    with pytest.raises(RunError, match="data.dataset, epochs"):
        folder.begin(other, {}, resume=True)


def test_what_auto_stands_for_is_no_other_setting(tmp_path: Path) -> None:
    """Runs of before `auto` was the default name the reward and the baseline."""
    folder = RunFolder(tmp_path / "r")
    named = ReinforceConfig(reward="accuracy", baseline="network")
    folder.begin(TrainConfig(learning=named), {}, resume=False)
    folder.begin(TrainConfig(), {}, resume=True)
    with pytest.raises(RunError, match="learning.reward"):
        folder.begin(TrainConfig(learning=ReinforceConfig(reward="gain")), {}, resume=True)


def test_a_run_of_before_a_setting_existed_resumes_under_its_default(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(), {}, resume=False)
    path = folder.path / "config.json"
    record = json.loads(path.read_text())
    del record["choose_scale"], record["network"]["choose_scale"], record["network"]["scale_sigma"]
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"\(choose_scale\)"):
        folder.begin(TrainConfig(choose_scale=True), {}, resume=True)
    folder.begin(TrainConfig(), {}, resume=True)
    assert load_config(TrainConfig, folder.path) == TrainConfig()


def test_the_network_does_not_choose_what_the_environment_does_not_ask() -> None:
    with pytest.raises(ValueError, match="--choose-scale"):
        TrainConfig(network=TwoDeckConfig(choose_scale=True))


FACTS = {
    "datasets": {"train": {"fingerprint": "a", "images": 3}},
    "encoder": {"fingerprint": "e", "weights_sha256": "w"},
    "bank": {"train": {"fixations": {"count": 4}}},
}


def test_paths_and_device_may_change_on_resuming(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(bank=Path("banks")), FACTS, resume=False)
    moved = TrainConfig(
        out=Path("elsewhere"), bank=Path("b"), data=DataConfig(data_dir=Path("d")), device="cpu"
    )
    absent = FACTS | {"encoder": {"fingerprint": "e", "weights_sha256": None}}
    folder.begin(moved, absent, resume=True)
    assert load_config(TrainConfig, folder.path) == moved


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"datasets": {"train": {"fingerprint": "b", "images": 3}}}, "datasets.train.fingerprint"),
        ({"encoder": {"fingerprint": "f", "weights_sha256": "w"}}, "encoder.fingerprint"),
        ({"bank": {"train": {"fixations": {"count": 9}}}}, "bank.train.fixations.count"),
    ],
)
def test_what_a_run_stands_on_may_not_change(change: dict, name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(bank=Path("banks")), FACTS, resume=False)
    with pytest.raises(RunError, match=rf"\({name}\)"):
        folder.begin(TrainConfig(bank=Path("banks")), FACTS | change, resume=True)


def test_other_weights_of_a_live_encoder_are_noticed(tmp_path: Path) -> None:
    folder, live = RunFolder(tmp_path / "r"), FACTS | {"bank": None}
    folder.begin(TrainConfig(), live, resume=False)
    other = live | {"encoder": {"fingerprint": "e", "weights_sha256": "v"}}
    with pytest.raises(RunError, match="weights_sha256"):
        folder.begin(TrainConfig(), other, resume=True)


def test_a_run_of_before_banks_were_recorded_resumes_with_a_warning(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    old = {key: value for key, value in FACTS.items() if key != "bank"}
    folder.begin(TrainConfig(bank=Path("banks")), old, resume=False)
    with pytest.warns(UserWarning, match="did not record banks"):
        folder.begin(TrainConfig(bank=Path("banks")), FACTS, resume=True)


@pytest.mark.bad_input
@pytest.mark.filterwarnings("ignore:.*did not record banks")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"epochs": "many"}', '{"data": 5}', "\xff"])
@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_a_damaged_record_is_named(name: str, text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(), FACTS, resume=False)
    (folder.path / name).write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=str(folder.path)):
        folder.begin(TrainConfig(), FACTS, resume=True)
    if name == "config.json":
        with pytest.raises(RunError, match="config.json"):
            load_config(TrainConfig, folder.path)


@pytest.mark.bad_input
def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("nonsense\n")
    with pytest.raises(RunError, match="metrics.jsonl is damaged"):
        folder.rewind("learned", 1)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run in"):
        RunFolder(tmp_path / "r").begin(TrainConfig(), {}, resume=True)
    with pytest.raises(RunError, match="no config.json"):
        load_config(TrainConfig, tmp_path / "r")


def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "record.json"
    write_json(path, {"a": 1})
    before, write = path.read_bytes(), Path.write_bytes

    def half(self: Path, content: bytes) -> int:
        write(self, content[: len(content) // 2])
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="disk full"):
            write_json(path, {"a": 2})
    assert path.read_bytes() == before
    write_whole(path, b"\x00 all of it")
    assert path.read_bytes() == b"\x00 all of it"
    assert not list(tmp_path.rglob("*.part"))


def test_rewinding_drops_what_will_be_done_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in range(3):
        for agent in ("learned", "center"):
            folder.log({"agent": agent, "epoch": epoch, "eval_ma": 1.0})
    with open(folder.metrics, "a") as file:
        file.write('{"agent": "learned", "epo')  # the process died here
    folder.rewind("learned", 1)
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(r["agent"], r["epoch"]) for r in rows] == [
        ("learned", 0),
        ("center", 0),
        ("center", 1),
        ("center", 2),
    ]


def test_environment_record_says_what_ran() -> None:
    record = environment_record(seed=5)
    assert record["seed"] == 5
    assert record["versions"]["torch"]
    assert record["machine"]["threads"] >= 1
    json.dumps(record)
