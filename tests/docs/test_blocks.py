"""Every block of Python on a page runs; every line of shell is read by the command it calls."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import numpy as np
import pytest
from PIL import Image

import encoders.registry
import encoders.spec
import glimpse_env.datasets.registry
from agents import policy
from agents.densities import base as densities
from experiments import cli
from experiments.runtime import plugins
from experiments.runtime.completion import FLAGS as COMPLETION
from experiments.runtime.output import take_flags
from tests.docs.pages import ROOT, python_blocks, shell_lines, written_pages

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest itself brings tomli there
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REGISTRIES = [
    (encoders.spec, "_SPECS"),
    (encoders.registry, "_BUILDERS"),
    (glimpse_env.datasets.registry, "_OPENERS"),
    (policy, "_REGISTERED"),
    (densities, "_FAMILIES"),
    (plugins, "_REGISTERED"),
]
"""What pages add to, each to be as it was afterwards."""

PAGES = [page for page in written_pages() if python_blocks(page)]
LINES = [line for page in written_pages() for line in shell_lines(page)]


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a few images of a reader's own, `my_images/CLASS/*.png`."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "my_images" / name).mkdir(parents=True)
        for index in range(10):
            pixels = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my_images" / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slow_or_not(page: Path) -> Any:
    """Mark the pages that train."""
    trains = page.parent.name == "tutorials" or page.name == "policies.md"
    return pytest.param(page, id=relative(page), marks=[pytest.mark.slow] if trains else [])


@pytest.mark.parametrize("page", [slow_or_not(page) for page in PAGES])
def test_the_python_of_a_page_runs(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of one page in order, as one program."""
    for module, name in REGISTRIES:
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for block in python_blocks(page):
        code = compile(block.text, block.where, "exec")
        if block.parsed_only is None:
            exec(code, names)
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("place, words", LINES, ids=[place for place, _ in LINES])
def test_a_line_of_shell_is_understood(
    place: str, words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]  # VARIABLE=value
    while words:
        end = next((i for i, word in enumerate(words) if word in ("&&", "|")), len(words))
        check(words[:end], folder, monkeypatch)
        words = words[end + 1 :]


def check(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a command's own parser takes its words, or that what they name exists."""
    if not words:
        return
    program, *rest = words
    program = program.rsplit("/", 1)[-1]
    if program == "torchrun":
        place = rest.index("-m")
        assert rest[place + 1] == "experiments.cli", words
        program, rest = "glimpse", rest[place + 2 :]
    if program == "glimpse":
        check_glimpse(rest, folder, monkeypatch)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif program in ("python", "python3", "pytest", "ruff", "pyright"):
        files = [word.split("::")[0] for word in rest if word.endswith(".py") or "/" in word]
        assert all((ROOT / file).exists() for file in files), words
    elif program == "pip":
        assert rest[0] == "install", words
        for extra in re.findall(r"\[(.+?)\]", " ".join(rest)):
            assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), words
        assert all((ROOT / word).exists() for word in rest if word.startswith("docs/")), words
    else:
        others = ("git", "cd", "export", "tensorboard", "pre-commit", "jupytext", "ray")
        others += ("optuna-dashboard",)
        assert program in others, words
        shlex.join(rest)


def check_glimpse(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that `glimpse` reads these words; the command itself is not run."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "examples" / "external_policy"))
    if not words or words[0] in ("--version", "--help", *COMPLETION):
        return
    name, *arguments = take_flags(words)[0]
    assert name in cli.COMMANDS, words
    # What runs is not imported: it may need an extra.
    load, run = cli._load, cli.COMMANDS[name].run
    monkeypatch.setattr(cli, "_load", lambda path: None if path == run else load(path))
    shown = "--help" in arguments or any(each.startswith("--help-") for each in arguments)
    with contextlib.suppress(SystemExit) if shown else contextlib.nullcontext():
        cli._parse(name, arguments)
