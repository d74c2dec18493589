"""The versions of the dependencies: the lowest that pyproject.toml allows, and those found here.

    python .ci/versions.py lowest       the lowest, as pip's constraints
    python .ci/versions.py installed    those of the environment that runs this, on one line

The numbers stand in pyproject.toml only. What the dependencies bring is left to pip.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings tomli there
    import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
# Of the tools, only what takes part in running a test: the others say what they find, not whether
# the library works.
TOOLS = ("beartype", "hypothesis", "pytest")


def requirements() -> list[Requirement]:
    """What the library and its tests need on this interpreter."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    needed = [Requirement(each) for each in project["dependencies"]]
    tools = [Requirement(each) for each in project["optional-dependencies"]["dev"]]
    needed += [each for each in tools if each.name in TOOLS]
    return [each for each in needed if each.marker is None or each.marker.evaluate()]


def lowest(requirement: Requirement) -> str:
    """The lowest version that a requirement allows.

    Raises:
        ValueError: It has no lower bound, or more than one.
    """
    bounds = [each.version for each in requirement.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} needs one lower bound, `>=`")
    return bounds[0]


if __name__ == "__main__":
    if sys.argv[1:] == ["lowest"]:
        print("\n".join(f"{each.name}=={lowest(each)}" for each in requirements()))
    elif sys.argv[1:] == ["installed"]:
        found = ", ".join(f"{each.name} {version(each.name)}" for each in requirements())
        print(f"Python {sys.version.split()[0]}, {found}")
    else:
        sys.exit(__doc__)
