"""From a run's configuration to the environments and agents it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gymnasium.vector import AutoresetMode

from agents.configs import TwoDeckConfig
from agents.reference import ReferenceAgent, center, uniform
from agents.reinforce import ReinforceAgent
from encoders.bank import FeatureBank
from encoders.engine import Encoder, make_encoder
from encoders.spec import get_spec
from experiments.configs import TrainConfig
from experiments.data import build_dataset
from glimpse_env.vector_env import DogsGlimpseVectorEnv

REFERENCES = {"center": center, "random": uniform}


def build_source(config: TrainConfig, split: str) -> FeatureBank | Encoder:
    """Open the bank of a split, or build the live encoder.

    Raises:
        FileNotFoundError, BankMismatchError, BankIncompleteError: see `FeatureBank`.
    """
    if config.bank is None:
        return make_encoder(config.encoder, device=config.device, precision=config.precision)
    bank = FeatureBank.open(config.bank / split)
    bank.check(split=split, encoder=get_spec(config.encoder).fingerprint)
    return bank


def build_env(
    config: TrainConfig,
    split: str,
    *,
    source: FeatureBank | Encoder | None = None,
    training: bool | None = None,
) -> DogsGlimpseVectorEnv:
    """Build the vector environment of a split, `batch_size` pictures side by side.

    Nothing resets by itself: training and evaluation say which pictures come next.

    Args:
        config: Of the run.
        split: Which pictures.
        source: Bank or live encoder, if open already.
        training: Whether `mirror` and `context` apply; evaluation shows every picture as it is,
            its context centred. By default only the run's training split is for training.
    """
    training = split == config.train_split if training is None else training
    mirror: Any = {"auto": "auto", "on": True, "off": False}[config.mirror] if training else False
    return DogsGlimpseVectorEnv(
        config.batch_size,
        dataset=build_dataset(config.data, split),
        resolutions=config.resolutions,
        num_glimpses=config.num_glimpses,
        encoder=build_source(config, split) if source is None else source,
        mirror=mirror,
        context=config.context if training else "center",
        device=config.device,
        array="torch",
        autoreset_mode=AutoresetMode.DISABLED,
    )


def build_agents(config: TrainConfig, env: DogsGlimpseVectorEnv) -> dict[str, ReinforceAgent]:
    """Build the learned agent and, if asked for, the references: same network, same seed."""
    network: TwoDeckConfig = replace(config.network, num_glimpses=config.num_glimpses)
    common: dict[str, Any] = {
        "network": network,
        "learning": config.learning,
        "device": config.device,
        "seed": config.seed,
    }
    spaces = (env.single_observation_space, env.single_action_space)
    agents: dict[str, ReinforceAgent] = {"learned": ReinforceAgent.from_spaces(*spaces, **common)}  # type: ignore[arg-type]
    if config.references:
        fitted = agents["learned"].config
        for name, chooser in REFERENCES.items():
            agents[name] = ReferenceAgent(
                chooser, fitted, config.learning, device=config.device, seed=config.seed
            )
    return agents
