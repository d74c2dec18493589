"""Settings of every algorithm in a comparison, what is searched of them, and what was found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints


class LogRange(NamedTuple):
    """Any value between two, evenly by order of magnitude."""

    low: float
    """Smallest value drawn."""
    high: float
    """Largest value drawn."""


def searched(default: Any, space: LogRange | tuple[Any, ...]) -> Any:
    """Make a field that `glimpse tune` searches, in a range or among some values."""
    return field(default=default, metadata={"search": space})


_RATE = LogRange(1e-4, 3e-3)
_ENTROPY = LogRange(1e-4, 3e-2)
_WIDTH = (128, 256, 512)


@dataclass(frozen=True)
class OnPolicySettings:
    """Settings that PPO and A2C share."""

    num_envs: int = 64
    """Environments side by side."""
    learning_rate: float = searched(5e-4, _RATE)
    """Adam's step size."""
    ent_coef: float = searched(1e-3, _ENTROPY)
    """Weight of the entropy bonus."""
    width: int = searched(256, _WIDTH)
    """Units of the hidden layer over the features, of policy and value each."""
    log_std_init: float = searched(-1.0, (-1.5, -1.0, -0.5))
    """Log of the first sigma of the fixation, of hybrid policies."""
    mask_idle: bool = True
    """Whether hybrid policies count only the part of an action that matters in a step."""
    side: int | None = None
    """Cells a side of the lattice of fixations, where there is one; None: the bank's points."""
    gae_lambda: float = 1.0
    """Lambda of the advantages; episodes are short and their only reward is the last."""


@dataclass(frozen=True)
class PPOSettings(OnPolicySettings):
    """PPO, stock or with the hybrid policy."""

    n_steps: int = searched(12, (12, 24))
    """Steps of each environment between updates."""
    n_epochs: int = searched(4, (2, 4, 8))
    """Passes over them."""
    batch_size: int = 256
    """Steps a gradient step."""
    clip_range: float = 0.2
    """How far a probability ratio may move."""


@dataclass(frozen=True)
class A2CSettings(OnPolicySettings):
    """A2C, stock or with the hybrid policy."""

    n_steps: int = searched(4, (4, 8, 12))
    """Steps of each environment between updates."""


@dataclass(frozen=True)
class RecurrentPPOSettings(PPOSettings):
    """sb3-contrib's RecurrentPPO, stock or with the hybrid policy."""

    lstm_hidden_size: int = 256
    """Units of the LSTMs, of policy and value each."""


@dataclass(frozen=True)
class OffPolicySettings:
    """Settings that SAC, TD3 and DQN share."""

    num_envs: int = 64
    """Environments side by side."""
    learning_rate: float = searched(3e-4, _RATE)
    """Adam's step size."""
    width: int = searched(256, _WIDTH)
    """Units of each of two hidden layers."""
    batch_size: int = searched(256, (128, 256))
    """Transitions a gradient step."""
    gradient_steps: int = searched(4, (2, 4, 8))
    """Gradient steps after every step of all environments."""
    buffer_size: int = 30_000
    """Number of transitions kept."""
    learning_starts: int = 2_000
    """Steps before the first gradient step."""
    gamma: float = 0.99
    """Discount of later rewards."""


@dataclass(frozen=True)
class SACSettings(OffPolicySettings):
    """Settings of soft actor-critic."""

    ent_coef: str = searched("auto", ("auto", "auto_0.1", "0.01", "0.001"))
    """Weight of the entropy: fixed, or learned from a first value."""


@dataclass(frozen=True)
class TD3Settings(OffPolicySettings):
    """Settings of twin delayed DDPG."""

    action_noise: float = searched(0.3, (0.1, 0.3, 0.5))
    """Sigma of the noise on actions."""


@dataclass(frozen=True)
class DQNSettings(OffPolicySettings):
    """DQN on a flat lattice."""

    exploration_fraction: float = searched(0.3, (0.2, 0.3, 0.5))
    """Share of the steps over which epsilon falls to 0.05."""
    target_update_interval: int = 1_000
    """Steps between copies to the target network."""
    side: int | None = None
    """Cells a side of the lattice of fixations; None: the bank's points."""


@dataclass(frozen=True)
class TwoDeckSettings:
    """The two-deck agent: the named experiment's own settings, but for these factors."""

    rate_factor: float = searched(1.0, (0.5, 1.0, 2.0))
    """Factor on the learning rate."""
    reinforce_weight: float | None = searched(None, (None, 0.3, 1.0))
    """Lambda of the policy gradient; None: the experiment's."""
    sigma: float | None = searched(None, (None, 0.1, 0.2))
    """Standard deviation of a sampled location; None: the experiment's."""


Settings = (
    PPOSettings
    | A2CSettings
    | RecurrentPPOSettings
    | SACSettings
    | TD3Settings
    | DQNSettings
    | TwoDeckSettings
)

Face = Literal["lattice", "flat", "number"]

ALGORITHMS: dict[str, tuple[type, Face, str]] = {
    "ppo": (PPOSettings, "lattice", "PPO, a lattice of fixations"),
    "ppo-hybrid": (PPOSettings, "flat", "PPO, hybrid policy"),
    "a2c": (A2CSettings, "lattice", "A2C, a lattice of fixations"),
    "a2c-hybrid": (A2CSettings, "flat", "A2C, hybrid policy"),
    "recurrent-ppo": (RecurrentPPOSettings, "lattice", "RecurrentPPO, a lattice of fixations"),
    "recurrent-ppo-hybrid": (RecurrentPPOSettings, "flat", "RecurrentPPO, hybrid policy"),
    "sac": (SACSettings, "flat", "SAC, Box(2 + K)"),
    "td3": (TD3Settings, "flat", "TD3, Box(2 + K)"),
    "dqn": (DQNSettings, "number", "DQN, a flat lattice"),
}
"""Agents of Stable-Baselines3 by name: settings, action face, and what they are in words."""


def sb3_arguments(agent: str, settings: Any) -> dict[str, Any]:
    """Turn settings into arguments of a Stable-Baselines3 constructor, in RL Zoo's names.

    All but the features extractor; `policy` is a name, and `noise_std` the sigma of a Gaussian
    action noise.
    """
    name, hybrid = agent.removesuffix("-hybrid"), agent.endswith("-hybrid")
    alike = [each.name for each in fields(settings) if each.name not in _NOT_ARGUMENTS]
    found = {each: getattr(settings, each) for each in alike}
    if name in ("sac", "td3", "dqn"):
        found |= {"policy": "MultiInputPolicy", "train_freq": 1}
        found["policy_kwargs"] = {"net_arch": [settings.width] * 2}
        if name == "sac" and not settings.ent_coef.startswith("auto"):
            found["ent_coef"] = float(settings.ent_coef)
        if name == "td3":
            found["noise_std"] = settings.action_noise
        return found
    recurrent = name == "recurrent-ppo"
    found |= {"policy": "MultiInputLstmPolicy" if recurrent else "MultiInputPolicy", "gamma": 1.0}
    found["policy_kwargs"] = {"net_arch": [settings.width]}
    if hybrid:
        found["policy"] = "agents.sb3." + (
            "recurrent.HybridRecurrentPolicy" if recurrent else "policies.HybridPolicy"
        )
        found["policy_kwargs"]["log_std_init"] = settings.log_std_init
        found["policy_kwargs"]["mask_idle"] = settings.mask_idle
    if recurrent:
        found["policy_kwargs"]["lstm_hidden_size"] = settings.lstm_hidden_size
    if name == "a2c":
        # RMSprop is stock A2C's; Adam is what the others have.
        found["use_rms_prop"] = False
    return found


_NOT_ARGUMENTS = (
    "num_envs",
    "width",
    "log_std_init",
    "mask_idle",
    "lstm_hidden_size",
    "action_noise",
    "side",
)

ENVIRONMENTS = {"dogs": "medium-2"}
"""Short names of environments. For dogs that of the variants: one patch, two glimpses."""


def settings_type(agent: str) -> type | None:
    """Settings of an agent by name; None for policies that have none here."""
    if agent in ALGORITHMS:
        return ALGORITHMS[agent][0]
    return TwoDeckSettings if agent == "two-deck" else None


def searched_settings(agent: str) -> dict[str, LogRange | tuple[Any, ...]]:
    """Return the space of each setting of an agent that `glimpse tune` searches, by name."""
    kind: Any = settings_type(agent)
    return {e.name: e.metadata["search"] for e in fields(kind) if "search" in e.metadata}


@cache
def tuned_settings(images: str) -> dict[str, dict[str, Any]]:
    """Return what `glimpse tune` found best for `synthetic` or `dogs`, by agent.

    Its record, tuning.json, is kept as `experiments/results/tuning-<images>.json`.
    """
    path = Path(__file__).parents[1] / "results" / f"tuning-{images}.json"
    agents = json.loads(path.read_text(encoding="utf-8"))["agents"]
    return {
        agent: {name: found["best"]["settings"][name] for name in searched_settings(agent)}
        for agent, found in agents.items()
    }


def settings_for(agent: str, environment: str, changes: tuple[str, ...] = ()) -> Any:
    """The settings tuned for an environment's images, with some changed.

    Args:
        agent: Its name.
        environment: The name of the experiment whose environment it is.
        changes: `name=value`, as on a command line.

    Returns:
        None for policies that have no settings here; their own options are theirs to check.

    Raises:
        ValueError: No such setting, or a value of another kind.
    """
    kind = settings_type(agent)
    if kind is None:
        return None
    images = "synthetic" if environment == "synthetic" else "dogs"
    found = replace(kind(), **tuned_settings(images).get(agent, {}))
    hints = get_type_hints(kind)
    values = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in hints:
            known = ", ".join(each.name for each in fields(kind))
            raise ValueError(f"--set {change}: give NAME=VALUE; {agent} has {known}")
        values[name] = _parse(name, text, hints[name])
    return replace(found, **values)


def _parse(name: str, text: str, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) is not None else (hint,)
    if type(None) in kinds and text == "None":
        return None
    kind = next(each for each in kinds if each is not type(None))
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(f"--set {name}={text}: the value is True or False")
        return text == "True"
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"--set {name}={text}: the value is of type {kind.__name__}") from error
