"""The project's own policies under the names they are registered by (`pyproject.toml`).

Each is called as anybody's policy is, with the two spaces of one environment. What a run knows
besides, its network, learning, device and seed, it hands to whoever has an argument of that name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reference.agent import Chooser, ReferenceAgent, center, lattice_scan, uniform
from agents.reference.saliency import by_saliency
from agents.reinforce import ReinforceAgent
from agents.trajectory import Observation


def two_deck(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    network: TwoDeckConfig | None = None,
    learning: ReinforceConfig | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> ReinforceAgent:
    """Build the two-deck agent of the paper.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        network: Settings of the network; what the spaces determine follows them.
        learning: Settings of learning.
        device: `auto` takes the GPU if there is one.
        seed: Seed of the weights and of every later draw.

    Returns:
        The agent.

    Example:
        >>> import gymnasium
        >>> from agents.reference import two_deck
        >>> env = gymnasium.make("glimpse_env:SyntheticDogsGlimpse-v0")
        >>> spaces = env.observation_space, env.action_space
        >>> agent = two_deck(*spaces, network=TwoDeckConfig(hidden_size=16), device="cpu")
        >>> agent.config.hidden_size
        16
    """
    return ReinforceAgent.from_spaces(
        observation_space,
        action_space,
        network=network,
        learning=learning,
        device=device,
        seed=seed,
    )


_SETTINGS = {
    name: each
    for name, each in signature(two_deck).parameters.items()
    if each.kind is Parameter.KEYWORD_ONLY
}
"""Arguments that all of our own policies take, besides the two spaces."""


def _reference(
    *requires: str,
) -> Callable[[Callable[..., Chooser]], Callable[..., ReferenceAgent]]:
    """Make a policy of what gives a chooser: ours but for the looks, called as `two_deck` is.

    Args:
        requires: What the chooser asks of an observation, see `agents.policy.REQUIRES`.

    Returns:
        A decorator of functions from T glimpses, and options of the policy's own, to a chooser.
    """

    def decorate(choose: Callable[..., Chooser]) -> Callable[..., ReferenceAgent]:
        @wraps(choose)
        def build(
            observation_space: spaces.Dict, action_space: spaces.Dict, **given: Any
        ) -> ReferenceAgent:
            settings = {name: given.pop(name) for name in _SETTINGS.keys() & given.keys()}
            network = settings.get("network") or TwoDeckConfig()
            chooser = choose(network.num_glimpses, **given)
            return ReferenceAgent.from_spaces(
                observation_space,
                action_space,
                chooser=chooser,
                **{name: each.default for name, each in _SETTINGS.items()} | settings,
            )

        # Who builds a policy asks its signature which arguments it takes.
        common = signature(two_deck).parameters.values()
        _, *own = signature(choose).parameters.values()
        assert all(each.kind is Parameter.KEYWORD_ONLY for each in own)
        made: Any = build
        made.__signature__ = Signature([*common, *own])
        made.requires = requires
        return build

    return decorate


@_reference()
def look_at_center(num_glimpses: int) -> Chooser:
    """Always the middle of the image."""
    return center


@_reference()
def look_at_random(num_glimpses: int) -> Chooser:
    """Look at uniformly random places."""
    return uniform


@_reference()
def scan_lattice(num_glimpses: int, *, side: int | None = None, extent: float = 0.5) -> Chooser:
    """The points of a lattice, row by row.

    Args:
        num_glimpses: T.
        side: Points a row; by default the fewest that give every glimpse its own.
        extent: The lattice covers [-extent, extent] both ways.
    """
    side = math.isqrt(num_glimpses - 1) + 1 if side is None else side
    if side * side < num_glimpses:
        raise ValueError(
            f"A lattice of side {side} has {side * side} points, fewer than the {num_glimpses} "
            "glimpses: give a larger side."
        )
    return lattice_scan(side, extent)


@_reference("pixels", "frame")
def look_at_salient(num_glimpses: int, *, inhibition: float = 0.125) -> Chooser:
    """Look at what stands out in the context; see `agents.reference.saliency`."""
    return by_saliency(inhibition)


@_reference("box")
def look_at_box(num_glimpses: int, *, part: Literal["head", "body"] = "head") -> Chooser:
    """The middle of the dog's box, which no policy can know: a yardstick.

    Args:
        num_glimpses: T.
        part: `head`, where its box is known (the synthetic dogs'), or the whole `body`.
    """
    if part not in ("head", "body"):
        raise ValueError(f"part is 'head' or 'body', not {part!r}.")
    key = "box" if part == "head" else "body_box"

    def choose(
        step: Int[Tensor, " B"], observation: Observation, generator: torch.Generator
    ) -> Float[Tensor, "B 2"]:
        if key not in observation:
            raise ValueError(
                f"The box oracle looks at observation[{key!r}], and this environment shows none: "
                "make it show what the policy's `requires` asks for."
            )
        return observation[key]

    return choose
