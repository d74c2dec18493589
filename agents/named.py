"""The project's own policies under the names they are registered by (`pyproject.toml`).

Each is called as anybody's policy is, with the two spaces of one environment. What a run knows
besides, its network, learning, device and seed, it hands to whoever has an argument of that name.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.policy import Observation
from agents.reference import Chooser, ReferenceAgent, center, lattice_scan, uniform
from agents.reinforce import ReinforceAgent
from agents.saliency import by_saliency


def two_deck(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    network: TwoDeckConfig | None = None,
    learning: ReinforceConfig | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> ReinforceAgent:
    """The paper's agent."""
    return ReinforceAgent.from_spaces(
        observation_space, action_space, network=network, learning=learning, device=device,
        seed=seed,
    )  # fmt: skip


def look_at_center(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    network: TwoDeckConfig | None = None,
    learning: ReinforceConfig | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> ReferenceAgent:
    """Always the middle of the picture."""
    run = {"network": network, "learning": learning, "device": device, "seed": seed}
    return _reference(center, observation_space, action_space, run)


def look_at_random(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    network: TwoDeckConfig | None = None,
    learning: ReinforceConfig | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> ReferenceAgent:
    """Anywhere, evenly."""
    run = {"network": network, "learning": learning, "device": device, "seed": seed}
    return _reference(uniform, observation_space, action_space, run)


def scan_lattice(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    network: TwoDeckConfig | None = None,
    learning: ReinforceConfig | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    side: int | None = None,
    extent: float = 0.5,
) -> ReferenceAgent:
    """The points of a lattice, row by row.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        network: Settings; its `num_glimpses` is T.
        learning: Settings.
        device: `auto` takes the GPU if there is one.
        seed: Of weights and draws.
        side: Points a row; by default the fewest that give every glimpse its own.
        extent: The lattice covers [-extent, extent] both ways.
    """
    looks = (network or TwoDeckConfig()).num_glimpses
    side = math.isqrt(looks - 1) + 1 if side is None else side
    if side * side < looks:
        raise ValueError(
            f"A lattice of side {side} has {side * side} points, fewer than the {looks} glimpses: "
            "give a larger side."
        )
    run = {"network": network, "learning": learning, "device": device, "seed": seed}
    return _reference(lattice_scan(side, extent), observation_space, action_space, run)


def look_at_salient(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    network: TwoDeckConfig | None = None,
    learning: ReinforceConfig | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    inhibition: float = 0.125,
) -> ReferenceAgent:
    """What stands out in the context, see `agents.saliency`."""
    run = {"network": network, "learning": learning, "device": device, "seed": seed}
    return _reference(by_saliency(inhibition), observation_space, action_space, run)


look_at_salient.requires = ("pixels", "frame")  # pyright: ignore[reportFunctionMemberAccess]


def look_at_box(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    network: TwoDeckConfig | None = None,
    learning: ReinforceConfig | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    part: Literal["head", "body"] = "head",
) -> ReferenceAgent:
    """The middle of the dog's box, which no policy can know: a yardstick.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        network: Settings.
        learning: Settings.
        device: `auto` takes the GPU if there is one.
        seed: Of weights and draws.
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

    run = {"network": network, "learning": learning, "device": device, "seed": seed}
    return _reference(choose, observation_space, action_space, run)


look_at_box.requires = ("box",)  # pyright: ignore[reportFunctionMemberAccess]


def _reference(
    chooser: Chooser,
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    run: dict[str, Any],
) -> ReferenceAgent:
    return ReferenceAgent.from_spaces(observation_space, action_space, chooser=chooser, **run)
