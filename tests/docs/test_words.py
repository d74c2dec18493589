"""Docstrings and words: public names have examples that run, first lines make sense alone."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, written_pages

PACKAGES = ("encoders", "glimpse_env", "agents", "experiments")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

# What the environment builds, not its users.
BUILT_BY_THE_ENVIRONMENT = {
    "BankObserver",
    "Gaze",
    "LiveObserver",
    "Observer",
    "PatchSource",
    "RecurrentObserver",
    "make_observer",
    "MappedPyramids",
    "open_mapped",
    "choose_storage",
    "Window",
    "Classifier",
}

# Old names that are still read.
MAY_SAY_PICTURE = {
    "experiments/runtime/old_names.py",
    "experiments/prepare/dedup.py",
    "docs/migration.md",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def documented(path: Path) -> Iterator[tuple[str, str]]:
    """Every class and function of a module that has a docstring, private ones too."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                text = ast.get_docstring(child)
                if text:
                    yield prefix + child.name, text
                yield from walk(child, f"{prefix}{child.name}.")

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "")


def public_definitions() -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """Functions and classes that a package exports by its stub, by `package.name`."""
    found = {}
    for package in PACKAGES:
        for stub in (ROOT / package).rglob("__init__.pyi"):
            for node in ast.parse(stub.read_text(encoding="utf-8")).body:
                if not isinstance(node, ast.ImportFrom) or not node.module:
                    continue
                place = stub.parent.joinpath(*node.module.split("."))
                source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                names = {alias.name for alias in node.names}
                for each in ast.parse(source.read_text(encoding="utf-8")).body:
                    if isinstance(each, (ast.FunctionDef, ast.ClassDef)) and each.name in names:
                        found[f"{relative(stub.parent).replace('/', '.')}.{each.name}"] = each
    return found


def test_public_names_have_examples() -> None:
    definitions = public_definitions()
    assert len(definitions) > 40
    missing = [
        name
        for name, node in definitions.items()
        if name.rpartition(".")[2] not in BUILT_BY_THE_ENVIRONMENT
        and not name.endswith("Error")
        and ">>>" not in (ast.get_docstring(node) or "")
    ]
    assert not missing


def test_public_functions_describe_arguments_and_results() -> None:
    missing = []
    for name, node in public_definitions().items():
        if not isinstance(node, ast.FunctionDef):
            continue
        text, arguments = ast.get_docstring(node) or "", node.args
        if (arguments.args or arguments.kwonlyargs) and "Args:" not in text:
            missing.append(f"{name}: Args")
        if "Returns:" not in text and ast.unparse(node.returns or ast.Constant(None)) != "None":
            missing.append(f"{name}: Returns")
    assert not missing


WITH_EXAMPLES = [
    path
    for path in SOURCES
    if "examples" not in path.parts and ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=relative)
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    module = importlib.import_module(relative(path).removesuffix(".py").replace("/", "."))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not result.failed


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_first_lines_make_sense_alone(path: Path) -> None:
    """A first line opens with a verb or a noun and says more than its name does."""
    opening = {"Of", "On", "At", "Its", "Where", "What", "Who", "Nobody"}
    vague = {
        name: line
        for name, line in ((name, text.splitlines()[0]) for name, text in documented(path))
        if line.split()[0] in opening or len(line.split()) < 3
    }
    assert not vague


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_descriptions_of_fields_make_sense_alone(path: Path) -> None:
    vague = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = node.body if isinstance(node, ast.ClassDef) else []
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                value = ast.literal_eval(text.value)
                if re.match(r"(Of|On|At) ", value) or len(value.split()) < 2:
                    vague.append(f"{node.name}.{ast.unparse(field.target)}: {value}")
    assert not vague


def test_images_are_called_images() -> None:
    pages = [*SOURCES, *written_pages()]
    wrong = [
        relative(page)
        for page in pages
        if relative(page) not in MAY_SAY_PICTURE
        and re.search("picture", page.read_text(encoding="utf-8"), re.IGNORECASE)
    ]
    assert not wrong
