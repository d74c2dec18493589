"""`glimpse` as a person meets it: what it prints, and the status it ends with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.cli import _GO_ON, COMMANDS, main
from tests.children import run_command

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIMPSE_DEBUG", raising=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_usage_names_every_command(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "GLIMPSE_DEBUG" in shown


def test_a_command_of_before_is_known_by_its_name_of_today(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["baseline", "--help"])
    shown = capsys.readouterr()
    assert shown.err == "glimpse baseline is called glimpse whole-image now\n"
    assert "usage: glimpse whole-image" in shown.out


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_an_unknown_command_is_told(capsys: Capture) -> None:
    assert main(["bnak"]) == 2
    shown = capsys.readouterr()
    assert "'bnak'" in shown.err and "usage:" in shown.err and not shown.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code in (0, None)
    assert f"glimpse {name}" in capsys.readouterr().out


_ASK = """
import contextlib, io, sys
from experiments.cli import COMMANDS, main

words = {words}
for arguments in words if words else [[name, "--no-such-option"] for name in COMMANDS]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    assert status in {statuses}, (arguments, status)
heavy = ("torch", "gymnasium", "numpy", "scipy", "PIL", "matplotlib", "stable_baselines3")
print(*(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize(
    "words, statuses",
    [
        ([["--help"], ["--version"]], (0, None)),
        ([["bnak"], ["bank", "--side", "many"]], (2,)),
        ([["train", "--help"], ["bank", "--help"], ["table1", "--help"]], (0, None)),
        ([], (2,)),
    ],
    ids=["help and version", "mistakes", "help of commands", "an unknown option of every command"],
)
def test_what_runs_nothing_imports_nothing_heavy(words: list, statuses: tuple) -> None:
    """Help and mistakes answer at once: torch and gymnasium load with the command that runs."""
    shown = run_command(
        [sys.executable, "-c", _ASK.format(words=words, statuses=statuses)],
        cwd=Path(__file__).parents[2],
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == ""


def test_a_missing_bank_is_one_sentence(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "synthetic", "--bank", str(tmp_path / "none"), "--out", str(tmp_path / "r")]
    assert main(command) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("glimpse train: ") and shown.count("\n") == 1
    assert str(tmp_path / "none") in shown and "--bank None" in shown
    assert "`glimpse bank --dataset synthetic --encoder inception_mini --out" in shown
    monkeypatch.setenv("GLIMPSE_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(command)


def ending(error: BaseException):
    def run(config: object) -> None:
        raise error

    return run


@pytest.mark.parametrize("name", ["bank", "train", "pretrain", "report"])
def test_ctrl_c_says_how_to_go_on(
    name: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / ("checkpoint/checkpoint.json" if name == "pretrain" else "config.json")).touch()
    asked = (ending(KeyboardInterrupt()), SimpleNamespace(out=tmp_path))
    monkeypatch.setattr("experiments.cli._parse", lambda *_: asked)
    assert main([name]) == 130
    shown = capsys.readouterr()
    assert shown.err.strip() == f"glimpse {name}: interrupted; {_GO_ON[name]}" and not shown.out
    assert ("--resume" in shown.err) == ("train" in name)
    monkeypatch.setenv("GLIMPSE_DEBUG", "1")
    with pytest.raises(KeyboardInterrupt):
        main([name])


@pytest.mark.parametrize("name", ["pretrain", "train", "whole-image"])
@pytest.mark.parametrize("parsed", [False, True])
def test_ctrl_c_before_a_run_has_begun_offers_nothing_to_resume(
    name: str, parsed: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_):
        if not parsed:  # while the modules load
            raise KeyboardInterrupt
        return ending(KeyboardInterrupt()), SimpleNamespace(out=tmp_path)

    monkeypatch.setattr("experiments.cli._parse", parse)
    assert main([name]) == 130
    said = capsys.readouterr().err
    assert "--resume" not in said and "begins again" in said


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="this system tells no load")
@pytest.mark.parametrize(
    "name, load, asked, expected",
    [
        ("train", 0.1, None, None),
        ("train", 3.0, None, "1000"),
        ("train", 3.0, "5", "5"),
        ("benchmark", 3.0, None, None),
    ],
)
def test_on_a_busy_machine_threads_sleep_sooner(
    name: str, load: float, asked: str | None, expected: str | None, monkeypatch
) -> None:
    seen = []
    # Set first, so that what the command sets is undone.
    monkeypatch.setenv("GOMP_SPINCOUNT", asked or "")
    monkeypatch.setenv("TQDM_MININTERVAL", "1")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if asked is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    note = lambda config: seen.append(os.environ.get("GOMP_SPINCOUNT"))  # noqa: E731
    monkeypatch.setattr("experiments.cli._parse", lambda *_: (note, None))
    assert main([name]) == 0 and seen == [expected]


def test_a_mistyped_command_is_guessed(capsys: Capture) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.endswith("no command 'trian': did you mean 'train'?\n")
    assert main(["zzz"]) == 2
    assert capsys.readouterr().err.endswith("no command 'zzz'\n")


def test_ctrl_c_has_a_sentence_for_every_command() -> None:
    assert _GO_ON.keys() == COMMANDS.keys()


def test_errors_of_people_end_in_a_sentence_and_of_the_program_in_a_traceback(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (FloatingPointError("the loss is nan"), ValueError("no"), OSError("disk full")):
        monkeypatch.setattr("experiments.cli._parse", lambda *_, e=error: (ending(e), None))
        assert main(["train"]) == 1
        assert capsys.readouterr().err == f"glimpse train: {error}\n"
    for error in (RuntimeError("shapes"), KeyError("x"), AssertionError()):
        monkeypatch.setattr("experiments.cli._parse", lambda *_, e=error: (ending(e), None))
        with pytest.raises(type(error)):
            main(["train"])


@pytest.mark.parametrize(
    "command, words",
    [
        (["bank", "--out", "x", "--chunk", "0"], "--chunk is at least 1"),
        (["bank", "--out", "x", "--workers", "0"], "--workers is at least 1"),
        (["demo", "--seeds", "0"], "--seeds is at least 1"),
        (["pretrain", "--held-out", "1"], "--held-out is above 0 and below 1"),
        (["bank", "--out", "x", "--encoder", "inception_mini", "--device", "foo"], "'foo'"),
        (
            [
                "bank",
                "--out",
                "x",
                "--encoder",
                "inception_mini",
                "--dataset",
                "synthetic",
                "--data-dir",
                "there",
            ],
            "(--data-dir) means nothing for the data set 'synthetic'",
        ),
        (
            ["bank", "--out", "x", "--encoder", "inception_mini", "--num-images", "3"],
            "(--num-images) means nothing for the data set 'stanford_dogs'",
        ),
    ],
)
def test_impossible_options_end_before_anything_is_made(
    command: list[str],
    words: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(command)
    except SystemExit as end:  # tyro's own way, with the options beside it
        status = end.code
    assert status in (1, 2)
    shown = capsys.readouterr().err
    assert words in " ".join(shown.replace("│", " ").split()) and "Traceback" not in shown
    assert not list(tmp_path.iterdir())


def test_benchmarks_are_run_in_a_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installation has none."""
    monkeypatch.setitem(sys.modules, "experiments.benchmarks", None)
    assert main(["benchmark", "retina"]) == 1
    said = capsys.readouterr().err
    assert "run `glimpse benchmark` in a checkout" in said and len(said.splitlines()) == 1
