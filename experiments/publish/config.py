"""Options of `glimpse publish`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True)
class PublishConfig:
    """Write a finished run's agent as a folder that `from_pretrained` and the hub take.

    Weights (safetensors) and JSON only, without the optimiser and without paths of this machine,
    and a model card written from the run's record.
    """

    run: Positional[Path]
    """Run folder of `glimpse train`."""
    out: Path | None = None
    """Folder to write (default: published/NAME of the run)."""
    license: str | None = None
    """Identifier of the weights' licence, such as mit or cc-by-nc-4.0 (default for synthetic dogs:
    mit; else it must be said)."""
    title: str | None = None
    """Heading of the card (default: from the run)."""
    half: bool = False
    """Keep the weights in 16 bits, half as large."""
    push: str | None = None
    """Upload to this repository of the Hugging Face hub, owner/name."""
    private: bool | None = None
    """Whether a repository that is made is private (default: as your account says)."""

    def __post_init__(self) -> None:
        """Check before anything is written.

        Raises:
            ValueError: naming the option.
        """
        if self.license is not None and not _LICENCE.fullmatch(self.license):
            raise ValueError(f"--license is an identifier such as mit, not {self.license!r}")
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise ValueError(f"--push is a repository, owner/name, not {self.push!r}")
        if self.title is not None and not self.title.isprintable():
            raise ValueError("--title is one line of text")
