"""Runs that come trained, for the commands that take `--run`: a shipped name or `hf://owner/name`.

A published agent's folder reads like a run. One from the hub was written by strangers: its record
may name neither code to import nor a path of this machine, and is refused if it does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agents.pretrained import SHIPPED, Found, find_pretrained
from encoders.spec import spec_names
from experiments.runtime.runs import RunError, read_json
from glimpse_env.datasets.registry import dataset_names

_NEITHER_PATHS_NOR_CODE: dict[str, tuple[Any, ...]] = {
    "policy": ("two-deck",),
    "policy_options": ({}, None),
    "bank": (None,),
    "logger": (None,),
    "storage": ("auto", "device", "host", "demand"),
}
"""Settings of config.json that may hold nothing but this; absent they have these defaults."""


def local_run(run: Path) -> Path:
    """Return a run's folder on this machine; an agent on the hub is fetched first.

    Args:
        run: A folder, which is returned as it is; a shipped name; or `hf://owner/name`, with
            `@revision` appended if you like.

    Raises:
        PretrainedError: The hub has no such agent, or is not reached.
        RunError: It was published without its run's record, or the record asks for more than data.
    """
    return _found(str(run)).folder if is_published(run) else run


def run_name(run: Path) -> str:
    """Name a run in records: by its path, or its name on the hub with the commit."""
    return _found(str(run)).name if is_published(run) else str(run)


@cache
def _found(name: str) -> Found:
    """Find a published agent, once in a process: it stays the same commit."""
    found = find_pretrained(name)
    if found.remote:
        print(f"agent: {found.name}")
        check_harmless(found.folder, found.name)
    return found


def is_published(run: Path) -> bool:
    """Return whether a run is a shipped name or an address of the hub, and no folder."""
    return bool(re.match("hf:/", str(run))) or (str(run) in SHIPPED and not run.exists())


def results_folder(run: Path) -> Path:
    """Return where results about a run go: its folder, or one beside if it came trained.

    Neither the hub's cache nor an installed package is a place to write to.
    """
    if not is_published(run):
        return run
    return Path("published") / re.sub(r"[^\w.-]+", "-", str(run).removeprefix("hf:").strip("/"))


def check_harmless(folder: Path, name: str) -> None:
    """Refuse a record that would import code or open paths of this machine.

    Args:
        folder: Of a published agent.
        name: What it goes by.

    Raises:
        RunError: It does, or there is no record.
    """
    if not (folder / "config.json").is_file():
        raise RunError(
            f"{name} was published without the record of its run (no config.json): load it with "
            "ReinforceAgent.from_pretrained, or have it published by `glimpse publish`"
        )
    record = read_json(folder / "config.json", f"{name} is damaged: ask who published it")
    data = record.get("data")
    wrong = [
        key
        for key, allowed in _NEITHER_PATHS_NOR_CODE.items()
        if record.get(key, allowed[0]) not in allowed
    ]
    if record.get("encoder", "googlenet") not in spec_names():
        wrong.append("encoder")
    if not isinstance(data, Mapping) or data.get("data_dir") is not None:
        wrong.append("data.data_dir")
    # `module:function` is a data set too, and code.
    if isinstance(data, Mapping) and data.get("dataset", "stanford_dogs") not in dataset_names():
        wrong.append("data.dataset")
    if wrong:
        raise RunError(
            f"{name} is refused, since its record asks for code or files of this machine "
            f"({', '.join(wrong)}): ask who published it"
        )
