"""Where the command `glimpse` begins: in the one package whose name nobody else has."""

from __future__ import annotations

from importlib import import_module

from glimpse_env.ownership import ShadowedPackageError, require_own


def main() -> int:
    """Run `experiments.cli.main`, or say which folder hides a package of this project.

    Returns:
        The exit status.
    """
    try:
        require_own("experiments", "agents", "encoders")
    except ShadowedPackageError as error:
        import sys

        print(f"glimpse: {error}", file=sys.stderr)
        return 1
    return import_module("experiments.cli").main()
