"""Where a run's numbers go besides its folder: `--logger wandb`, or anybody's `module:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """Takes the numbers of a run; a class is called with its folder and its settings."""

    def log(self, values: Mapping[str, float]) -> None:
        """Take the numbers of an epoch: `epoch`, and the others as `AGENT/NAME`."""
        ...

    def close(self) -> None:
        """End, whether or not the run came to its end."""
        ...


class WandbLogger:
    """Weights & Biases, for whoever has it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Begin a run of wandb, or go on with the one of this folder.

        Raises:
            ValueError: wandb is not installed.
        """
        try:
            wandb: Any = import_module("wandb")
        except ImportError as error:
            raise ValueError(
                '--logger wandb needs wandb: pip install "glimpse-env[wandb]"'
            ) from error
        self._run: Any = wandb.init(
            dir=str(folder), name=folder.name, id=_identity(folder), resume="allow", config=settings
        )
        self.log, self.close = self._run.log, self._run.finish


def _identity(folder: Path) -> str:
    """Name a folder's run, so that what is resumed goes on in one curve."""
    import secrets

    path = folder / "wandb-id.txt"
    if not path.is_file():
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


class _Nowhere:
    """The logger of a run that asks for none."""

    def log(self, values: Mapping[str, float]) -> None:
        """Take nothing in."""

    def close(self) -> None:
        """Take nothing in."""


def open_logger(name: str | None, folder: Path, settings: Mapping[str, Any]) -> Logger:
    """Make a run's logger.

    Args:
        name: `wandb`, `module:Class`, or None.
        folder: Of the run.
        settings: Of the run, as JSON holds them.

    Raises:
        ValueError: There is no such logger, or it is not installed.
    """
    if name is None:
        return _Nowhere()
    if name == "wandb":
        return WandbLogger(folder, settings)
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"there is no logger {name!r}: give 'wandb' or 'module:Class'")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"logger {name!r}: {error}") from error
    made = found(folder, settings)
    missing = [each for each in ("log", "close") if not callable(getattr(made, each, None))]
    if missing:
        raise ValueError(f"logger {name!r} has no method {' and no method '.join(missing)}")
    return made
