"""`glimpse play`: serve the task for people, beside an agent on the same images."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from agents.pretrained import SHIPPED
from experiments.data import DataConfig, build_dataset
from experiments.play.game import Game, OwnImages, Player
from experiments.play.server import Served, bind, make_server, require_web
from experiments.play.store import Store
from experiments.runtime.hub_runs import is_published, local_run
from experiments.runtime.runs import RunError, load_config, to_record
from experiments.train.cells import model_title
from experiments.train.config import Resolution, TrainConfig
from experiments.train.playback import open_run

_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class PlayConfig:
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
    """Which images to play on --alone; against an agent --data-dir says where its own are."""
    resolutions: tuple[Resolution, ...] = ("high",)
    """Patches of a look --alone."""
    num_glimpses: int = 2
    """Looks before the answer --alone."""
    host: str = "127.0.0.1"
    """Address to serve on; with another than this machine's own, say --allow-host too."""
    port: int = 8765
    """Port to serve on; 0 takes any that is free."""
    allow_host: tuple[str, ...] = ()
    """Further names that browsers may call this server by."""
    keep_days: float = 7.0
    """How long a person can go on with a session; its record stays."""
    max_sessions: int = 1000
    """Records that --out may hold; a further session is refused."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        for name in ("num_glimpses", "max_sessions"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is at least 1, not {getattr(self, name)}")
        if not 0 <= self.port < 65536:
            raise ValueError(f"--port lies in [0, 65535], not {self.port}")
        if not 0 < self.keep_days <= 366:
            raise ValueError(f"--keep-days is above 0 and at most 366, not {self.keep_days}")
        if self.alone and (self.run is not None or self.image):
            raise ValueError("--alone takes neither a run nor --image: leave it out, or them")
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


def play(config: PlayConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        RunError: No run, no checkpoint, another data set's run, a port in use, or a missing extra.
    """
    require_web()
    taken = bind(config.host, config.port)
    try:
        served = prepare(config)
        server = make_server(served, taken)
        address = f"http://{config.host}:{taken.getsockname()[1]}/"
        print(f"{served.title}\nopen {address} in a browser; Ctrl-C ends it")
        print(
            f"sessions are kept in {config.out}: at most {config.max_sessions}, each to be taken "
            f"up again for {config.keep_days:g} days",
            flush=True,
        )
        server.run(sockets=[taken])
    finally:
        taken.close()


def prepare(config: PlayConfig) -> Served:
    """Open images, agent and records.

    Raises:
        RunError: As `play` does.
    """
    game, title, about = _alone(config) if config.alone else _against(config)
    header: dict[str, Any] = {
        **about,
        "title": title,
        "split": game.dataset.split,
        "fingerprint": game.dataset.fingerprint,
        "images": len(game.dataset),
        "resolutions": list(game.resolutions),
        "num_glimpses": game.rules.num_glimpses,
        "num_classes": game.rules.num_classes,
        "truth_known": game.truth_known,
    }
    store = Store(
        config.out, game.rules, header, keep_seconds=86400 * config.keep_days,
        max_sessions=config.max_sessions,
    )  # fmt: skip
    return Served(game, store, title, (*_LOOPBACK, config.host, *config.allow_host))


def _alone(config: PlayConfig) -> tuple[Game, str, dict[str, Any]]:
    dataset = build_dataset(config.data, config.split)
    title = model_title(config.resolutions, config.num_glimpses)
    about = {"run": None, "data": to_record(config.data)}
    return Game(dataset, config.resolutions, config.num_glimpses), title, about


def _against(config: PlayConfig) -> tuple[Game, str, dict[str, Any]]:
    if config.run is None and not SHIPPED:
        raise RunError("name a run of `glimpse train` to play against, or play --alone")
    asked = config.run or Path(next(iter(SHIPPED)))
    own = None
    if config.image:
        settings = load_config(TrainConfig, local_run(asked))
        names = build_dataset(_moved(settings.data, config.data.data_dir), config.split).class_names
        own = OwnImages(config.image, names)
    run = open_run(
        asked, config.split, bank=config.bank, live=config.live, data_dir=config.data.data_dir,
        num_images=1, dataset=own,
    )  # fmt: skip
    # A path of this machine is nothing for the people who play.
    name = run.name if is_published(asked) else "/".join(asked.resolve().parts[-2:])
    title = f"{run.title}, against {name}"
    about = {"run": run.name, "data": to_record(run.config.data)}
    game = Game(
        run.dataset, run.resolutions, run.config.num_glimpses, player=Player(run),
        truth_known=own is None,
    )  # fmt: skip
    return game, title, about


def _moved(data: DataConfig, data_dir: Path | None) -> DataConfig:
    return data if data_dir is None else replace(data, data_dir=data_dir)
