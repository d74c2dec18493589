"""Settings of every algorithm in a comparison, what a search may draw, and what it found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class LogRange:
    """Any value between two, evenly by order of magnitude."""

    low: float
    """Smallest."""
    high: float
    """Largest."""

    def draw(self, rng: np.random.Generator) -> float:
        """One value, to three digits."""
        return float(f"{math.exp(rng.uniform(math.log(self.low), math.log(self.high))):.3g}")


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]
    """Which."""

    def draw(self, rng: np.random.Generator) -> Any:
        """One value."""
        return self.values[int(rng.integers(len(self.values)))]


def searched(default: Any, search: LogRange | Choice) -> Any:
    """A field that `glimpse tune` draws."""
    return field(default=default, metadata={"search": search})


_RATE = LogRange(1e-4, 3e-3)
_ENTROPY = LogRange(1e-4, 3e-2)
_WIDTH = Choice((128, 256, 512))


@dataclass(frozen=True)
class OnPolicySettings:
    """What PPO and A2C share."""

    num_envs: int = 64
    """Environments side by side."""
    learning_rate: float = searched(5e-4, _RATE)
    """Adam's step size."""
    ent_coef: float = searched(1e-3, _ENTROPY)
    """Weight of the entropy bonus."""
    width: int = searched(256, _WIDTH)
    """Units of the hidden layer over the features, of policy and value each."""
    log_std_init: float = searched(-1.0, Choice((-1.5, -1.0, -0.5)))
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

    n_steps: int = searched(12, Choice((12, 24)))
    """Steps of each environment between updates."""
    n_epochs: int = searched(4, Choice((2, 4, 8)))
    """Passes over them."""
    batch_size: int = 256
    """Steps a gradient step."""
    clip_range: float = 0.2
    """How far a probability ratio may move."""


@dataclass(frozen=True)
class A2CSettings(OnPolicySettings):
    """A2C, stock or with the hybrid policy."""

    n_steps: int = searched(4, Choice((4, 8, 12)))
    """Steps of each environment between updates."""


@dataclass(frozen=True)
class RecurrentPPOSettings(PPOSettings):
    """sb3-contrib's RecurrentPPO, stock or with the hybrid policy."""

    lstm_hidden_size: int = 256
    """Units of the LSTMs, of policy and value each."""


@dataclass(frozen=True)
class OffPolicySettings:
    """What SAC, TD3 and DQN share."""

    num_envs: int = 64
    """Environments side by side."""
    learning_rate: float = searched(3e-4, _RATE)
    """Adam's step size."""
    width: int = searched(256, _WIDTH)
    """Units of each of two hidden layers."""
    batch_size: int = searched(256, Choice((128, 256)))
    """Transitions a gradient step."""
    gradient_steps: int = searched(4, Choice((2, 4, 8)))
    """Gradient steps after every step of all environments."""
    buffer_size: int = 30_000
    """Transitions kept."""
    learning_starts: int = 2_000
    """Steps before the first gradient step."""
    gamma: float = 0.99
    """Discount."""


@dataclass(frozen=True)
class SACSettings(OffPolicySettings):
    """SAC."""

    ent_coef: str = searched("auto", Choice(("auto", "auto_0.1", "0.01", "0.001")))
    """Weight of the entropy: fixed, or learned from a first value."""


@dataclass(frozen=True)
class TD3Settings(OffPolicySettings):
    """TD3."""

    action_noise: float = searched(0.3, Choice((0.1, 0.3, 0.5)))
    """Sigma of the noise on actions."""


@dataclass(frozen=True)
class DQNSettings(OffPolicySettings):
    """DQN on a flat lattice."""

    exploration_fraction: float = searched(0.3, Choice((0.2, 0.3, 0.5)))
    """Share of the steps over which epsilon falls to 0.05."""
    target_update_interval: int = 1_000
    """Steps between copies to the target network."""
    side: int | None = None
    """Cells a side of the lattice of fixations; None: the bank's points."""


@dataclass(frozen=True)
class TwoDeckSettings:
    """The two-deck agent: the named experiment's own settings, but for these factors."""

    rate_factor: float = searched(1.0, Choice((0.5, 1.0, 2.0)))
    """On the learning rate."""
    reinforce_weight: float | None = searched(None, Choice((None, 0.3, 1.0)))
    """Lambda of the policy gradient; None: the experiment's."""
    sigma: float | None = searched(None, Choice((None, 0.1, 0.2)))
    """Standard deviation of a sampled location; None: the experiment's."""


Settings = (
    PPOSettings | A2CSettings | RecurrentPPOSettings | SACSettings | TD3Settings | DQNSettings
    | TwoDeckSettings
)  # fmt: skip

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
    """What a constructor of Stable-Baselines3 gets for settings, in RL Zoo's names.

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
    "num_envs", "width", "log_std_init", "mask_idle", "lstm_hidden_size", "action_noise", "side",
)  # fmt: skip

ENVIRONMENTS = {"dogs": "medium-2"}
"""Short names of environments. For dogs that of the variants: one patch, two glimpses."""

# What `glimpse tune` found, where it differs from the defaults: by images and agent.
# experiments/results/tuning-*.json has every trial; a test holds the two together.
TUNED: dict[Literal["synthetic", "dogs"], dict[str, dict[str, Any]]] = {
    "synthetic": {
        "ppo": {"learning_rate": 0.00162, "ent_coef": 0.00129, "log_std_init": -0.5, "n_steps": 24},
        "ppo-hybrid": {
            "learning_rate": 0.00241,
            "ent_coef": 0.000116,
            "width": 128,
            "log_std_init": -1.5,
            "n_epochs": 2,
        },
        "a2c": {
            "learning_rate": 0.000455,
            "ent_coef": 0.00155,
            "width": 512,
            "log_std_init": -1.5,
            "n_steps": 8,
        },
        "recurrent-ppo": {
            "learning_rate": 0.000971,
            "ent_coef": 0.00148,
            "log_std_init": -0.5,
            "n_steps": 24,
            "n_epochs": 8,
        },
        "recurrent-ppo-hybrid": {
            "learning_rate": 0.00292,
            "ent_coef": 0.000436,
            "width": 128,
            "log_std_init": -1.5,
        },
        "td3": {"learning_rate": 0.000103, "width": 128, "gradient_steps": 8, "action_noise": 0.1},
    },
    "dogs": {
        "ppo": {"learning_rate": 0.00157, "ent_coef": 0.00222, "log_std_init": -1.5},
        "ppo-hybrid": {
            "learning_rate": 0.00241,
            "ent_coef": 0.000116,
            "width": 128,
            "log_std_init": -1.5,
            "n_epochs": 2,
        },
        "a2c": {"learning_rate": 0.000671, "ent_coef": 0.00578, "n_steps": 12},
        "a2c-hybrid": {
            "learning_rate": 0.00258,
            "ent_coef": 0.000483,
            "width": 128,
            "log_std_init": -0.5,
            "n_steps": 8,
        },
        "recurrent-ppo": {
            "learning_rate": 0.000971,
            "ent_coef": 0.00148,
            "log_std_init": -0.5,
            "n_steps": 24,
            "n_epochs": 8,
        },
        "recurrent-ppo-hybrid": {"learning_rate": 0.000658, "ent_coef": 0.00695, "n_epochs": 8},
        "sac": {"learning_rate": 0.00116, "width": 128, "gradient_steps": 8},
        "td3": {"learning_rate": 0.000608, "width": 512, "batch_size": 128, "action_noise": 0.5},
    },
}


def settings_type(agent: str) -> type | None:
    """Settings of an agent by name; None for policies that have none here."""
    if agent in ALGORITHMS:
        return ALGORITHMS[agent][0]
    return TwoDeckSettings if agent == "two-deck" else None


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
    pictures = "synthetic" if environment == "synthetic" else "dogs"
    found = replace(kind(), **TUNED[pictures].get(agent, {}))
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


def draw_settings(agent: str, rng: np.random.Generator) -> tuple[str, ...]:
    """A random point of an agent's search space, as changes for `settings_for`.

    Raises:
        ValueError: There is nothing to search.
    """
    kind = settings_type(agent)
    if kind is None:
        raise ValueError(f"{agent!r} has no settings to search")
    drawn = {
        each.name: each.metadata["search"].draw(rng)
        for each in fields(kind)
        if "search" in each.metadata
    }
    return tuple(f"{name}={value}" for name, value in drawn.items())
