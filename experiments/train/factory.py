"""From a run's configuration to the environments and agents it needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from gymnasium.vector import AutoresetMode

from agents.policy import OWN_POLICIES, load_policy, required_by
from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder
from encoders.spec import get_spec
from encoders.weights.files import WeightsNotFoundError, file_digest, find_weights
from experiments.data import build_dataset
from experiments.prepare.calibration import build_encoder
from experiments.runtime.distributed import Ranks
from experiments.runtime.shared_env import SharedEnv, share_rows
from experiments.train.config import TrainConfig
from experiments.train.external_policy import Agent, build_policy
from experiments.train.privileged import PrivilegedVectorEnv
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.storage import STORAGES
from glimpse_env.vector_env import DogsGlimpseVectorEnv

# Of a bank's description: what may differ between the splits of one experiment.
_OF_THE_SPLIT = ("split", "dataset", "num_images", "mirrored")

PlayEnv = DogsGlimpseVectorEnv | PrivilegedVectorEnv
"""The environment, as it is or with what a policy asks for besides."""

REFERENCES = ("center", "random")
"""Own policies trained beside the run's own."""


def _bank_command(config: TrainConfig) -> str:
    """Write the command that makes the bank which a run asks for."""
    data = config.data
    words = ["glimpse bank", "--dataset", data.dataset, "--encoder", config.encoder]
    words += ["--out", str(config.bank), "--resolutions", *config.resolutions]
    given = {
        "--data-dir": data.data_dir,
        "--num-images": data.num_images,
        "--short-side": data.short_side,
        "--patch-side": None if config.patch_side == 96 else config.patch_side,
    }
    for flag, value in given.items():
        words += [] if value is None else [flag, str(value)]
    words += ["--allow-missing"] * data.allow_missing
    words += ["--no-mirror"] * (config.mirror == "off")
    words += ["--context center"] * (config.context == "center")
    return " ".join(words)


def build_source(
    config: TrainConfig, split: str, *, fingerprint: str | None = None
) -> FeatureBank | Encoder:
    """Open the bank of a split, or build the live encoder.

    Args:
        config: Of the run.
        split: Which images.
        fingerprint: Of a bank's encoder, where that is not the run's own.

    Raises:
        FileNotFoundError, BankMismatchError, BankIncompleteError: see `FeatureBank`.
    """
    if config.bank is None:
        return build_encoder(config)
    try:
        bank = FeatureBank.open(config.bank / split)
    except FileNotFoundError as error:
        command = _bank_command(config)
        raise FileNotFoundError(
            f"no feature bank in {config.bank / split}: make one with `{command}`, or encode live "
            "with --bank None"
        ) from error
    bank.check(
        split=split,
        encoder=fingerprint or get_spec(config.encoder).fingerprint,
        patch_side=config.patch_side,
    )
    return bank


def sees_pixels_alone(config: TrainConfig) -> bool:
    """Return whether the run's policy asks for pixels in place of features."""
    return "pixels-alone" in required_by(load_policy(config.policy))


def open_source(config: TrainConfig, split: str) -> FeatureBank | Encoder | None:
    """Open the bank of a split or build the live encoder; None where only pixels are shown.

    Raises:
        FileNotFoundError, BankMismatchError, BankIncompleteError: see `FeatureBank`.
    """
    return None if sees_pixels_alone(config) else build_source(config, split)


def build_env(
    config: TrainConfig,
    split: str,
    *,
    source: FeatureBank | Encoder | None = None,
    training: bool | None = None,
    dataset: ImageDataset | None = None,
    autoreset_mode: AutoresetMode = AutoresetMode.DISABLED,
    observation: Literal["features", "pixels", "both"] = "features",
    repeats: int = 1,
    shard: tuple[int, int] = (0, 1),
) -> DogsGlimpseVectorEnv:
    """Build the vector environment of a split, `batch_size` episodes side by side.

    By default nothing resets by itself: who plays does, batch by batch.

    Args:
        config: Of the run.
        split: Which images.
        source: Bank or live encoder, if open already.
        training: Whether `mirror` and `context` apply; evaluation shows every image as it is,
            its context centred. By default only the run's training split is for training.
        dataset: Images of the split other than the configuration's own.
        autoreset_mode: What follows an episode.
        observation: What is shown.
        repeats: Episodes side by side on each image.
        shard: Part of the walk, (index, count).
    """
    training = split == config.train_split if training is None else training
    features = observation != "pixels"
    mirror: Any = {"auto": "auto", "on": True, "off": False}[config.mirror] if training else False
    return DogsGlimpseVectorEnv(
        config.batch_size,
        dataset=build_dataset(config.data, split) if dataset is None else dataset,
        resolutions=config.resolutions,
        patch_side=config.patch_side,
        num_glimpses=config.num_glimpses,
        choose_scale=config.choose_scale,
        encoder=build_source(config, split) if source is None and features else source,
        mirror=mirror,
        context=config.context if training else "center",
        context_grid=config.context_grid,
        device=config.device,
        storage=_storage(config, split),
        array="torch",
        autoreset_mode=autoreset_mode,
        order_seed=config.seed,
        observation=observation,
        repeats=repeats,
        shard=shard,
    )


def _storage(config: TrainConfig, split: str) -> str | Path:
    """The environment's option: of a folder of several splits' pyramids, the split's own."""
    return config.storage if config.storage in STORAGES else Path(config.storage) / split


def build_play_env(
    config: TrainConfig, split: str, requires: Sequence[str] | None = None, **options: Any
) -> PlayEnv:
    """Build the environment of a split with what a policy's `requires` asks for.

    Args:
        config: Of the run.
        split: Which images.
        requires: Out of `agents.policy.REQUIRES`; None for what the run's own policy asks for.
        options: For `build_env`.
    """
    if requires is None:
        requires = required_by(load_policy(config.policy))
    if "frame" in requires:
        config = replace(config, context="center")
    observation = "both" if "pixels" in requires else "features"
    observation = "pixels" if "pixels-alone" in requires else observation
    env = build_env(config, split, observation=observation, **options)
    return PrivilegedVectorEnv(env, requires) if {"frame", "box"} & set(requires) else env


def build_shared_env(config: TrainConfig, split: str, ranks: Ranks, **options: Any) -> PlayEnv:
    """Build a split's environment; of several processes each plays its rows of every batch.

    Args:
        config: Of the run.
        split: Which images.
        ranks: This process among all.
        options: For `build_env`.

    Raises:
        ValueError: A batch cannot be shared equally.
    """
    if ranks.count == 1:
        return build_play_env(config, split, **options)
    rows = share_rows(config.batch_size, options.get("repeats", 1), ranks)
    own = replace(config, batch_size=len(rows))
    env = build_play_env(own, split, shard=(ranks.rank, ranks.count), **options)
    return cast(PlayEnv, SharedEnv(env, ranks))


def build_agents(config: TrainConfig, env: PlayEnv) -> dict[str, Agent]:
    """Build the run's policy, `learned`, and if asked for the references: same network, same seed.

    Raises:
        ValueError: As for `build_policy`, or references where no features are shown.
    """
    if config.references and sees_pixels_alone(config):
        raise ValueError(
            f"policy {config.policy!r} sees pixels alone, and the references read features: give "
            "--no-references"
        )
    agents = {"learned": build_policy(config.policy, config.policy_options, config, env)}
    if config.references:
        agents |= {name: build_policy(OWN_POLICIES[name], {}, config, env) for name in REFERENCES}
    return agents


def describe_source(source: FeatureBank | Encoder | None) -> dict[str, Any]:
    """Describe where features come from, as JSON gives it back: `bank`, `live` or `pixels`.

    Lattices are summed up; no path is told, since a bank may move. A live encoder is told by its
    arithmetic, and by its backend where that is not torch.
    """
    if source is None:
        return {"pixels": "alone"}
    if isinstance(source, Encoder):
        arithmetic = str(source.dtype).removeprefix("torch.")
        return {"live": arithmetic if source.backend == "torch" else f"{arithmetic}-openvino"}
    record = source.description.record()
    del record["chunk"]  # how it was computed, not what it holds
    for name in ("fixations", "context_fixations", "low_fixations"):
        if name not in record:
            continue
        points = record[name]
        flat = [value for point in points for value in point]
        record[name] = {
            "count": len(points),
            "min": min(flat, default=None),
            "max": max(flat, default=None),
        }
    return {"bank": record}


def describe_encoder(name: str, *, live: bool) -> dict[str, Any]:
    """An encoder's record: which it is, the weight file found, and what the weights have seen.

    Raises:
        WeightsNotFoundError: it runs live and has no weights. With banks they need not be there.
    """
    spec = get_spec(name)
    record = {"name": spec.name, "fingerprint": spec.fingerprint, "seen": spec.seen}
    if spec.module is not None:
        weights = spec.weights or f"made by {spec.module}"
        return record | {
            "weights": weights,
            "weights_sha256": spec.sha256 if spec.weights else None,
        }
    if spec.weights is None:
        return record | {"weights": "random", "weights_sha256": None}
    try:
        path = find_weights(spec)
    except WeightsNotFoundError:
        if live:
            raise
        file = Path(spec.weights).name
        return record | {
            "weights": f"{file}, not here: known from the bank",
            "weights_sha256": None,
        }
    return record | {"weights": path.name, "weights_sha256": file_digest(path)}


def describe_dataset(dataset: ImageDataset) -> dict[str, Any]:
    """Describe which images there are, and how many."""
    return {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset),
        "missing": dataset.num_missing,
    }


def describe_evaluation(
    env: PlayEnv,
    source: FeatureBank | Encoder | None,
    agents: Mapping[str, Agent],
    *,
    encoder: str,
    seed: int,
    scanpaths: int,
    candidates: int,
) -> dict[str, Any]:
    """Describe an evaluation, so that only like is compared with like."""
    return {
        "split": env.dataset.split,
        "seed": seed,
        "scanpaths": scanpaths,
        "oracle_candidates": candidates,
        "source": describe_source(source),
        "encoder": None
        if source is None
        else {"name": encoder, "fingerprint": get_spec(encoder).fingerprint},
        "dataset": describe_dataset(env.dataset),
        "epochs": {name: agent.epoch for name, agent in agents.items()},
    }


def evaluation_name(
    settings: Mapping[str, Any],
    config: TrainConfig,
    environment: Mapping[str, Any],
    *,
    best: bool = False,
) -> str:
    """File name of an evaluation: `evaluation-<split>.json` for the run's own kind only.

    Args:
        settings: Of `describe_evaluation`.
        config: The run's own.
        environment: The run's environment.json.
        best: Whether it is of the best checkpoint, not the newest.
    """
    split, source = settings["split"], settings["source"]
    parts = ["evaluation", split]
    if "live" in source:
        if config.bank is not None:
            parts.append("live")
        elif environment.get("live", source["live"]) != source["live"]:
            parts.append(source["live"])
    elif "bank" in source and not _own_bank(source["bank"], split, config, environment):
        parts.append(f"bank-{_short_hash(source['bank'])}")
    own = environment.get("datasets", {}).get(split, settings["dataset"])
    if settings["dataset"] != own:
        parts.append(f"data-{_short_hash(settings['dataset'])}")
    if settings["seed"] != config.seed:
        parts.append(f"seed-{settings['seed']}")
    if settings["scanpaths"] != config.scanpaths:
        parts.append(f"scanpaths-{settings['scanpaths']}")
    if (settings["oracle_candidates"] > 0) != config.references:
        parts.append("no-oracle" if config.references else "oracle")
    if best:
        parts.append("best")
    return "-".join(parts) + ".json"


def _own_bank(
    bank: dict[str, Any], split: str, config: TrainConfig, environment: Mapping[str, Any]
) -> bool:
    recorded = environment.get("bank")
    if config.bank is None or recorded is None:
        return False
    if split in recorded:
        return bank == recorded[split]
    like = recorded[config.train_split]
    return all(bank[key] == like[key] for key in bank if key not in _OF_THE_SPLIT)


def _short_hash(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
