"""Stable-Baselines3's algorithms, unmodified: built, trained step by step, and played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from torch import Tensor

from agents.policy import AttentionPolicy
from agents.sb3 import GlimpseExtractor, HybridPolicy, SB3VecEnv
from agents.trajectory import Observation
from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder
from experiments.compare.settings import ALGORITHMS, sb3_arguments
from experiments.train.config import TrainConfig
from experiments.train.factory import build_env
from glimpse_env.wrappers import VectorFlatAction, VectorLatticeAction
from glimpse_env.wrappers.codecs import Codec, FlatCodec, LatticeCodec, concatenate, join

Tick = Callable[[int], bool]
"""Called with the environment steps taken so far; False ends the training."""

_LIVE_SIDE = 5


class SB3Learner:
    """An algorithm of Stable-Baselines3, unmodified, on the batched environment."""

    def __init__(
        self, agent: str, settings: Any, run: TrainConfig, source: FeatureBank | Encoder, steps: int
    ) -> None:
        """Build environment and model.

        Args:
            agent: A name of `ALGORITHMS`.
            settings: Its settings.
            run: The environment's settings and seed; features are scaled as its network's are.
            source: Bank or live encoder of the training split.
            steps: The budget, for schedules.
        """
        self.run = replace(run, batch_size=settings.num_envs)
        env = build_env(
            self.run, run.train_split, source=source, autoreset_mode=AutoresetMode.SAME_STEP
        )
        self.dataset = env.dataset
        face = ALGORITHMS[agent][1]
        side = getattr(settings, "side", None) or lattice_side(source)
        own = env.single_action_space
        self.codec: Codec = FlatCodec(own)
        faced: Any = VectorFlatAction(env)
        if face != "flat":
            flat = face == "number"
            self.codec = LatticeCodec(own, side, flat)
            faced = VectorLatticeAction(env, side, flat)
        extractor = {
            "features_extractor_class": GlimpseExtractor,
            "features_extractor_kwargs": {"normalise_features": run.network.normalise_features},
        }
        self.steps = steps
        self.model = _build_model(agent, settings, SB3VecEnv(faced), extractor, run)

    learns = True

    def train(self, tick: Tick) -> None:
        """Learn until `tick` says to stop."""
        learn_until(self.model, self.steps, tick)

    def player(self) -> AttentionPolicy:
        """The policy that plays in an evaluation."""
        return SB3Player(self.model, self.codec)


def learn_until(model: Any, steps: int, tick: Tick) -> None:
    """Train a model of Stable-Baselines3 until `tick` says to stop.

    Args:
        model: The algorithm.
        steps: The length it is told; it shapes DQN's exploration, and ends nothing.
        tick: Called with the steps taken so far.
    """
    watch = _Watch(tick)
    while not watch.over:
        model.learn(steps, callback=watch, reset_num_timesteps=False)


class _Watch(BaseCallback):
    """Asks after every step of the environments whether to go on."""

    def __init__(self, tick: Tick) -> None:
        super().__init__()
        self.tick, self.over = tick, False

    def _on_step(self) -> bool:
        self.over = not self.tick(self.num_timesteps)
        return not self.over


def lattice_side(source: FeatureBank | Encoder) -> int:
    """Points a side of a bank's lattice; where an encoder runs live, any place will do."""
    return round(len(source.fixations) ** 0.5) if isinstance(source, FeatureBank) else _LIVE_SIDE


class SB3Player:
    """A trained model of Stable-Baselines3 as an `AttentionPolicy`."""

    def __init__(self, model: Any, codec: Codec, flat: bool = False) -> None:
        """Wrap a model.

        Args:
            model: With a `predict`.
            codec: From its flat actions to the environment's.
            flat: Whether it takes observations as one Box, as `FlatObservation` has them.
        """
        self.model, self.codec, self.flat = model, codec, flat

    def initial_state(self, batch: int) -> Any:
        """No memory, or that of the model's LSTM."""
        return None

    def act(
        self, observation: Observation, state: Any, *, deterministic: bool = False
    ) -> tuple[dict[str, Tensor], Any]:
        """Predict actions from observations."""
        arrays = {name: value.cpu().numpy() for name, value in observation.items()}
        start = arrays["remaining"][:, 0] >= 1
        seen = join(arrays, 1)
        flat, state = self.model.predict(
            concatenate(seen, 1) if self.flat else seen,
            state=state,
            episode_start=start,
            deterministic=deterministic,
        )
        own = self.codec.decode(flat, (len(start),))
        return {name: torch.as_tensor(value) for name, value in own.items()}, state


def _build_model(
    agent: str, settings: Any, env: SB3VecEnv, extractor: dict[str, Any], run: TrainConfig
) -> Any:
    """The algorithm, stock: only its settings are set."""
    from sb3_contrib import RecurrentPPO

    from agents.sb3 import HybridRecurrentPolicy

    kinds: dict[str, Any] = {
        "ppo": PPO,
        "a2c": A2C,
        "recurrent-ppo": RecurrentPPO,
        "sac": SAC,
        "td3": TD3,
        "dqn": DQN,
    }
    arguments = sb3_arguments(agent, settings)
    arguments["policy_kwargs"] = extractor | arguments["policy_kwargs"]
    if agent.endswith("-hybrid"):
        recurrent = agent.startswith("recurrent")
        arguments["policy"] = HybridRecurrentPolicy if recurrent else HybridPolicy
    if "noise_std" in arguments:
        size = env.action_space.shape[0]  # type: ignore[index]
        sigma = np.full(size, arguments.pop("noise_std"))
        arguments["action_noise"] = NormalActionNoise(np.zeros(size), sigma)
    kind = kinds[agent.removesuffix("-hybrid")]
    return kind(env=env, seed=run.seed, device=run.device, **arguments)
