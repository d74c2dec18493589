"""Help on one screen for every command; everything by --help-all."""

from __future__ import annotations

import pytest

from experiments.cli import main
from experiments.commands import COMMANDS
from experiments.train.presets import EXPERIMENTS

NAMED = {"train": "medium-1", "whole-image": "googlenet-96"}
PAGES = [[name] for name in COMMANDS] + [[name, named] for name, named in NAMED.items()]


def page(words: list[str], capsys: pytest.CaptureFixture[str], flag: str = "--help") -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, flag])
    assert end.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_a_help_page_is_one_screen(words, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = page(words, capsys).splitlines()
    assert 5 < len(shown) <= 60
    assert max(map(len, shown)) < 120  # with the codes of colours that some terminals get


@pytest.mark.parametrize("words", [each for each in PAGES if COMMANDS[each[0]].shown], ids=" ".join)
def test_a_short_page_says_where_the_rest_is(words, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    if words[0] in NAMED and len(words) == 1:
        assert "NAME --help" in page(words, capsys)
        return
    short, whole = page(words, capsys), page(words, capsys, "--help-all")
    assert f"glimpse {' '.join(words)} --help-all" in " ".join(short.split())
    assert len(whole.splitlines()) > len(short.splitlines()) + 10
    for name in set(COMMANDS[words[0]].shown) - {
        "data",
        "cells",
        "names",
        "agent",
        "environment",
        "runs",
    }:
        assert "--" + name.replace("_", "-") in short


def test_train_lists_its_experiments_one_a_line(capsys) -> None:
    shown = page(["train"], capsys)
    assert all(f"\n  {name} " in shown for name in EXPERIMENTS)


def test_a_short_page_shows_the_defaults_of_the_name(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert "runs/medium-1" in page(["train", "medium-1"], capsys)


def test_a_wrong_name_is_told_as_ever(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "medium-7", "--help"])
    assert end.value.code == 2 and "medium-7" in capsys.readouterr().err
