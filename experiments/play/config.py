"""Options of `glimpse play`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval
from tyro.conf import OmitArgPrefixes, Positional

from agents.checked import Count
from experiments.data import DataConfig, Options, PatchSide, Resolution


@dataclass(frozen=True)
class PlayConfig(Options):
    """Play the task in a browser: look at a blurred image, then name the breed, against an agent.

    Sessions are kept in --out as JSON lines, which `glimpse attention` reads like an agent's run.
    """

    run: Positional[Path | None] = None
    """Whom to play against: a run of `glimpse train`, `hf://owner/name`, or a shipped agent
    (default: the shipped one)."""
    alone: bool = False
    """Play without an agent, on the data set that the options name."""
    out: Path = Path("play")
    """Folder of the sessions' records."""
    split: Literal["train", "val", "trainval", "test"] = "val"
    """Images to play on."""
    image: tuple[Path, ...] = ()
    """Images of your own instead; the agent's breeds are to choose from, and nobody knows the
    truth."""
    bank: Path | None = None
    """Folder of other banks than the run's own."""
    live: bool = False
    """Have the agent look by the live encoder although its run was trained from a bank."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=lambda: DataConfig("synthetic"))
    """Which images to play on with --alone; against an agent --data-dir says where its own are."""
    resolutions: tuple[Resolution, ...] = ("high",)
    """Patches of a look, with --alone."""
    patch_side: PatchSide = 96
    """P, side of a patch in pixels, with --alone."""
    num_glimpses: Count = 2
    """Looks before the answer, with --alone."""
    host: str = "127.0.0.1"
    """Address to serve on; with another than this machine's own, say --allow-host too."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 8765
    """Port to serve on; 0 takes any that is free."""
    allow_host: tuple[str, ...] = ()
    """Further names that browsers may call this server by."""
    keep_days: Annotated[float, Interval(gt=0, le=366)] = 7.0
    """How long a person can go on with a session; its record stays."""
    max_sessions: Count = 1000
    """Records that --out may hold; a further session is refused."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        if self.alone and (self.run is not None or self.image):
            raise ValueError("--alone takes neither a run nor --image: leave it out, or them")
        if any("*" in name for name in self.allow_host):
            raise ValueError(
                "--allow-host names each host: under '*' any page on the web could have its own "
                "name lead to this machine, and play here in a visitor's name"
            )
        if not _is_loopback(self.host) and not self.allow_host:
            raise ValueError(
                f"--host {self.host} is open to other machines: name by --allow-host what their "
                "browsers call this one"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
