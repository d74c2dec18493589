"""The arrows between the packages hold, files stay small, and nothing of one machine is in them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest itself brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("encoders", "glimpse_env", "agents", "experiments")
MAY_IMPORT = {
    "encoders": set(),
    "glimpse_env": {"encoders"},
    "agents": set(),
    "experiments": {"encoders", "glimpse_env", "agents"},
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows(package: str) -> None:
    for path in sources(package):
        wrong = imported_packages(path) & set(PACKAGES) - {package} - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_library_code_never_imports_tests() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert "tests" not in imported_packages(path), path


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_near_400_lines(package: str) -> None:
    for path in sources(package):
        assert len(path.read_text().splitlines()) <= 450, path


def test_every_package_is_listed_for_installation() -> None:
    """`agents` is also another distribution's name, so packages are listed and not discovered."""
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found


def test_top_level_is_what_the_owner_fixed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in tracked.stdout.splitlines() if "/" in name}
    assert {f for f in folders if not f.startswith(".")} == {*PACKAGES, "tests"}


def test_importing_the_environment_is_light() -> None:
    """Registration needs neither torch nor the network (specs hold strings only)."""
    code = "import sys, glimpse_env; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
