"""Loggers besides TensorBoard: wandb by its own calls, and anybody's class."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.runtime.loggers import open_logger
from experiments.runtime.runs import settings_of, to_record
from experiments.train.config import TrainConfig

OUTSIDE = """
class Lines:
    def __init__(self, folder, settings):
        self.file = open(folder / "lines.txt", "w", encoding="utf-8")
        self.file.write(f"{settings['seed']}\\n")

    def log(self, values):
        self.file.write(f"{values}\\n")

    def close(self):
        self.file.close()


class Mute:
    def __init__(self, folder, settings):
        pass
"""


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A module that takes what wandb's takes, and the calls that it got."""
    calls: list[Any] = []

    class Run:
        def log(self, values: dict[str, float]) -> None:
            calls.append(("log", values))

        def finish(self) -> None:
            calls.append("finish")

    def init(**given: Any) -> Run:
        calls.append(("init", given))
        return Run()

    fake = ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return calls


def test_wandb_is_given_settings_and_numbers(wandb: list[Any], tmp_path: Path) -> None:
    logger = open_logger("wandb", tmp_path, {"seed": 3})
    logger.log({"epoch": 0, "learned/eval_ma": 12.0})
    logger.close()
    (_, given), logged, finished = wandb
    assert given["config"] == {"seed": 3} and given["dir"] == str(tmp_path)
    assert logged == ("log", {"epoch": 0, "learned/eval_ma": 12.0}) and finished == "finish"


def test_a_run_that_is_resumed_goes_on_in_one_curve(wandb: list[Any], tmp_path: Path) -> None:
    for _ in range(2):
        open_logger("wandb", tmp_path, {})
    first, second = (given["id"] for _, given in wandb)
    assert first == second


def test_without_wandb_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="glimpse-env.wandb."):
        open_logger("wandb", tmp_path, {})


def test_a_class_of_a_file_is_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_loggers.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    logger = open_logger("outside_loggers:Lines", tmp_path, {"seed": 3})
    logger.log({"epoch": 0})
    logger.close()
    assert (tmp_path / "lines.txt").read_text() == "3\n{'epoch': 0}\n"
    for name, words in (
        ("outside_loggers:Mute", "no method log and no method close"),
        ("outside_loggers:None_", "None_"),
        ("lines", "'wandb' or 'module:Class'"),
    ):
        with pytest.raises(ValueError, match=words):
            open_logger(name, tmp_path, {})
    sys.modules.pop("outside_loggers")


def test_none_takes_everything(tmp_path: Path) -> None:
    logger = open_logger(None, tmp_path, {})
    logger.log({"epoch": 0})
    logger.close()
    assert not list(tmp_path.iterdir())


def test_a_logger_is_no_setting_of_a_run() -> None:
    """A run goes on whoever listens."""
    one, two = (settings_of(to_record(TrainConfig(logger=name))) for name in (None, "wandb"))
    assert one == two
