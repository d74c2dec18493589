"""Notice when a folder or a distribution of the same name stands in for a package of this project.

`agents`, `encoders` and `experiments` are names that others use too: a project may have folders
called so, and `openai-agents` installs an `agents` of its own. Without a check, errors would name
neither side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

DISTRIBUTION = "glimpse-env"
"""What `__distribution__` of each of this project's packages says."""

_SHARED_NAMES = ("agents", "encoders", "experiments")
_HOME = Path(__file__).resolve().parents[1]


class ShadowedPackageError(ModuleNotFoundError):
    """A package of this project is hidden by another of its name."""


def require_own(*names: str) -> None:
    """Make sure that packages are this project's.

    Args:
        names: Of the packages.

    Raises:
        ShadowedPackageError: One of them is not; the message names its path and the remedy.
    """
    for name in names:
        try:
            package = import_module(name)
        except Exception as error:
            if _is_own_source(name):  # a fault of our own, or a dependency that is absent
                raise
            raise ShadowedPackageError(_explain(name), name=name) from error
        if not _is_own(package):
            raise ShadowedPackageError(_explain(name), name=name)


def _is_own(package: ModuleType) -> bool:
    return getattr(package, "__distribution__", None) == DISTRIBUTION


def _is_own_source(name: str) -> bool:
    """Return whether a package's first file carries the mark, for one that fails to load."""
    try:
        text = Path(_origin(name)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return f'__distribution__ = "{DISTRIBUTION}"' in text


def _origin(name: str) -> str:
    """Path of a package, as far as it is known."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return "nowhere"
    folders = spec.submodule_search_locations
    return spec.origin or (next(iter(folders), "nowhere") if folders else "nowhere")


def _explain(name: str) -> str:
    origin = _origin(name)
    owners = sorted(set(packages_distributions().get(name, [])) - {DISTRIBUTION})
    if origin == "nowhere":
        return f"the package {name!r} of {DISTRIBUTION} is absent: install {DISTRIBUTION} again"
    inside = Path(origin).resolve().parent.parent == _HOME
    if owners and (inside or "-packages" in origin):
        remedy = (
            f"it belongs to {' and '.join(owners)}: install {DISTRIBUTION} and "
            f"{' and '.join(owners)} in virtual environments of their own"
        )
    else:
        remedy = (
            "rename that folder, or run from another one and leave it out of PYTHONPATH, or move "
            f"it into a package of yours (`yourproject.{name}`)"
        )
    return f"{name!r} is taken from {origin}, which hides {DISTRIBUTION}'s package: {remedy}"


class _Explainer:
    """Last on `sys.meta_path`: what nobody found is looked at for a package that hides ours."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        """Find nothing, and say so if that is because of a package of the same name.

        Raises:
            ShadowedPackageError: A module of ours is asked for, of a package that is not ours.
        """
        top, _, rest = name.partition(".")
        if top not in _SHARED_NAMES or not rest or _is_own(sys.modules[top]):
            return
        ours = _HOME.joinpath(top, *rest.split("."))
        if ours.is_dir() or ours.with_suffix(".py").is_file():
            raise ShadowedPackageError(_explain(top), name=name)


def explain_shadowed_imports() -> None:
    """Have imports of hidden modules (`agents.policy`, say) fail with an explanation."""
    if not any(type(finder).__name__ == _Explainer.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_Explainer())  # type: ignore[arg-type]
