"""The variants by name: what each changes in the settings of the plain model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from experiments.train.config import TrainConfig
from experiments.train.table1_cells import CELLS, FORMS

PLAIN = "plain"

Change = Callable[[TrainConfig], TrainConfig]


def _network(**changes: Any) -> Change:
    return lambda plain: replace(plain, network=replace(plain.network, **changes))


def _learning(**changes: Any) -> Change:
    return lambda plain: replace(plain, learning=replace(plain.learning, **changes))


def _several(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A configuration with another number of scanpaths, and as many images a step as before."""
    samples = changes.get("samples", config.learning.samples)
    images = config.batch_size // config.learning.samples
    return replace(
        config, batch_size=images * samples, learning=replace(config.learning, **changes)
    )


def _one_scanpath(plain: TrainConfig) -> TrainConfig:
    reward: Any = plain.learning.reward_kind
    return _several(plain, samples=1, reward=reward, baseline="network")


def _exact(plain: TrainConfig) -> TrainConfig:
    # One scanpath: what a further one would add, the sum over all places has already.
    one = _one_scanpath(plain)
    return replace(one, learning=replace(one.learning, policy_gradient="exact"))


def _staged(plain: TrainConfig) -> TrainConfig:
    part = max(1, plain.epochs // 5)
    return replace(
        plain, learning=replace(plain.learning, classifier_epochs=part, policy_epochs=part)
    )


def _steady(plain: TrainConfig) -> TrainConfig:
    # The middle of the way that the plain form takes, on a scale of ratios.
    middle = plain.network.sigma * plain.learning.sigma_decay ** ((plain.epochs - 1) / 2)
    network = replace(plain.network, sigma=round(middle, 4))
    return replace(plain, network=network, learning=replace(plain.learning, sigma_decay=1.0))


def _paper(plain: TrainConfig) -> TrainConfig:
    """The cell's other form, on the same data; epochs and images a step as asked for."""
    cell = next(each for each in CELLS.values() if _same_task(each.config, plain))
    paper = FORMS[f"{cell.name}-paper"].config
    kept = ("out", "seed", "data", "bank", "encoder", "device", "references")
    keep: dict[str, Any] = {key: getattr(plain, key) for key in kept}
    if plain.epochs != cell.config.epochs:
        keep["epochs"] = plain.epochs
    images = plain.batch_size // plain.learning.samples
    return replace(paper, batch_size=images * paper.learning.samples, **keep)


def _same_task(one: TrainConfig, two: TrainConfig) -> bool:
    return (one.resolutions, one.num_glimpses) == (two.resolutions, two.num_glimpses)


VARIANTS: dict[str, tuple[str, Change]] = {
    "paper": ("the paper's own learning, whole", _paper),
    "averaged": (
        "the context averaged to one vector",
        lambda plain: replace(plain, context_grid=1),
    ),
    "correct": ("the reward 1 for a right answer, else 0", _learning(reward="accuracy")),
    "one-scanpath": ("one scanpath an image, a learned baseline", _one_scanpath),
    "every-glimpse": (
        "a classification loss after every glimpse (weight 0.5)",
        _learning(glimpse_loss=0.5),
    ),
    "last-glimpse": (
        "a classification loss after the last glimpse alone",
        _learning(glimpse_loss=0.0),
    ),
    "gains": ("each glimpse credited with what it adds to log p(y)", _learning(reward="gain")),
    "whole": ("each glimpse credited with log p(y) in the end", _learning(reward="log_likelihood")),
    "exact": ("the exact gradient over all places, one scanpath", _exact),
    "steady": ("sigma the same from first to last epoch", _steady),
    "staged": ("a fifth of the epochs the classifier alone, then the policy alone", _staged),
    "hidden": ("a hidden layer of 256 in the location network", _network(location_hidden=256)),
    "norm": ("LayerNorm on the context's cells", _network(context_norm=True)),
    "plain-head": ("an ordinary output layer for the location", _network(location_head="plain")),
    "scaled-head": (
        "the location's output layer divided by sqrt(N)",
        _network(location_head="scaled"),
    ),
    "untold": ("the classifier is not told l", _network(location_input="none")),
    "intended": (
        "the classifier is told l as chosen, not as looked at",
        _network(location_input="intended"),
    ),
    "mixed": (
        "the classification loss reaches the location too (the paper's own)",
        _learning(location_gradient="mix"),
    ),
    "lstm": ("LSTM cells in both decks", _network(core="lstm")),
    "gru": ("GRU cells in both decks", _network(core="gru")),
    "multiply": ("what and where multiplied (Ba et al.)", _network(combine="multiply")),
    "mixture": (
        "a mixture of four Gaussians for the location",
        _network(location_density="mixture"),
    ),
    "scale": ("the scale chosen too", lambda plain: replace(plain, choose_scale=True)),
}
"""What each changes, in words and in the plain model's settings."""
