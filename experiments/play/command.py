"""`glimpse play`: serve the task for people, beside an agent on the same images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.pretrained import SHIPPED
from experiments.data import DataConfig, build_dataset
from experiments.play.config import PlayConfig
from experiments.play.game import Game, OwnImages, Player
from experiments.play.server import Served, bind, make_server, require_web
from experiments.play.store import Store
from experiments.runtime.hub_runs import is_published, local_run
from experiments.runtime.runs import load_config, to_record
from experiments.train.config import TrainConfig
from experiments.train.playback import open_run
from experiments.train.table1_cells import model_title
from glimpse_env.pyramids.pyramid import PATCH_SIDE

_LOOPBACK = ("127.0.0.1", "localhost")


def play(config: PlayConfig) -> None:
    """Serve the task in a browser until Ctrl-C.

    Raises:
        RunError: No run, no checkpoint, another data set's run, a port in use, or a missing extra.
    """
    require_web()
    taken = bind(config.host, config.port)
    try:
        served = prepare(config)
        server = make_server(served, taken)
        address = f"http://{_in_addresses(config.host)}:{taken.getsockname()[1]}/"
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
    if game.patch_side != PATCH_SIDE:  # records of 96 pixels are as they always were
        header["patch_side"] = game.patch_side
    store = Store(
        config.out,
        game.rules,
        header,
        keep_seconds=86400 * config.keep_days,
        max_sessions=config.max_sessions,
    )
    hosts = (*_LOOPBACK, *map(_in_addresses, (config.host, *config.allow_host)))
    return Served(game, store, title, hosts)


def _in_addresses(host: str) -> str:
    """A name as browsers send it: in lower case, a number of IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host.lower()


def _alone(config: PlayConfig) -> tuple[Game, str, dict[str, Any]]:
    dataset = build_dataset(config.data, config.split)
    title = model_title(config.resolutions, config.num_glimpses)
    about = {"run": None, "data": to_record(config.data)}
    game = Game(dataset, config.resolutions, config.num_glimpses, patch_side=config.patch_side)
    return game, title, about


def _against(config: PlayConfig) -> tuple[Game, str, dict[str, Any]]:
    asked = config.run or Path(next(iter(SHIPPED)))
    own = None
    if config.image:
        settings = load_config(TrainConfig, local_run(asked))
        names = build_dataset(_moved(settings.data, config.data.data_dir), config.split).class_names
        own = OwnImages(config.image, names)
    run = open_run(
        asked,
        config.split,
        bank=config.bank,
        live=config.live,
        data_dir=config.data.data_dir,
        num_images=1,
        dataset=own,
    )
    # A path of this machine is nothing for the people who play.
    name = run.name if is_published(asked) else "/".join(asked.resolve().parts[-2:])
    title = f"{run.title}, against {name}"
    about = {"run": run.name, "data": to_record(run.config.data)}
    game = Game(
        run.dataset,
        run.resolutions,
        run.config.num_glimpses,
        patch_side=run.config.patch_side,
        player=Player(run),
        truth_known=own is None,
    )
    return game, title, about


def _moved(data: DataConfig, data_dir: Path | None) -> DataConfig:
    return data if data_dir is None else replace(data, data_dir=data_dir)
