"""Reference agents: fixations that were not learned, under a classifier trained the same way.

They say what *choosing where to look* is worth: the network, the loss and the schedule are the
learned agent's, only the locations are given. The oracle picks its fixations by the true label, a
ceiling.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.densities import LocationDensity
from agents.location import at_ordinary_scale
from agents.networks import Memory
from agents.reinforce import ReinforceAgent
from agents.trajectory import Observation

Chooser = Callable[[Tensor, Observation, torch.Generator], Tensor]
"""`chooser(step, observation, generator)`: fixations `[B, 2]` for rows about to take glimpse `step`
(int64 `[B]` on the CPU, from 0), which see `observation` now (on the agent's device)."""


def center(
    step: Int[Tensor, " B"], observation: Observation, generator: torch.Generator
) -> Float[Tensor, "B 2"]:
    """Always the middle of the image.

    Args:
        step: Glimpse that each row is about to take, from 0.
        observation: What the rows see now.
        generator: Source of random numbers.

    Returns:
        Zeros.

    Example:
        >>> from agents.reference import center
        >>> center(torch.zeros(2, dtype=torch.long), {}, torch.Generator()).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    return torch.zeros(step.shape[0], 2)


def uniform(
    step: Int[Tensor, " B"], observation: Observation, generator: torch.Generator
) -> Float[Tensor, "B 2"]:
    """Anywhere in the image, evenly.

    Args:
        step: Glimpse that each row is about to take, from 0.
        observation: What the rows see now.
        generator: Source of random numbers.

    Returns:
        Fixations drawn uniformly from [-1, 1]^2.

    Example:
        >>> from agents.reference import uniform
        >>> points = uniform(torch.zeros(4, dtype=torch.long), {}, torch.Generator())
        >>> points.shape, bool((points.abs() <= 1.0).all())
        (torch.Size([4, 2]), True)
    """
    return torch.rand(step.shape[0], 2, generator=generator) * 2.0 - 1.0


def scripted(points: Float[Tensor, "T 2"]) -> Chooser:
    """The same scanpath for every image, one point a glimpse.

    Args:
        points: Fixation of each glimpse.

    Returns:
        A chooser that looks there.

    Example:
        >>> from agents.reference import scripted
        >>> choose = scripted(torch.tensor([[0.0, 0.0], [0.5, -0.5]]))
        >>> choose(torch.tensor([1]), {}, torch.Generator()).tolist()
        [[0.5, -0.5]]
    """
    _check_points(points)

    def choose(
        step: Int[Tensor, " B"], observation: Observation, generator: torch.Generator
    ) -> Float[Tensor, "B 2"]:
        return points.cpu()[_check_step(step, len(points))]

    return choose


def given(fixations: Float[Tensor, "T B 2"]) -> Chooser:
    """A scanpath for each row: what another agent, a person or a saliency map chose.

    Args:
        fixations: Fixations of each glimpse and row.

    Returns:
        A chooser that looks there.

    Example:
        >>> from agents.reference import given
        >>> choose = given(torch.tensor([[[0.0, 0.0], [0.5, 0.5]]]))  # one glimpse of two rows
        >>> choose(torch.zeros(2, dtype=torch.long), {}, torch.Generator()).tolist()
        [[0.0, 0.0], [0.5, 0.5]]
    """
    _check_points(fixations)

    def choose(
        step: Int[Tensor, " B"], observation: Observation, generator: torch.Generator
    ) -> Float[Tensor, "B 2"]:
        if step.shape[0] != fixations.shape[1]:
            raise ValueError(
                f"The fixations given are for {fixations.shape[1]} rows, the batch has "
                f"{step.shape[0]}."
            )
        return fixations.cpu()[_check_step(step, len(fixations)), torch.arange(step.shape[0])]

    return choose


def lattice_points(side: int, extent: float = 1.0) -> Float[Tensor, "L 2"]:
    """A side x side lattice over [-extent, extent]^2, row by row; its middle alone for side 1.

    Args:
        side: Points a side, at least 1.
        extent: Outermost coordinate.

    Returns:
        Points (x, y), row by row.

    Example:
        >>> from agents.reference import lattice_points
        >>> lattice_points(2, 0.5).tolist()
        [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    """
    if side < 1:
        raise ValueError(f"A lattice needs a side of at least 1, got {side}.")
    axis = torch.linspace(-extent, extent, side) if side > 1 else torch.zeros(1)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


def lattice_scan(side: int, extent: float = 0.5) -> Chooser:
    """Read the image like a page: the points of a lattice, one a glimpse (side^2 at most).

    Args:
        side: Points a side, at least 1.
        extent: Outermost coordinate.

    Returns:
        A chooser that visits them in order.

    Example:
        >>> from agents.reference import lattice_scan
        >>> lattice_scan(2)(torch.tensor([3]), {}, torch.Generator()).tolist()
        [[0.5, 0.5]]
    """
    return scripted(lattice_points(side, extent))


class ReferenceAgent(ReinforceAgent):
    """The learned agent's lower deck and learning, with fixations from a chooser, at scale 0.

    Example:
        >>> from agents.reference import ReferenceAgent, center
        >>> network = TwoDeckConfig(feature_size=8, num_classes=4, hidden_size=16)
        >>> agent = ReferenceAgent(center, network, device="cpu")
        >>> agent.learns_where
        False
    """

    learns_where = False

    def __init__(
        self,
        chooser: Chooser,
        network: TwoDeckConfig,
        learning: ReinforceConfig | None = None,
        *,
        device: str | torch.device = "auto",
        seed: int = 0,
    ) -> None:
        """Build the agent; only the classification loss trains it.

        Args:
            chooser: Where to look: `center`, `uniform`, `scripted(...)`, `given(...)`, or your own.
            network: As for `ReinforceAgent`; the upper deck is built but never used.
            learning: As for `ReinforceAgent`; what concerns the policy has no effect.
            device: `auto` takes the GPU if there is one.
            seed: Of the initial weights and of every later draw.
        """
        super().__init__(network, learning, device=device, seed=seed)
        self.chooser = chooser

    def _choose_location(
        self, memory: Memory, observation: Observation, deterministic: bool
    ) -> tuple[Tensor, LocationDensity | None, Tensor | None]:
        total, remaining = self.config.num_glimpses, observation["remaining"].squeeze(-1)
        step = ((1.0 - remaining) * total).round().long().cpu().clamp(0, total - 1)
        location = self.chooser(step, observation, self.generator)
        if tuple(location.shape) != (step.shape[0], 2):
            raise ValueError(
                f"The chooser must return fixations of shape ({step.shape[0]}, 2), got "
                f"{tuple(location.shape)}."
            )
        return at_ordinary_scale(location.to(remaining), self.config), None, None


def oracle_fixations(
    evaluate_at: Callable[[Tensor], Tensor],
    labels: Int[Tensor, " B"],
    lattice: Float[Tensor, "L 2"],
    start: Float[Tensor, "T B 2"],
) -> tuple[Float[Tensor, "T B 2"], Float[Tensor, " B"]]:
    """Choose, image by image, the lattice points that help the classifier most.

    A ceiling on looking well. Greedy: glimpse by glimpse the point with the highest log p(true
    label), the other glimpses held, and kept where it was if none is better. So it never does
    worse than `start`. It knows the label, so it is a yardstick and no policy.

    Args:
        evaluate_at: Class log-probabilities `[B, K]` after glimpses at the fixations `[T, B, 2]`;
            for an agent `lambda f: agent.score(features_at(f), f)`.
        labels: The true classes.
        lattice: Candidate fixations.
        start: Fixations to begin with, such as the learned ones.

    Returns:
        The fixations, and log p(true label) there, in nats.

    Example:
        >>> from agents.reference import lattice_points, oracle_fixations
        >>> def evaluate_at(fixations):  # class 0 is likelier the further right one looks
        ...     return torch.stack((fixations[0, :, 0], -fixations[0, :, 0]), 1).log_softmax(1)
        >>> labels, start = torch.tensor([0]), torch.zeros(1, 1, 2)
        >>> fixations, _ = oracle_fixations(evaluate_at, labels, lattice_points(2), start)
        >>> fixations.tolist()
        [[[1.0, -1.0]]]
    """
    fixations = start.clone()

    def score(candidate: Float[Tensor, "T B 2"]) -> Float[Tensor, " B"]:
        log_probs = evaluate_at(candidate)
        return log_probs.gather(1, labels[:, None].to(log_probs.device)).squeeze(1)

    with torch.no_grad():
        best = score(fixations)
        for glimpse in range(fixations.shape[0]):
            chosen = fixations[glimpse].clone()
            for point in lattice:
                candidate = fixations.clone()
                candidate[glimpse] = point
                found = score(candidate)
                better = found > best
                best = torch.where(better, found, best)
                chosen = torch.where(better.to(chosen.device)[:, None], point.to(chosen), chosen)
            fixations[glimpse] = chosen
    return fixations, best


def _check_points(points: Tensor) -> None:
    if points.ndim < 2 or points.shape[-1] != 2 or not bool((points.abs() <= 1.0).all()):
        raise ValueError(
            f"Fixations are (x, y) within [-1, 1]; got shape {tuple(points.shape)} with values up "
            f"to {float(points.abs().max()) if points.numel() else 'none'}."
        )


def _check_step(step: Tensor, available: int) -> Tensor:
    if bool((step >= available).any()):
        raise ValueError(
            f"The script holds {available} fixations, but glimpse {int(step.max()) + 1} was asked "
            "for: give one point a glimpse."
        )
    return step
