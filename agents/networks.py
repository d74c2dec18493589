"""The two-deck network: glimpse, core, context, location, classification and baseline networks.

The lower deck r1 reads glimpses and names the class; the upper deck r2 starts from the context and
says where to look next (Sermanet et al. 2014, section 2, figure 2; Ba et al. 2014, section 3). The
context has no way to the classifier but through the locations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from agents.configs import TwoDeckConfig
from agents.densities import LocationDensity, find_density
from agents.densities.base import Sigmas

Hidden = tuple[Tensor, ...] | None
"""One deck's memory: (r,) for rnn and gru, (r, cell) for lstm; None stands for zeros."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
_NO_ZERO = 1e-30
_SQUASH: dict[str, Callable[[Tensor], Tensor]] = {"linear": nn.Identity(), "tanh": torch.tanh}


@dataclass(frozen=True)
class Memory:
    """Memory of the network within an episode: r1 and r2."""

    lower: Hidden
    upper: Hidden

    def replace_rows(self, chosen: Bool[Tensor, " B"], other: Memory) -> Memory:
        """Rows of the other memory where chosen, of this one elsewhere."""
        return Memory(
            _select(chosen, other.lower, self.lower), _select(chosen, other.upper, self.upper)
        )


def dropout(values: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout drawn from a given generator; without one (outside training) the identity.

    torch's own draws from the global generator, which no agent could replay.
    """
    if generator is None or rate == 0.0:
        return values
    kept = torch.rand(values.shape, device=generator.device, generator=generator) >= rate
    return values * kept.to(values.device) / (1.0 - rate)


class GlimpseNetwork(nn.Module):
    """Glimpse network: g = relu(W_g [relu(W_img v); relu(W_loc l)]), or their product.

    Section 2, third difference; the product is Ba et al.'s equation 1.
    """

    def __init__(self, config: TwoDeckConfig) -> None:
        """Build W_img, W_loc and, to concatenate, W_g."""
        super().__init__()
        self.config = config
        multiply = config.combine == "multiply"
        location_width = config.image_width if multiply else config.location_width
        self.image = _linear(config.num_resolutions * config.feature_size, config.image_width)
        self.location = _linear(config.location_size, location_width)
        # Without biases relu(W_loc l) is all zeros at the centre, where the first fixations lie:
        # under `multiply` nothing would be seen there, and no unit could tell one place from
        # another.
        if multiply:
            nn.init.ones_(self.location.bias)
        else:
            nn.init.uniform_(self.location.bias, -1.0, 1.0)
        self.combine = None
        if not multiply:
            self.combine = _linear(config.image_width + location_width, config.glimpse_width)

    def forward(
        self,
        features: Float[Tensor, "B S D"],
        location: Float[Tensor, "B A"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B G"]:
        """Combine what was seen and where it was seen."""
        config, act = self.config, _ACTIVATIONS[self.config.activation]
        features = dropout(
            standardise(features, config.normalise_features), config.feature_dropout, generator
        )
        what = act(self.image(features.flatten(1)))
        where = act(self.location(location))
        if self.combine is None:
            return dropout(what * where, config.dropout, generator)
        glimpse = act(self.combine(torch.cat((what, where), 1)))
        return dropout(glimpse, config.dropout, generator)


class VanillaCell(nn.Module):
    """r_n = relu(W x_n + U r_{n-1} + b), with U the identity at first.

    An identity keeps what ReLU units hold, and their gradient, over any number of glimpses (Le et
    al. 2015); for tanh U starts orthogonal.
    """

    def __init__(self, input_size: int, hidden_size: int, activation: str) -> None:
        """Build W and U."""
        super().__init__()
        self.activation = _ACTIVATIONS[activation]
        self.input = _linear(input_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        if activation == "relu":
            nn.init.eye_(self.recurrent.weight)
        else:
            nn.init.orthogonal_(self.recurrent.weight)

    def forward(self, values: Float[Tensor, "B X"], hidden: Hidden) -> tuple[Tensor, ...]:
        """One step; no hidden state stands for zeros and costs nothing."""
        total = self.input(values)
        if hidden is not None:
            total = total + self.recurrent(hidden[0])
        return (self.activation(total),)


class GatedCell(nn.Module):
    """torch's LSTM or GRU cell behind the same face, with orthogonal recurrent weights."""

    def __init__(self, input_size: int, hidden_size: int, kind: Literal["lstm", "gru"]) -> None:
        """Build the cell; an LSTM starts with its forget gates open (bias 1)."""
        super().__init__()
        self.cell = (nn.LSTMCell if kind == "lstm" else nn.GRUCell)(input_size, hidden_size)
        for block in self.cell.weight_hh.data.split(hidden_size):
            nn.init.orthogonal_(block)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)
        if kind == "lstm":
            nn.init.ones_(self.cell.bias_ih.data[hidden_size : 2 * hidden_size])

    def forward(self, values: Float[Tensor, "B X"], hidden: Hidden) -> tuple[Tensor, ...]:
        """Take one step of the recurrent cell."""
        if isinstance(self.cell, nn.LSTMCell):
            pair = None if hidden is None else (hidden[0], hidden[1])
            return tuple(self.cell(values, pair))
        return (self.cell(values, None if hidden is None else hidden[0]),)


class TwoDeckCore(nn.Module):
    """r1_n = R(g_n, r1_{n-1}) and r2_n = R(r1_n, r2_{n-1}) (Ba eq. 2)."""

    def __init__(self, config: TwoDeckConfig) -> None:
        """Build both decks."""
        super().__init__()

        def cell(input_size: int) -> nn.Module:
            if config.core == "rnn":
                return VanillaCell(input_size, config.hidden_size, config.activation)
            return GatedCell(input_size, config.hidden_size, config.core)

        self.lower = cell(config.core_input)
        self.upper = cell(config.hidden_size)

    def forward(self, glimpse: Float[Tensor, "B G"], memory: Memory, upper: bool = True) -> Memory:
        """One step of both decks; `upper=False` leaves r2 as it was (nothing reads r2_N)."""
        lower = self.lower(glimpse, memory.lower)
        return Memory(lower, self.upper(lower[0], memory.upper) if upper else memory.upper)


class ContextNetwork(nn.Module):
    """r2_0 = relu(W_c encoder(context)) (section 2), or of its map's cells where G > 1.

    r2_0 = relu(W_c [relu(W_cell [c_ij; x_ij; y_ij])]): one layer for all cells, which are told
    where they lie, then a layer that knows each cell's place. Averaged over the map, the context
    tells hardly where the dog is (Ba et al. 3 keep the layout too).
    """

    def __init__(self, config: TwoDeckConfig) -> None:
        """Build W_c, and W_cell where the context has cells."""
        super().__init__()
        self.config = config
        *_, channels = config.context_shape
        self.cell: nn.Linear | None = None
        self.norm: nn.LayerNorm | None = None
        self.places: Tensor
        width = channels
        if config.context_grid > 1:
            self.cell = _linear(channels + 2, config.cell_width)
            width = config.context_grid**2 * config.cell_width
            if config.context_norm:
                self.norm = nn.LayerNorm(width)
            self.register_buffer("places", _cell_centres(config.context_grid), persistent=False)
        self.linear = _linear(width, config.hidden_size)

    def forward(
        self, context: Float[Tensor, "B *cells C"], generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Start the upper deck; an LSTM's cell too, or its first gate would lose the context."""
        config, act = self.config, _ACTIVATIONS[self.config.activation]
        if context.shape[1:] != config.context_shape:
            raise ValueError(
                f"The network reads contexts of shape {config.context_shape}, the environment "
                f"shows {tuple(context.shape[1:])}: give both the same context_grid."
            )
        # All cells are brought to one scale together: one that is fainter than the rest stays so.
        context = standardise(context.flatten(1), config.normalise_features)
        if self.cell is not None:
            cells = context.unflatten(1, (config.context_grid**2, -1))
            places = self.places.to(cells).expand(len(cells), -1, -1)
            context = act(self.cell(torch.cat((cells, places), -1))).flatten(1)
            context = context if self.norm is None else self.norm(context)
        start = act(self.linear(dropout(context, config.context_dropout, generator)))
        return (start, start) if config.core == "lstm" else (start,)


def _cell_centres(grid: int) -> Float[Tensor, "cells 2"]:
    """Return (x, y) of the middle of each cell, row by row, in the coordinates of fixations."""
    axis = (torch.arange(grid) + 0.5) * (2.0 / grid) - 1.0
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


class ScaledLinear(nn.Module):
    """y = W r / sqrt(N) + b: a head whose step in y, for one learning rate, does not grow with N.

    r2 has thousands of non-negative units. With a plain layer one SGD step moves its output by
    learning_rate * |r2|^2, far out of the image at N = 4,096 (and a squared error diverges);
    divided by sqrt(N) twice, it does not. The functions it can express are the same.
    """

    def __init__(self, input_size: int, output_size: int, gain: float) -> None:
        """Draw W from N(0, gain^2); b starts at 0."""
        super().__init__()
        self.weight = nn.Parameter(gain * torch.randn(output_size, input_size))
        self.bias = nn.Parameter(torch.zeros(output_size))

    def forward(self, values: Float[Tensor, "B X"]) -> Float[Tensor, "B Y"]:
        """Apply the scaled linear layer."""
        return functional.linear(values / math.sqrt(values.shape[-1]), self.weight, self.bias)


class LocationNetwork(nn.Module):
    """Location network: lhat_{n+1} = E(r2_n) (Ba eq. 3).

    Small at first, so that the first fixations lie near the centre, at the ordinary scale.
    """

    def __init__(self, config: TwoDeckConfig) -> None:
        """Build E: a hidden layer if asked for, and the outputs that the density names."""
        super().__init__()
        self.config = config
        self.density = find_density(config.location_density)
        self.sigma_factor = 1.0
        """Set by the agent, epoch by epoch."""
        self.hidden, width = None, config.hidden_size
        if config.location_hidden:
            self.hidden = _linear(config.hidden_size, config.location_hidden)
            width = config.location_hidden
        self.heads = tuple(self.density.heads(config.location_size, config.num_components))
        for name, head in self.density.heads(config.location_size, config.num_components).items():
            self.add_module(name, _head(config, width, head.bias))

    def forward(self, upper: Float[Tensor, "B N"]) -> LocationDensity:
        """Return the density of the next location."""
        config = self.config
        if self.hidden is not None:
            upper = _ACTIVATIONS[config.activation](self.hidden(upper))
        outputs = {name: self.get_submodule(name)(upper) for name in self.heads}
        sigmas = Sigmas(
            config.sigma * self.sigma_factor, config.scale_sigma if config.choose_scale else None
        )
        return self.density.build(outputs, sigmas, _SQUASH[config.squash])


def _head(config: TwoDeckConfig, width: int, bias: Float[Tensor, " O"]) -> nn.Module:
    if config.location_head == "plain":
        head: ScaledLinear | nn.Linear = nn.Linear(width, len(bias))
        nn.init.normal_(head.weight, std=0.1 / math.sqrt(width))
    else:
        head = ScaledLinear(width, len(bias), gain=0.1)
    head.bias.data.copy_(bias)
    return head


class ClassificationNetwork(nn.Module):
    """log p(y) = log softmax(O(r1)): reads the lower deck only (Ba eq. 4)."""

    def __init__(self, config: TwoDeckConfig) -> None:
        """Build O, small at first so that all classes start alike."""
        super().__init__()
        self.rate = config.dropout
        self.linear = nn.Linear(config.hidden_size, config.num_classes)
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(config.hidden_size))
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, lower: Float[Tensor, "B N"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B K"]:
        """Log-probabilities of the classes, in nats."""
        return functional.log_softmax(self.linear(dropout(lower, self.rate, generator)), -1)


class BaselineNetwork(nn.Module):
    """b = B(stop_grad(r2)): predicts the return and trains only itself (Ba eq. 11)."""

    def __init__(self, config: TwoDeckConfig) -> None:
        """Build the layers of the baseline network."""
        super().__init__()
        self.linear = ScaledLinear(config.hidden_size, 1, gain=0.0)

    def forward(self, upper: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """Return the predicted return of each row."""
        return self.linear(upper.detach()).squeeze(-1)


class TwoDeckNetwork(nn.Module):
    """The six networks, and the four things an agent asks of them."""

    def __init__(self, config: TwoDeckConfig) -> None:
        """Build and initialise everything from torch's global generator."""
        super().__init__()
        self.config = config
        self.glimpse = GlimpseNetwork(config)
        self.core = TwoDeckCore(config)
        self.context = ContextNetwork(config)
        self.location = LocationNetwork(config)
        self.classification = ClassificationNetwork(config)
        self.baseline = BaselineNetwork(config)

    def begin(
        self, context: Float[Tensor, "B *cells C"], generator: torch.Generator | None = None
    ) -> Memory:
        """Memory before the first look: r1_0 = 0, r2_0 from the context."""
        return Memory(None, self.context(context, generator))

    def look(
        self,
        features: Float[Tensor, "B S D"],
        location: Float[Tensor, "B A"],
        memory: Memory,
        *,
        upper: bool = True,
        generator: torch.Generator | None = None,
    ) -> Memory:
        """Take in one glimpse. A generator switches dropout on."""
        return self.core(self.glimpse(features, location, generator), memory, upper)

    def where(self, memory: Memory) -> LocationDensity:
        """Density of the next location, from the upper deck."""
        return self.location(_output(memory.upper, "upper"))

    def classify(
        self, memory: Memory, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B K"]:
        """Class log-probabilities, from the lower deck."""
        return self.classification(_output(memory.lower, "lower"), generator)

    def value(self, memory: Memory) -> Float[Tensor, " B"]:
        """The baseline's prediction of the return, from the upper deck without its gradient."""
        return self.baseline(_output(memory.upper, "upper"))


def _select(chosen: Bool[Tensor, " B"], new: Hidden, old: Hidden) -> Hidden:
    if new is None or old is None:
        model = old if new is None else new
        if model is None:
            return None
        zeros = tuple(torch.zeros_like(part) for part in model)
        new, old = (zeros, model) if new is None else (model, zeros)
    return tuple(torch.where(chosen[:, None], a, b) for a, b in zip(new, old, strict=True))


def _output(hidden: Hidden, deck: str) -> Tensor:
    if hidden is None:
        raise ValueError(f"The {deck} deck is empty: call begin() and, to classify, look() first.")
    return hidden[0]


def standardise(features: Float[Tensor, "*B D"], how: str) -> Float[Tensor, "*B D"]:
    """Bring a patch's features to one scale; see `TwoDeckConfig.normalise_features`."""
    if how == "none":
        return features
    if how == "root":
        # Power normalisation tames bursts (Perronnin et al. 2010).
        # Zeros, half of what a ReLU gives, take torch's square root five times as long.
        features = features.sign() * features.abs().clamp_min(_NO_ZERO).sqrt()
    return functional.layer_norm(features, features.shape[-1:])


def _linear(input_size: int, output_size: int) -> nn.Linear:
    layer = nn.Linear(input_size, output_size)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
