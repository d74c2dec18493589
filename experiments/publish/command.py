"""`glimpse publish`: write a run's agent as a folder for others, and upload it if asked to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.pretrained import upload
from agents.reinforce import ReinforceAgent
from agents.tensor_store import RECORD
from encoders.spec import spec_names
from experiments.publish.card import Facts, write_card
from experiments.publish.config import PublishConfig
from experiments.runtime.runs import (
    RunError,
    load_config,
    read_json,
    to_record,
    write_json,
    write_whole,
)
from experiments.train.config import TrainConfig
from experiments.train.table1_cells import model_title
from glimpse_env.datasets.registry import dataset_names
from glimpse_env.pyramids.storage import STORAGES


def publish(config: PublishConfig, *, again: str | None = None) -> Path:
    """Write the folder; returns it.

    Args:
        config: What to publish.
        again: The command that makes the agent again, if it is another than the run's own.

    Raises:
        RunError: No run, none that is evaluated, or one that cannot be published.
        CheckpointError: No checkpoint, or a damaged one.
        PretrainedError: It cannot be uploaded.
    """
    run = load_config(TrainConfig, config.run)
    licence = _check(config, run)
    agent = ReinforceAgent.load(config.run / "checkpoint", device="cpu")
    environment = without_paths(
        read_json(config.run / "environment.json", "restore it from a copy, or train it again")
    )
    evaluations = {
        path.name: read_json(path, "evaluate the run again with `glimpse evaluate`")
        for path in sorted(config.run.glob("evaluation-*.json"))
    }
    if not evaluations:
        raise RunError(
            f"{config.run} has no evaluation, and a card without results helps nobody: run "
            f"`glimpse evaluate --run {config.run}`"
        )
    out = config.out or Path("published") / config.run.resolve().name
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out} is not empty: give another --out, or remove it")
    agent.save_pretrained(out, half=config.half)
    write_json(out / "config.json", to_record(for_others(run)))
    write_json(out / "environment.json", environment)
    for name, evaluation in evaluations.items():
        write_json(out / name, evaluation)
    title = model_title(run.resolutions, run.num_glimpses)
    facts = Facts(
        title=config.title or f"Where to look: {title}",
        name=config.push or out.name,
        licence=licence,
        config=run,
        environment=environment,
        evaluations=evaluations,
        weights=_weights(out, agent, half=config.half),
        epoch=agent.epoch,
        again=again,
    )
    write_whole(out / "README.md", write_card(facts).encode())
    print(f"written: {out} (model card: {out / 'README.md'})")
    if config.push is not None:
        name = upload(out, config.push, private=config.private)
        print(f"uploaded: {name}")
    return out


def _check(config: PublishConfig, run: TrainConfig) -> str:
    """The licence, if the run can be published."""
    if run.policy != "two-deck":
        raise RunError(
            f"{config.run} trained the policy {run.policy!r}: its weights mean nothing without its "
            "code, so publish both yourself"
        )
    if run.encoder not in spec_names():
        raise RunError(
            f"{config.run} stands on an encoder of your own, {run.encoder}: others have no file of "
            "that name, so train it on a registered one to publish it"
        )
    if run.data.dataset not in dataset_names():
        raise RunError(
            f"{config.run} learned from a data set of your own, {run.data.dataset}: others have no "
            "code of that name, so publish both yourself"
        )
    if config.license is None and run.data.dataset != "synthetic":
        raise RunError(
            "name the weights' licence by --license: those trained on photographs may be bound by "
            "the terms of these"
        )
    return config.license or "mit"


def for_others(run: TrainConfig) -> TrainConfig:
    """A run's settings without what is of one machine or stays behind; features come live."""
    storage = run.storage if run.storage in STORAGES else "auto"
    data = replace(run.data, data_dir=None)
    return replace(
        run,
        out=Path("run"),
        bank=None,
        data=data,
        storage=storage,
        logger=None,
        device="auto",
        resume=False,
        references=False,
    )


def without_paths(environment: dict[str, Any]) -> dict[str, Any]:
    """A run's environment.json, absolute paths in its command cut to their last part."""
    command = [_without_path(part) for part in environment.get("command") or []]
    return {**environment, "command": command}


def _without_path(part: str) -> str:
    """A word of a command line, `--option=PATH` too, with an absolute path cut."""
    flag, equals, value = part.partition("=") if part.startswith("-") else ("", "", part)
    return f"{flag}{equals}{Path(value).name if Path(value).is_absolute() else value}"


def _weights(out: Path, agent: ReinforceAgent, *, half: bool) -> dict[str, Any]:
    record = json.loads((out / "checkpoint" / RECORD).read_text(encoding="utf-8"))
    return {
        "file": f"checkpoint/{record['weights']}",
        "sha256": record["sha256"],
        "bytes": (out / "checkpoint" / record["weights"]).stat().st_size,
        "parameters": sum(each.numel() for each in agent.network.parameters()),
        "dtype": "16 bits" if half else "32 bits",
    }
