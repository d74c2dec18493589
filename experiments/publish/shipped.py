"""Train and publish the agent that comes with the package: `python -m experiments.publish.shipped`.

It plays `SyntheticDogsGlimpse-v0` as it is by default, so that `glimpse view` and `glimpse play`
do something at once on a machine without network. Another machine's arithmetic gives other weights
of about the same worth.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import tyro

from encoders.inference.engine import make_encoder
from experiments.data import DataConfig
from experiments.prepare.bank import BankConfig, build_bank
from experiments.publish.command import PublishConfig, publish
from experiments.train.config import TrainConfig
from experiments.train.presets import EXPERIMENTS
from experiments.train.trainer import train

OUT = Path(__file__).parents[2] / "agents" / "data" / "synthetic-dogs"
"""Where it lies in the repository."""

COMMAND = "python -m experiments.publish.shipped"
"""What trains it again."""

_SIDE, _IMAGES, _EPOCHS = 5, 720, 30


def shipped_config(work: Path) -> TrainConfig:
    """Settings of the shipped agent: the experiment `synthetic`, on some of the training images."""
    _, base = EXPERIMENTS["synthetic"]
    return replace(
        base,
        out=work / "run",
        data=DataConfig("synthetic", num_images=_IMAGES),
        bank=work / "banks",
        mirror="off",
        context="center",
        epochs=_EPOCHS,
        eval_every=_EPOCHS,
        scanpaths=1,
    )


def make_shipped(work: Path = Path("runs/shipped"), out: Path = OUT) -> Path:
    """Compute banks, train, evaluate and publish; what is there in `work` is gone on from.

    Args:
        work: Folder of banks and run.
        out: Where the agent goes; an earlier one there is removed.

    Returns:
        `out`.
    """
    config = shipped_config(work)
    encoder = make_encoder(config.encoder)
    for split in ("train", "val"):
        banks = BankConfig(
            out=work / "banks",
            data=config.data,
            encoder=config.encoder,
            resolutions=config.resolutions,
            side=_SIDE,
            mirror=False,
            context="center",
            workers=1,
        )
        build_bank(banks, split, encoder)
    train(replace(config, resume=(config.out / "config.json").exists()))
    if out.exists():
        shutil.rmtree(out)
    return publish(
        PublishConfig(config.out, out=out, license="mit", title="Synthetic dogs", half=True),
        again=COMMAND,
    )


if __name__ == "__main__":
    tyro.cli(make_shipped)
