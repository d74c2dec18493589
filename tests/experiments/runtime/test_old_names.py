"""Records, rows and command lines of earlier versions are read with their old names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.runtime.old_names import RENAMED_FLAGS, renamed, renamed_flags
from experiments.runtime.runs import read_json, read_rows, write_rows


def test_an_evaluation_of_before_is_read_by_its_names_of_today(tmp_path: Path) -> None:
    path = tmp_path / "evaluation-val.json"
    old = {"whole picture": {"ma": 71.0}, "whole picture, mean with its mirror image": {"ma": 72.0}}
    path.write_text(json.dumps(old))
    found = read_json(path, "evaluate again")
    assert found["whole image"] == {"ma": 71.0}
    assert found["whole image, mean with its mirror image"] == {"ma": 72.0}


def test_an_attention_record_of_before(tmp_path: Path) -> None:
    path = tmp_path / "attention.json"
    path.write_text(json.dumps({"runs": [{"pictures": 7, "boxes": {"pictures": 5}}]}))
    assert read_json(path, "again") == {"runs": [{"images": 7, "boxes": {"images": 5}}]}


def test_rows_of_before_count_as_rows_of_today(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, [{"agent": "whole picture", "epoch": 0, "pictures_per_second": 3.5}])
    assert read_rows(path, {"agent": str}) == [
        {"agent": "whole image", "epoch": 0, "images_per_second": 3.5}
    ]


def test_what_has_no_old_name_stays_as_it_is() -> None:
    record = {"images": 3, "agent": {"pictures in a text": "pictures"}, "list": [1, "pictures"]}
    assert renamed(record) == record


FLAGS = [(command, *pair) for command, flags in RENAMED_FLAGS.items() for pair in flags.items()]


@pytest.mark.parametrize(("command", "old", "new"), FLAGS)
def test_old_flags_are_taken_and_not_offered(
    command: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renamed_flags(command, [old, "3"]) == [new, "3"]
    assert renamed_flags(command, ["--out", f"{old}=3"]) == ["--out", f"{new}=3"]
    assert renamed_flags("bank", [old, "3"]) == [old, "3"]
    with pytest.raises(SystemExit):
        main([command, "--help-all"])
    shown = capsys.readouterr().out
    assert new in shown and old not in shown


def test_an_old_flag_reaches_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--pictures", "0"])
    assert "--images is at least 1, not 0" in capsys.readouterr().err
