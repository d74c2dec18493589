"""Settings of the network and of its learning.

Defaults are the paper's where it names a value; what it leaves open says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class TwoDeckConfig:
    """Sizes and variants of the network; the defaults are the paper's where it names one."""

    feature_size: int = 1024
    """D, features the encoder gives for a patch."""
    num_resolutions: int = 3
    """S, patches in a glimpse."""
    num_classes: int = 120
    """K, classes."""
    num_glimpses: int = 3
    """T, looks before the answer."""
    hidden_size: int = 4096
    """N, units in each deck (section 2, second difference)."""
    image_width: int = 1024
    """Width of relu(W_img v); open in the paper."""
    location_width: int = 128
    """Width of relu(W_loc l) under `concatenate`; open in the paper."""
    glimpse_width: int = 1024
    """Width of g = relu(W_g [...]) under `concatenate`; open in the paper."""
    core: Literal["rnn", "lstm", "gru"] = "rnn"
    """Recurrent cell of both decks; the paper's is the vanilla rnn."""
    combine: Literal["concatenate", "multiply"] = "concatenate"
    """How what and where meet; `multiply` is Ba et al.'s, both then `image_width` wide, without
    W_g."""
    location_density: Literal["gaussian", "mixture"] = "gaussian"
    """`mixture` lets the fixation choose between targets instead of landing between them."""
    num_components: int = 4
    """Gaussians in the mixture; unused by `gaussian`."""
    sigma: float = 0.15
    """Standard deviation of a sampled location in units of [-1, 1]; open. A bank snaps locations
    to its lattice: with a sigma far below its step no sample moves, and nothing is learnt."""
    choose_scale: bool = False
    """Choose the scale too (section 4): locations are (x, y, scale). Follows the environment."""
    scale_sigma: float = 0.5
    """Standard deviation of a sampled scale; open. A bank snaps scales to -1, 0 and 1."""
    squash: Literal["linear", "tanh"] = "linear"
    """How lhat comes from E. Linear is the paper's, and keeps a full gradient at the border (the
    learning's `border_weight` calls back what strays beyond); under tanh a policy that saturated
    stays there."""
    activation: Literal["relu", "tanh"] = "relu"
    """Non-linearity of every layer and of the vanilla core."""
    dropout: float = 0.0
    """Dropout on g and on what the classifier reads, in training."""
    feature_dropout: float = 0.0
    """Dropout on the encoder's features of a glimpse, in training."""
    normalise_features: Literal["none", "layer", "root"] = "none"
    """Scale of a patch's features: as the encoder gives them, standardised over D, or their signed
    square roots standardised. The paper has none; GoogLeNet's pooled features are non-negative with
    a large common mean and a few bursts, which slow learning."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: A size below 1, a rate outside [0, 1), a sigma not above 0 or an unknown
                variant.
        """
        _check_choices(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}.")
        for name in ("sigma", "scale_sigma"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}.")
        for name in ("dropout", "feature_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")

    @property
    def components(self) -> int:
        """C, Gaussians in the location density."""
        return self.num_components if self.location_density == "mixture" else 1

    @property
    def location_size(self) -> int:
        """A, coordinates of a location: x and y, and the scale if it is chosen."""
        return 3 if self.choose_scale else 2

    @property
    def core_input(self) -> int:
        """Width of g, the lower deck's input."""
        return self.glimpse_width if self.combine == "concatenate" else self.image_width


@dataclass(frozen=True)
class ReinforceConfig:
    """How the network learns. Starting points are Ba et al.'s where they name one."""

    learning_rate: float = 0.01
    """Step size of the first epoch."""
    learning_rate_decay: float = 0.97
    """Factor on the step size after each epoch."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Nesterov SGD as in Ba et al., or Adam (then lower the learning rate to about 1e-3)."""
    momentum: float = 0.9
    """Nesterov momentum of SGD, first-moment decay of Adam."""
    weight_decay: float = 0.0
    """L2 penalty on weight matrices (not on biases), decoupled under Adam."""
    label_smoothing: float = 0.0
    """Share of the target that goes to all classes alike; open, 0 is the paper's."""
    max_gradient_norm: float | None = 5.0
    """Longest gradient of all parameters together; longer ones are scaled down. None switches it
    off."""
    location_gradient: Literal["mix", "policy", "backprop"] = "mix"
    """What teaches the upper deck: the classification loss through l and the policy gradient
    (`mix`, section 2), the policy gradient alone, or the classification loss alone."""
    reinforce_weight: float = 1.0
    """Lambda of equation 12."""
    reward: Literal["accuracy", "log_likelihood"] = "accuracy"
    """What the policy maximises: the environment's return (1 when right), or log p(y), whose policy
    gradient is the exact gradient of the bound F (equation 10) but with more variance."""
    baseline: Literal["network", "leave_one_out", "none"] = "network"
    """b: predicted from r2, the mean of the image's other scanpaths (needs `samples` > 1), or 0."""
    baseline_weight: float = 1.0
    """Weight of the baseline's squared error; it trains nothing but the baseline network."""
    entropy_weight: float = 0.0
    """Bonus on the entropy of the mixture's weights, so that no component dies early."""
    border_weight: float = 1.0
    """Penalty on means beyond [-1, 1]: weight * excess^2, summed over glimpses; 0 is the paper's.
    Out there the clipped retina shows the border whatever the mean, so the return no longer calls
    it back, and noise drives it on until W_loc's inputs, and then everything, explode."""
    samples: int = 1
    """M, scanpaths an image in training: rows of a trajectory come in blocks of M of one image."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A rate or weight out of range, or an unknown or contradictory choice.
        """
        _check_choices(self)
        for name in ("learning_rate", "learning_rate_decay"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        norm = self.max_gradient_norm
        if norm is not None and not (norm > 0 and math.isfinite(norm)):
            raise ValueError(
                f"max_gradient_norm must be a number above 0, or None for no limit; got {norm}."
            )
        for name in (
            "weight_decay",
            "reinforce_weight",
            "baseline_weight",
            "entropy_weight",
            "border_weight",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {self.momentum}.")
        if self.samples < 1 or (self.samples == 1 and self.baseline == "leave_one_out"):
            raise ValueError(
                f"baseline={self.baseline!r} with samples={self.samples}: samples must be at "
                "least 1, and at least 2 for leave_one_out."
            )


def check_types(config: Any) -> None:
    """Raise TypeError, naming the field, unless every field is of its annotated type.

    Dataclasses do not look; a configuration read from a file may hold anything.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if not _is_of(value, hints[field.name]):
            raise TypeError(f"{field.name} must be of type {hints[field.name]}, not {value!r}")


def _is_of(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (Union, UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_is_of(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_is_of, value, parts))
    if origin is dict:
        return isinstance(value, dict) and all(
            _is_of(key, parts[0]) and _is_of(item, parts[1]) for key, item in value.items()
        )
    if kind is float:
        return type(value) in (int, float) and abs(value) < 2**1023
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    return isinstance(value, kind)


def _check_choices(config: Any) -> None:
    """Raise ValueError, with the choices, for a Literal field with another value."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        kind, value = hints[field.name], getattr(config, field.name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise ValueError(f"{field.name} must be one of {choices}; got {value!r}.")
