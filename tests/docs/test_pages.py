"""What the pages say of files, names and numbers is so."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS, ROOT, written_pages

sys.path.insert(0, str(DOCS))
from generate import environment_pages  # noqa: E402
from leaderboard import leaderboard_page  # noqa: E402
from tables import encoders_table, with_encoders, with_results  # noqa: E402

from tests.children import run_command

PACKAGES = ("encoders", "glimpse_env", "agents", "experiments")

_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", written_pages(), ids=relative)
def test_links_lead_to_files(page: Path) -> None:
    generated = DOCS / "generated"
    missing = [
        target
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
        and generated not in (page.parent / target).resolve().parents
    ]
    assert not missing


def test_the_readme_is_short_and_shows_an_image_first() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert next(line for line in lines[1:] if line.strip()).startswith("![")


def test_the_readme_has_the_numbers_of_the_records() -> None:
    """After a new record: `python docs/tables.py`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_results(text) == text


def test_the_page_of_encoders_has_the_numbers_of_the_records() -> None:
    """After a new record: `python docs/tables.py`."""
    text = (DOCS / "encoders.md").read_text(encoding="utf-8")
    assert with_encoders(text) == text


def cells(line: str) -> list[str]:
    return [each.strip() for each in line.strip("| \n").split("|")]


def test_what_is_not_measured_is_a_dash_in_the_table_of_encoders(tmp_path: Path) -> None:
    header, _, *rows = encoders_table(tmp_path).splitlines()
    assert len(rows) == 3
    for row in rows:
        assert cells(row)[1:] == ["-"] * (len(cells(header)) - 1)


def test_an_encoders_speed_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    """And what is not of the same task is marked."""
    settings = {"epochs": 15, "encoder": "core", "network": {"hidden_size": 4, "feature_size": 9}}

    def cell(ma: float, fingerprint: str, **changes: Any) -> dict[str, Any]:
        return {
            "ma": ma,
            "seeds": [0],
            "lattice": {"count": 25},
            "datasets": {"train": {"fingerprint": "t"}, "val": {"fingerprint": "v"}},
            "encoder": {"name": "x", "fingerprint": fingerprint},
            "settings": settings | changes,
        }

    speed = {
        "name": "efficientnet_lite2",
        "fingerprint": "lite",
        "patch_side": 128,
        "precision": "bf16",
        "macs_a_patch": 250_000_000,
        "patches_a_second": {"clock": {"median": 41.4}},
    }
    records = {
        "table1-tuned": {"cells": {c: cell(70.0, "core") for c in ("medium-1", "medium-3")}},
        "table1-efficientnet_lite2": {
            "cells": {
                "medium-1": cell(75.25, "lite", encoder="efficientnet_lite2"),
                "medium-3": cell(77.0, "lite", epochs=16),
            }
        },
        "benchmark-encoders": {"encoders": {"efficientnet_lite2@128": speed}},
        "probe-core-2100": {
            "encoder": {"fingerprint": "core"},
            "readings": {"low": {"linear": {"ma": 71.06}}},
        },
    }
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    _, _, untuned, tuned, lite = encoders_table(tmp_path).splitlines()
    assert set(cells(untuned)[1:]) == {"-"}
    assert cells(tuned)[1:] == ["-", "71.1", "-", "**70.0**", "**70.0**", "-", "-"]
    assert cells(lite)[1:] == [
        "128", "-", "-", "**75.2**", "**77.0***", "41 (bf16)", "0.25 G"
    ]  # fmt: skip


def test_the_files_that_answer_questions_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## Where is it?")[1]
    files = re.findall(r"^\| .+\? \| `(.+)` \|$", table, re.MULTILINE)
    assert len(files) >= 20
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_what_implements_the_paper_exists() -> None:
    text = (DOCS / "paper_and_code.md").read_text(encoding="utf-8")
    names = re.findall(r"`((?:encoders|glimpse_env|agents|experiments)\.[\w.]+)`", text)
    assert len(names) > 30
    assert [name for name in names if not exists(name)] == []


def test_the_names_that_modules_have_now_exist() -> None:
    text = (DOCS / "migration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `.+` \| (.+) \|$", text, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 12
    assert [name for name in names if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_environment_id_has_a_page() -> None:
    pages = environment_pages()
    assert set(pages) == {
        "environments/DogsGlimpse-v0.md",
        "environments/SyntheticDogsGlimpse-v0.md",
        "environments/DogsLook-v0.md",
        "environments/SyntheticDogsLook-v0.md",
        "environments/SyntheticDogsLocate-v0.md",
    }
    for text in pages.values():
        for heading in ("Action space", "Observation space", "Rewards", "Errors", "Versions"):
            assert f"## {heading}\n" in text


def test_the_leaderboard_is_made_of_its_entries(tmp_path: Path) -> None:
    from experiments.tracks.entries import read_entries
    from experiments.tracks.registry import TRACKS

    text = leaderboard_page(tmp_path)
    assert all(f"## {track.title}\n" in text for track in TRACKS.values() if track.game == "look")
    assert text.count("No entry yet.") == 4
    text = leaderboard_page()
    for entry in read_entries():
        value = entry["estimates"]["information"]["value"]
        assert f"{value:.3f}" in text and f"| {entry['player']}" in text


@pytest.mark.parametrize("name", ["CITATION.cff", *(f"{p}/py.typed" for p in PACKAGES)])
def test_a_file_that_tools_look_for_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_hooks_find_their_tools_without_a_fixed_environment() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert ".venv/bin" not in text
    commands = re.findall(r"entry: (\S+) (\S+)", text)
    assert {tool for _, tool in commands} == {"ruff", "pyright"}
    for script, _ in commands:
        # As activated: another environment that is active around the tests may lack the tools.
        found = run_command(
            [sys.executable, ROOT / script, "ruff", "--version"],
            env={**os.environ, "VIRTUAL_ENV": sys.prefix},
        )
        assert found.returncode == 0 and found.stdout.startswith("ruff"), found.stderr


def test_the_tests_that_reliability_names_exist() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    cells = re.findall(r"`((?:tests/|test_)[\w/]+(?:\.py)?(?:::\w+)?/?)`", text)
    files = [each for each in (ROOT / "tests").rglob("*") if each.suffix == ".py" or each.is_dir()]
    text = "\n".join(each.read_text(encoding="utf-8") for each in files if each.is_file())
    missing = []
    for cell in cells:
        name, _, test = cell.partition("::")
        if not test and not name.endswith((".py", "/")):  # a test of the file named before it
            name, test = "", name
        found = any(each.as_posix().endswith("/" + name.rstrip("/")) for each in files)
        if name and not found or test and f"def {test}(" not in text:
            missing.append(cell)
    assert len(cells) > 50 and not missing


def test_workflows_run_files_that_exist() -> None:
    text = "".join(each.read_text() for each in (ROOT / ".github" / "workflows").iterdir())
    files = re.findall(r"(?:\.ci|tests)/[\w/.]+", text)
    assert len(files) >= 4
    assert [file for file in files if not (ROOT / file).exists()] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"run: make ([a-z-]+)", text)) <= set(targets)
