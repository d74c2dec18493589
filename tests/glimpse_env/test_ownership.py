"""A folder or distribution that hides one of this project's packages is named, with the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.children import run_command

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("encoders", "glimpse_env", "agents", "experiments")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder like that of an environment: the packages as links, so that they look installed."""
    folder = tmp_path / "lib" / "site-packages"
    folder.mkdir(parents=True)
    for name in PACKAGES:
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    return folder


def own(folder: Path, name: str, text: str = "") -> Path:
    """Somebody's own package."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return folder / name


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code with the dependencies, but without what an editable install adds to imports."""
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, path), *folders])}
    command = [sys.executable, "-S", "-c", code]
    return run_command(command, cwd=path[0], env=environment)


def last_line(found: subprocess.CompletedProcess[str]) -> str:
    assert found.returncode != 0 and found.stderr, found.stdout
    return found.stderr.strip().splitlines()[-1]


def said(line: str, name: str, where: Path) -> None:
    assert f"{name!r} is taken from {where}" in line, line
    assert "hides glimpse-env's package" in line and "rename that folder" in line, line


def test_every_package_has_the_mark() -> None:
    for name in PACKAGES:
        assert __import__(name).__distribution__ == "glimpse-env"


@pytest.mark.parametrize("text", ["", "import not_installed_anywhere", "1 / 0"])
def test_the_environment_names_the_encoders_that_are_not_ours(
    tmp_path: Path, site: Path, text: str
) -> None:
    theirs = own(tmp_path / "project", "encoders", text)
    line = last_line(run("import glimpse_env", theirs.parent, site))
    assert "ShadowedPackageError" in line
    said(line, "encoders", theirs)


@pytest.mark.parametrize("name", ["agents", "encoders"])
def test_the_commands_name_it(tmp_path: Path, site: Path, name: str) -> None:
    theirs = own(tmp_path / "project", name, "raise RuntimeError('theirs')")
    said(last_line(run("import experiments.cli", theirs.parent, site)), name, theirs)


@pytest.mark.parametrize("name", ["agents", "encoders", "experiments"])
def test_the_console_entry_says_it_in_one_sentence(tmp_path: Path, site: Path, name: str) -> None:
    theirs = own(tmp_path / "project", name)
    code = "import sys; from glimpse_env.command import main; sys.exit(main())"
    found = run(code, theirs.parent, site)
    if name != "encoders":  # without these nothing of the environment loads
        assert found.returncode == 1 and len(found.stderr.splitlines()) == 1, found.stderr
        assert found.stderr.startswith("glimpse: ")
    said(last_line(found), name, theirs)


@pytest.mark.parametrize("name", ["agents.policy", "agents.sb3", "experiments.data"])
def test_an_import_of_what_is_hidden_explains_itself(tmp_path: Path, site: Path, name: str) -> None:
    theirs = own(tmp_path / "project", name.split(".")[0])
    code = f"import glimpse_env\nimport {name}"
    said(last_line(run(code, theirs.parent, site)), name.split(".")[0], theirs)
    # What is in neither package is nobody's fault but the caller's.
    line = last_line(run(f"import glimpse_env\nimport {name}_nowhere", theirs.parent, site))
    assert line.startswith("ModuleNotFoundError: No module named") and "hides" not in line


def test_ones_own_packages_and_the_environment_live_side_by_side(
    tmp_path: Path, site: Path
) -> None:
    own(tmp_path / "project", "agents", "mine = 1")
    own(tmp_path / "project", "experiments", "mine = 2")
    code = (
        "import gymnasium, glimpse_env, agents, experiments\n"
        "gymnasium.spec('SyntheticDogsGlimpse-v0')\n"
        "try: import agents.optional_part\n"
        "except ImportError: print(agents.mine + experiments.mine)"
    )
    found = run(code, tmp_path / "project", site)
    assert found.returncode == 0 and found.stdout.strip() == "3", found.stderr


def test_a_distribution_that_overwrites_ours_is_named(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "site-packages"
    site.mkdir(parents=True)
    for name in ("encoders", "glimpse_env", "experiments"):
        # Copied in part: where the environment lies decides what belongs together.
        own(site, name, (ROOT / name / "__init__.py").read_text())
    (site / "glimpse_env" / "ownership.py").write_text(
        (ROOT / "glimpse_env" / "ownership.py").read_text()
    )
    own(site, "agents", "import openai_of_another")
    metadata = site / "openai_agents-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: openai-agents\nVersion: 0.1\n")
    (metadata / "top_level.txt").write_text("agents\n")
    (metadata / "RECORD").write_text("agents/__init__.py,,\n")
    line = last_line(run("import experiments", site))
    assert "'agents' is taken from" in line and str(site / "agents") in line
    assert "belongs to openai-agents: install glimpse-env and openai-agents in virtual" in line


def test_a_dependency_that_is_absent_is_still_said_to_be(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("encoders", "glimpse_env"):
        own(site, name, (ROOT / name / "__init__.py").read_text())
    (site / "glimpse_env" / "ownership.py").write_text(
        (ROOT / "glimpse_env" / "ownership.py").read_text()
    )
    with open(site / "encoders" / "__init__.py", "a") as file:
        file.write("\nimport a_dependency\n")
    assert last_line(run("import glimpse_env", site)).endswith("No module named 'a_dependency'")
