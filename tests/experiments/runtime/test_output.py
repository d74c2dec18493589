"""`--quiet` and `--json`: what a person reads, what a script reads, and nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.runtime.output import speaking, take_flags

Capture = pytest.CaptureFixture[str]


def test_flags_are_taken_from_any_place() -> None:
    assert take_flags(["--quiet", "bank", "--out", "x"]) == (["bank", "--out", "x"], True, False)
    assert take_flags(["bank", "--json", "--quiet"]) == (["bank"], True, True)
    assert take_flags([]) == ([], False, False)


def test_a_script_gets_the_result_and_nothing_else(
    watched_runs: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    run, out = str(watched_runs["high"]), tmp_path / "out"
    assert main(["attention", run, "--out", str(out), "--count", "4", "--json"]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert json.loads(said.out) == json.loads((out / "attention.json").read_text())
    assert "# What looking was worth" in said.err
    page = ["view", run, "--out", str(tmp_path / "view.html"), "--count", "3"]
    assert main([*page, "--quiet", "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["images"] == 3 and told["bytes"] == (tmp_path / "view.html").stat().st_size
    assert said.err == ""
    assert main([*page, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_errors_are_told_whatever_is_asked(tmp_path: Path, capsys: Capture) -> None:
    assert main(["view", str(tmp_path), "--quiet", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "no run in" in said.err and said.err.count("\n") == 1


def test_everything_is_as_it_was_afterwards(capsys: Capture, monkeypatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with pytest.raises(ValueError), speaking(quiet=True, script=False):
        print("unheard")
        assert os.environ["TQDM_DISABLE"] == "1"
        raise ValueError
    assert "TQDM_DISABLE" not in os.environ
    with speaking(quiet=False, script=True) as finish:
        finish(Path("x"))  # no record: a script still gets JSON
    print("heard")
    assert capsys.readouterr().out == "null\nheard\n"
