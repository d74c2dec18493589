"""Players that learn: policies of `agents.policy`, and algorithms of Stable-Baselines3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.noise import NormalActionNoise

from agents.policy import AttentionPolicy, load_policy, required_by
from agents.reinforce import ReinforceAgent
from agents.sb3 import FlatGlimpseExtractor, GlimpseExtractor, SB3VecEnv
from experiments.compare.sb3_training import SB3Player, learn_until
from experiments.compare.settings import LogRange
from experiments.tracks.game import Game
from experiments.tracks.players import (
    PLAYERS,
    Player,
    Searched,
    Tick,
    player,
    player_settings,
)
from experiments.train.external_policy import Agent, build_policy, learns
from experiments.train.loop import train_within
from glimpse_env.wrappers import VectorFlatObservation
from glimpse_env.wrappers.codecs import Codec, GazeCodec, GazeLatticeCodec

# -- policies of agents.policy -------------------------------------------------------------------


class PolicyPlayer:
    """A policy, ours or somebody's own, that learns from whole episodes by its `update`.

    A trajectory's `rewards` are what the looks earned, its `success` whether the frozen classifier
    was right.
    """

    def __init__(
        self, game: Game, name: str, options: Mapping[str, Any] | None = None, **changes: Any
    ) -> None:
        """Build the policy and its training environment.

        Args:
            game: An open track.
            name: A registered policy, or `module:Class`.
            options: Arguments of the policy's own.
            changes: Of the run's settings.

        Raises:
            ValueError: As for `build_policy`, or fewer images than a batch takes.
        """
        self.run = replace(game.run, policy=name, **changes)
        self.requires = required_by(load_policy(name))
        samples = self.run.learning.samples
        # Distinct images, each `samples` times.
        images = min(self.run.batch_size // samples, len(game.dataset(self.run.train_split)))
        self.run = replace(self.run, batch_size=images * samples)
        self.env = game.env(
            self.run.train_split, self.run.batch_size, self.requires, repeats=samples
        )
        self.agent: Agent = build_policy(name, options or {}, self.run, self.env)

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        return learns(self.agent)

    def train(self, tick: Tick) -> None:
        """Play and update, epoch by epoch, until `tick` says to stop."""
        train_within(self.agent, self.env, lambda spent: tick(spent.glimpses), seed=self.run.seed)

    def policy(self) -> AttentionPolicy:
        """Return who looks in an evaluation."""
        return self.agent

    def state_dict(self) -> dict[str, Any]:
        """Return what acts: our network, or the state of another policy; nothing if it has none."""
        if isinstance(self.agent, ReinforceAgent):
            return {"network": dict(self.agent.network.state_dict())}
        own: Any = self.agent.policy
        return own.state_dict() if callable(getattr(own, "state_dict", None)) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state over."""
        if isinstance(self.agent, ReinforceAgent):
            self.agent.network.load_state_dict(state["network"])
        elif state:
            own: Any = self.agent.policy
            own.load_state_dict(state)


@player(
    "two-deck",
    "two-deck agent; its location half learns from what looks earn",
    searched={
        "rate_factor": Searched(1.0, (0.5, 1.0, 2.0)),
        "reinforce_weight": Searched(None, (None, 0.3, 1.0)),
        "sigma": Searched(None, (None, 0.1, 0.2, 0.3)),
    },
)
def _two_deck(
    game: Game,
    seed: int,
    *,
    rate_factor: float = 1.0,
    reinforce_weight: float | None = None,
    sigma: float | None = None,
) -> Player:
    own, network = game.run.learning, game.run.network
    own = replace(own, learning_rate=own.learning_rate * rate_factor)
    if reinforce_weight is not None:
        own = replace(own, reinforce_weight=reinforce_weight)
    if sigma is not None:
        network = replace(network, sigma=sigma)
    # The classification half goes on learning, since both halves share the lower deck; but what
    # the location half is paid is the track's reward, and its answer does not count.
    learning = replace(
        own,
        reward="accuracy",
        location_gradient="policy",
        policy_gradient="sampled",
        baseline="leave_one_out" if own.samples > 1 else "network",
    )
    return PolicyPlayer(game, "two-deck", learning=learning, network=network)


def _recipe(game: Game, path: str, **options: Any) -> Player:
    learning = replace(game.run.learning, samples=1, baseline="auto")
    batch = game.run.batch_size // game.run.learning.samples
    return PolicyPlayer(game, path, options, learning=learning, batch_size=batch)


_RATE = LogRange(1e-4, 3e-3)


@player(
    "fall-ppo",
    "PPO with its own critic, paid by the fall of cross-entropy (AdaptiveNN's)",
    searched={"learning_rate": Searched(1e-3, _RATE), "epochs": Searched(4, (2, 4, 8))},
)
def _fall_ppo(game: Game, seed: int, **settings: Any) -> Player:
    return _recipe(game, "experiments.recipes.fall_ppo:FallPPO", paid_by="environment", **settings)


@player(
    "label-sac",
    "SAC with a label loss at every step (APPLE's)",
    searched={"learning_rate": Searched(1e-3, _RATE), "gradient_steps": Searched(4, (2, 4, 8))},
)
def _label_sac(game: Game, seed: int, **settings: Any) -> Player:
    return _recipe(game, "experiments.recipes.label_sac:LabelSAC", **settings)


# -- Stable-Baselines3 ---------------------------------------------------------------------------

_WIDTH = 256
_BUFFER_BYTES = 500_000_000


@dataclass(frozen=True)
class Algorithm:
    """How an algorithm is set up: stock, with what short episodes of a bank ask for."""

    path: str
    """Its class as `module:Class`."""
    lattice: bool
    """Whether it acts on the lattice, as one number, else in a Box."""
    title: str
    """In words."""
    recurrent: bool = False
    """Whether its policy has an LSTM."""
    off_policy: bool = False
    """Whether it learns from a replay buffer."""
    flat: bool = False
    """Whether it takes observations as one Box, for it takes no Dict."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of its own that no search changes."""
    searched: dict[str, Searched] = field(default_factory=dict)
    """Arguments of its own that `glimpse tune TRACK` searches."""


_PPO = {"gae_lambda": 1.0, "batch_size": 256}
_OFF = {"learning_starts": 2_000, "batch_size": 256, "gamma": 0.99}


def _on(rate: float, **others: Searched) -> dict[str, Searched]:
    shared = {"learning_rate": Searched(rate, _RATE)}
    return shared | {"ent_coef": Searched(1e-3, LogRange(1e-4, 3e-2))} | others


def _off(rate: float, **others: Searched) -> dict[str, Searched]:
    shared = {"learning_rate": Searched(rate, _RATE)}
    return shared | {"gradient_steps": Searched(4, (2, 4, 8))} | others


_EPOCHS = Searched(4, (2, 4, 8))
_ENTROPY = Searched("auto", ("auto", "auto_0.1", "0.01", "0.001"))

ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm(
        "stable_baselines3:PPO",
        True,
        "PPO on the lattice",
        settings=_PPO,
        searched=_on(1e-3, n_epochs=_EPOCHS),
    ),
    "a2c": Algorithm(
        "stable_baselines3:A2C",
        True,
        "A2C on the lattice",
        settings={"gae_lambda": 1.0},
        searched=_on(7e-4),
    ),
    "recurrent-ppo": Algorithm(
        "sb3_contrib:RecurrentPPO",
        True,
        "RecurrentPPO on the lattice",
        recurrent=True,
        settings=_PPO,
        searched=_on(1e-3, n_epochs=_EPOCHS),
    ),
    "dqn": Algorithm(
        "stable_baselines3:DQN",
        True,
        "DQN on the lattice",
        off_policy=True,
        settings=_OFF | {"target_update_interval": 1_000},
        searched=_off(1e-4, exploration_fraction=Searched(0.3, (0.2, 0.3, 0.5))),
    ),
    "sac": Algorithm(
        "stable_baselines3:SAC",
        False,
        "SAC",
        off_policy=True,
        settings=_OFF,
        searched=_off(3e-4, ent_coef=_ENTROPY),
    ),
    "td3": Algorithm(
        "stable_baselines3:TD3",
        False,
        "TD3",
        off_policy=True,
        settings=_OFF,
        searched=_off(1e-3, action_noise=Searched(0.3, (0.1, 0.3, 0.5))),
    ),
    "tqc": Algorithm(
        "sb3_contrib:TQC",
        False,
        "TQC",
        off_policy=True,
        settings=_OFF,
        searched=_off(3e-4, ent_coef=_ENTROPY),
    ),
    "crossq": Algorithm(
        "sb3_contrib:CrossQ",
        False,
        "CrossQ, on observations as one Box",
        off_policy=True,
        flat=True,
        settings=_OFF,
        searched=_off(1e-3, ent_coef=_ENTROPY),
    ),
}
"""Of Stable-Baselines3 and sb3-contrib, by name."""


class SB3LookPlayer:
    """An algorithm of Stable-Baselines3, unmodified, on `VectorFixationOnly`."""

    learns = True
    requires: tuple[str, ...] = ()

    def __init__(
        self, game: Game, name: str, seed: int, settings: Mapping[str, Any], num_envs: int = 64
    ) -> None:
        """Build environment and model.

        Args:
            game: An open track.
            name: Of `ALGORITHMS`.
            seed: Of weights and draws.
            settings: Those that are searched.
            num_envs: Environments side by side.
        """
        from importlib import import_module

        algorithm = ALGORITHMS[name]
        split = game.run.train_split
        num_envs = min(num_envs, len(game.dataset(split)))
        env: Any = game.flat_env(num_envs, algorithm.lattice)
        self.steps = game.steps
        own = game.env(split, 1).single_action_space
        self.codec: Codec = (
            GazeLatticeCodec(own, game.side) if algorithm.lattice else GazeCodec(own)
        )
        shown = env.env.single_observation_space  # before its patches and cells are joined
        grid = shown["context"].shape[0] if len(shown["context"].shape) == 3 else 1  # type: ignore[index]
        extractor: dict[str, Any] = {
            "normalise_features": game.run.network.normalise_features,
            "width": game.run.network.cell_width // (4 if algorithm.off_policy else 2),
            "context_grid": grid,
            "feature_size": shown["glimpse"].shape[-1],  # type: ignore[index]
        }
        self.flat = algorithm.flat
        if self.flat:
            extractor["parts"] = env.single_observation_space
            env = VectorFlatObservation(env)
        arguments = {**algorithm.settings, **settings}
        layers = [_WIDTH, _WIDTH] if algorithm.off_policy else [_WIDTH]
        policy: dict[str, Any] = {
            "features_extractor_class": FlatGlimpseExtractor if self.flat else GlimpseExtractor,
            "features_extractor_kwargs": extractor,
            "net_arch": layers,
        }
        if algorithm.recurrent:
            policy["lstm_hidden_size"] = _WIDTH
        if algorithm.off_policy:
            arguments["buffer_size"] = _buffer(env.single_observation_space)
            arguments["learning_starts"] = min(arguments["learning_starts"], self.steps // 4)
        else:
            arguments["n_steps"] = _multiple(24 if "n_epochs" in arguments else 8, game)
        if "action_noise" in arguments:
            sigma = np.full(2, arguments["action_noise"])
            arguments["action_noise"] = NormalActionNoise(np.zeros(2), sigma)
        if not str(arguments.get("ent_coef", "auto")).startswith("auto"):
            arguments["ent_coef"] = float(arguments["ent_coef"])
        module, _, kind = algorithm.path.partition(":")
        # A buffer that is larger than the machine has memory for is told of by a warning only.
        self.model: Any = getattr(import_module(module), kind)(
            "MlpPolicy" if self.flat else f"MultiInput{'Lstm' * algorithm.recurrent}Policy",
            SB3VecEnv(env),
            policy_kwargs=policy,
            seed=seed,
            device=game.run.device,
            **arguments,
        )

    def train(self, tick: Tick) -> None:
        """Learn until `tick` says to stop."""
        learn_until(self.model, self.steps, tick)

    def policy(self) -> AttentionPolicy:
        """Return who looks in an evaluation."""
        return SB3Player(self.model, self.codec, self.flat)

    def state_dict(self) -> dict[str, Any]:
        """Return the policy's weights; what only training needs is left out."""
        return {"policy": dict(self.model.policy.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take weights over."""
        self.model.policy.load_state_dict(state["policy"])


def _multiple(steps: int, game: Game) -> int:
    """Round up to whole episodes."""
    return math.ceil(steps / game.run.num_glimpses) * game.run.num_glimpses


def _buffer(space: Any) -> int:
    """Transitions that a replay buffer of half a gigabyte holds, at most 30,000."""
    parts = space.spaces.values() if hasattr(space, "spaces") else [space]
    size = 4 * sum(int(np.prod(part.shape)) for part in parts)
    return int(min(30_000, max(2_000, _BUFFER_BYTES // (2 * size))))


def _register(name: str) -> None:
    def build(game: Game, seed: int, **settings: Any) -> Player:
        with torch.random.fork_rng(devices=[]):
            return SB3LookPlayer(game, name, seed, settings)

    player(name, ALGORITHMS[name].title, searched=ALGORITHMS[name].searched)(build)


for _name in ALGORITHMS:
    _register(_name)


def build_player(game: Game, name: str, seed: int, options: Mapping[str, Any]) -> Player:
    """Make a player by name, or of anybody's policy.

    Args:
        game: An open track.
        name: Of `PLAYERS`, or a policy of `agents.policy`, registered or `module:Class`.
        seed: Of the run.
        options: Arguments of an outside policy; or settings of a track's own player to try
            instead of those that a search chose.

    Raises:
        ValueError: There is no such player, or it takes no such options.
    """
    if name not in PLAYERS:
        learning = replace(game.run.learning, samples=1, baseline="auto")
        batch = game.run.batch_size // game.run.learning.samples
        return PolicyPlayer(game, name, options, learning=learning, batch_size=batch)
    return PLAYERS[name].build(game, seed, **player_settings(name, options))
