"""Commands of other packages: registered, installed, or named by their module."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.runtime import plugins

OUTSIDE = '''
from dataclasses import dataclass


@dataclass(frozen=True)
class GreetConfig:
    """Greet somebody."""

    name: str = "dog"
    """Whom."""


def greet(config: GreetConfig) -> dict[str, str]:
    """Say hello to somebody."""
    print("hello", config.name)
    return {"greeted": config.name}


def add(one: int, two: int = 2) -> dict[str, int]:
    """Add two numbers."""
    return {"sum": one + two}
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside_commands.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "outside_commands"
    sys.modules.pop("outside_commands", None)


@pytest.fixture
def installed(outside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("greet", f"{outside}:greet", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])


def test_a_module_is_run_by_its_name(outside, capsys) -> None:
    assert main([f"{outside}:greet", "--name", "cat"]) == 0
    assert capsys.readouterr().out == "hello cat\n"


def test_options_may_be_parameters(outside, capsys) -> None:
    assert main(["--json", f"{outside}:add", "--one", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sum": 5}


def test_an_installed_command_runs_and_is_listed(installed, capsys) -> None:
    assert main(["--json", "greet"]) == 0
    assert json.loads(capsys.readouterr().out) == {"greeted": "dog"}
    assert main([]) == 0
    assert "  greet " in capsys.readouterr().out
    assert main(["gret"]) == 2
    assert "did you mean 'greet'?" in capsys.readouterr().err


def test_its_help_is_its_docstrings(installed, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["greet", "--help"])
    shown = capsys.readouterr().out
    assert "Say hello to somebody." in shown and "--name" in shown and "Whom." in shown


def test_a_registered_function_is_a_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(plugins, "_REGISTERED", {})

    @plugins.register_command("twice")
    def twice(number: int) -> None:
        """Double a number."""
        print(2 * number)

    assert main(["twice", "--number", "4"]) == 0
    assert capsys.readouterr().out == "8\n"
    with pytest.raises(ValueError, match="already registered"):
        plugins.register_command("twice")(lambda: None)
    with pytest.raises(ValueError, match="colon"):
        plugins.register_command("a:b")


@pytest.mark.parametrize("name", ["no_such_module:run", "json:no_such_function", "json:__name__"])
def test_what_names_no_function_is_told(name: str, capsys) -> None:
    assert main([name]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and name in shown


@dataclass(frozen=True)
class Empty:
    """No options."""


def test_its_error_is_one_sentence(monkeypatch, capsys) -> None:
    monkeypatch.setattr(plugins, "_REGISTERED", {})

    @plugins.register_command("fails")
    def fails(config: Empty) -> None:
        raise ValueError("there is nothing to count")

    # The annotation is this module's, which tyro reads by its name.
    assert main(["fails"]) == 1
    assert capsys.readouterr().err == "glimpse fails: there is nothing to count\n"
