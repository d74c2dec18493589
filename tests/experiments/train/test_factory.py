"""Environments as a run's configuration builds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gymnasium.vector import AutoresetMode

from experiments.train.config import TrainConfig
from experiments.train.factory import build_env, build_source
from tests.experiments.conftest import SMALL_DATA


def test_another_seed_walks_the_training_images_in_another_order(bank: Path) -> None:
    run = TrainConfig(
        data=SMALL_DATA,
        encoder="inception_mini",
        bank=bank,
        resolutions=("high",),
        num_glimpses=1,
        batch_size=32,
        mirror="off",
        context="center",
    )

    def walk(seed: int, split: str) -> list[int]:
        config = replace(run, seed=seed)
        env = build_env(
            config,
            split,
            source=build_source(config, split),
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        return env.reset(seed=0)[1]["image"].tolist()

    assert walk(1, "train") == walk(1, "train") != walk(2, "train")
    assert walk(1, "val") == walk(2, "val") == list(range(32))
