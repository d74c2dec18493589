"""Settings of the network and of its learning.

Defaults are the paper's where it names a value; what it leaves open says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Interval

from agents.checked import Checked, Count, Positive, Share, Weight, Whole

if TYPE_CHECKING:
    from gymnasium import spaces


PositiveFinite = Annotated[float, Interval(gt=0, lt=math.inf)]
"""A finite number above 0."""


@dataclass(frozen=True)
class TwoDeckConfig(Checked):
    """Sizes and variants of the network; the defaults are the paper's where it names one."""

    feature_size: Count = 1024
    """D, features the encoder gives for a patch."""
    num_resolutions: Count = 3
    """S, patches in a glimpse."""
    num_classes: Count = 120
    """K, the number of classes."""
    num_glimpses: Count = 3
    """T, looks before the answer."""
    hidden_size: Count = 4096
    """N, units in each deck (section 2, second difference)."""
    image_width: Count = 1024
    """Width of relu(W_img v); open in the paper."""
    location_width: Count = 128
    """Width of relu(W_loc l) under `concatenate`; open in the paper."""
    glimpse_width: Count = 1024
    """Width of g = relu(W_g [...]) under `concatenate`; open in the paper."""
    core: Literal["rnn", "lstm", "gru"] = "rnn"
    """Recurrent cell of both decks; the paper's is the vanilla rnn."""
    combine: Literal["concatenate", "multiply"] = "concatenate"
    """How what and where meet; `multiply` is Ba et al.'s, both then `image_width` wide, without
    W_g."""
    location_density: str = "gaussian"
    """What a location is drawn from, by its registered name (`agents.densities`); `mixture` lets
    the fixation choose between targets instead of landing between them."""
    num_components: Count = 4
    """Gaussians in the mixture; unused by `gaussian`."""
    sigma: PositiveFinite = 0.15
    """Standard deviation of a sampled location in units of [-1, 1]; open. A bank snaps locations
    to its lattice: with a sigma far below its step no sample moves, and nothing is learnt."""
    choose_scale: bool = False
    """Choose the scale too (section 4): locations are (x, y, scale). Follows the environment."""
    scale_sigma: PositiveFinite = 0.5
    """Standard deviation of a sampled scale; open. A bank snaps scales to -1, 0 and 1."""
    squash: Literal["linear", "tanh"] = "linear"
    """How lhat comes from E. Linear is the paper's, and keeps a full gradient at the border (the
    learning's `border_weight` calls back what strays beyond); under tanh a policy that saturated
    stays there."""
    activation: Literal["relu", "tanh"] = "relu"
    """Non-linearity of every layer and of the vanilla core."""
    dropout: Share = 0.0
    """Dropout on g and on what the classifier reads, in training."""
    feature_dropout: Share = 0.0
    """Dropout on the encoder's features of a glimpse, in training."""
    context_grid: Count = 1
    """G: the context is G x G cells of the encoder's map, or the encoder's vector where G is 1.
    Follows the environment."""
    context_channels: Count | None = None
    """C, channels of a cell; None: as many as `feature_size`. Follows the environment."""
    cell_width: Count = 256
    """Units that a layer shared by all cells makes of a cell and its coordinates; unused where G
    is 1."""
    context_norm: bool = False
    """Normalise the cells' units (LayerNorm) before W_c; unused where G is 1."""
    context_dropout: Share = 0.0
    """Dropout on what W_c reads, in training."""
    location_input: Literal["intended", "observed", "none"] = "intended"
    """What W_loc reads: the location as chosen, the fixation that came of it (clipped, and snapped
    to a bank's lattice), or nothing (zeros)."""
    location_hidden: Whole = 0
    """Units of a hidden layer of the location network; 0 is none, as in the paper."""
    location_head: Literal["scaled", "plain"] = "scaled"
    """Output layer of the location network: divided by sqrt(N), whose steps do not grow with N, or
    an ordinary layer, which learns faster in small networks under Adam."""
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
        super().__post_init__()
        _check_density(self.location_density)

    @property
    def components(self) -> int:
        """Gaussians in the location density."""
        return 1 if self.location_density == "gaussian" else self.num_components

    @property
    def context_shape(self) -> tuple[int, ...]:
        """Shape of one context: [G, G, C], or [D] where G is 1."""
        channels = self.context_channels or self.feature_size
        grid = self.context_grid
        return (grid, grid, channels) if grid > 1 else (channels,)

    @property
    def location_size(self) -> int:
        """A, coordinates of a location: x and y, and the scale if it is chosen."""
        return 3 if self.choose_scale else 2

    @property
    def core_input(self) -> int:
        """Width of g, the lower deck's input."""
        return self.glimpse_width if self.combine == "concatenate" else self.image_width


@dataclass(frozen=True)
class ReinforceConfig(Checked):
    """Settings of learning; the starting points are Ba et al.'s where they name one."""

    learning_rate: Positive = 0.01
    """Step size of the first epoch."""
    learning_rate_decay: Positive = 0.97
    """Factor on the step size after each epoch."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Nesterov SGD as in Ba et al., or Adam (then lower the learning rate to about 1e-3)."""
    momentum: Annotated[float, Interval(gt=0, lt=1)] = 0.9
    """Nesterov momentum of SGD, first-moment decay of Adam."""
    weight_decay: Weight = 0.0
    """L2 penalty on weight matrices (not on biases), decoupled under Adam."""
    label_smoothing: Share = 0.0
    """Share of the target that goes to all classes alike; open, 0 is the paper's."""
    max_gradient_norm: PositiveFinite | None = 5.0
    """Longest gradient of all parameters together; longer ones are scaled down. None switches it
    off."""
    location_gradient: Literal["mix", "policy", "backprop"] = "mix"
    """What teaches the upper deck: the classification loss through l and the policy gradient
    (`mix`, section 2), the policy gradient alone, or the classification loss alone."""
    reinforce_weight: Weight = 1.0
    """Lambda of equation 12."""
    reward: Literal["auto", "accuracy", "log_likelihood", "gain"] = "auto"
    """What the policy maximises: the environment's return (1 when right); log p(y), whose policy
    gradient is the exact gradient of the bound F (equation 10) but with more variance; or `gain`,
    what each glimpse adds to log p(y). `auto`: `log_likelihood` where `samples` > 1, else
    `accuracy`."""
    discount: Annotated[float, Interval(ge=0, le=1)] = 1.0
    """Factor on what later glimpses gain, in the return of an earlier one (`gain` only)."""
    baseline: Literal["auto", "network", "leave_one_out", "none"] = "auto"
    """b: predicted from r2, the mean of the image's other scanpaths (needs `samples` > 1), or 0.
    `auto`: `leave_one_out` where `samples` > 1, else `network`."""
    policy_gradient: Literal["sampled", "exact"] = "sampled"
    """How a glimpse's own reward teaches the policy: by the sampled location, or by all points of a
    bank's lattice, each weighted with the mass of the density in its cell. `exact` has no sampling
    noise; what later glimpses earn remains sampled."""
    glimpse_loss: Weight = 0.0
    """Weight of a classification loss after every glimpse but the last, whose weight is 1."""
    sigma_decay: Positive = 1.0
    """Factor on the network's sigma after each epoch."""
    sigma_floor: Positive = 0.02
    """Sigma does not fall below this."""
    classifier_epochs: Whole = 0
    """Epochs, the first ones, in which the classifier learns on random fixations and the policy not
    at all."""
    policy_epochs: Whole = 0
    """Epochs, after those, in which the policy learns and the classifier does not."""
    baseline_weight: Weight = 1.0
    """Weight of the baseline's squared error; it trains nothing but the baseline network."""
    entropy_weight: Weight = 0.0
    """Bonus on the entropy of the mixture's weights, so that no component dies early."""
    border_weight: Weight = 1.0
    """Penalty on means beyond [-1, 1]: weight * excess^2, summed over glimpses; 0 is the paper's.
    Out there the clipped retina shows the border whatever the mean, so the return no longer calls
    it back, and noise drives it on until W_loc's inputs, and then everything, explode."""
    samples: Count = 1
    """M, scanpaths an image in training: rows of a trajectory come in blocks of M of one image."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A rate or weight out of range, or an unknown or contradictory choice.
        """
        super().__post_init__()
        if self.samples == 1 and self.baseline == "leave_one_out":
            raise ValueError(
                "baseline='leave_one_out' compares scanpaths of one image: samples must be at "
                "least 2, not 1."
            )
        if self.policy_gradient == "exact" and self.location_gradient == "backprop":
            raise ValueError(
                "policy_gradient='exact' is a policy gradient, and location_gradient='backprop' "
                "uses none: choose 'policy' or 'mix'."
            )

    @property
    def reward_kind(self) -> str:
        """`reward`, with `auto` resolved."""
        if self.reward != "auto":
            return self.reward
        return "log_likelihood" if self.samples > 1 else "accuracy"

    @property
    def baseline_kind(self) -> str:
        """`baseline`, with `auto` resolved."""
        if self.baseline != "auto":
            return self.baseline
        return "leave_one_out" if self.samples > 1 else "network"

    @property
    def classifies_every_glimpse(self) -> bool:
        """True where learning needs the classes after every glimpse, not only the last."""
        return self.glimpse_loss > 0 or self.reward_kind == "gain"

    def stage(self, epoch: int) -> Literal["classifier", "policy", "both"]:
        """Return which parts learn in an epoch, counted from 0."""
        if epoch < self.classifier_epochs:
            return "classifier"
        return "policy" if epoch < self.classifier_epochs + self.policy_epochs else "both"

    def sigma_factor(self, epoch: int, sigma: float) -> float:
        """Factor on the network's sigma in an epoch, counted from 0."""
        if self.sigma_decay == 1.0:
            return 1.0
        return max(self.sigma_decay**epoch, min(self.sigma_floor / sigma, 1.0))


def fit_spaces(
    network: TwoDeckConfig, observation_space: spaces.Dict, action_space: spaces.Dict
) -> TwoDeckConfig:
    """Set what follows from an environment's single spaces.

    Raises:
        ValueError: The environment shows pixels, or is answered otherwise than by a class.
    """
    from gymnasium import spaces

    label = action_space.spaces.get("label")
    if not isinstance(label, spaces.Discrete):
        raise ValueError(
            "The agent names a class, but the environment's actions have no Discrete 'label', only "
            f"{', '.join(action_space.spaces)}: use an environment that asks for a class."
        )
    glimpse = observation_space["glimpse"]
    if len(glimpse.shape or ()) != 2:
        raise ValueError(
            "The agent reads features, [S, D] a glimpse, but this environment shows "
            f"{glimpse}: make it with observation='features' (or 'both')."
        )
    resolutions, features = glimpse.shape  # pyright: ignore[reportGeneralTypeIssues]
    context = tuple(observation_space["context"].shape or ())
    return replace(
        network,
        feature_size=features,
        num_resolutions=resolutions,
        num_classes=int(label.n),
        choose_scale="scale" in action_space.spaces,
        # A vector [D], or cells [G, G, C].
        context_grid=context[0] if len(context) == 3 else 1,
        context_channels=context[-1] if context[-1] != features else None,
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


def _check_density(name: str) -> None:
    """Raise ValueError unless a density is registered by that name."""
    if name not in ("gaussian", "mixture"):  # the others need torch to be known
        from agents.densities import find_density

        find_density(name)
