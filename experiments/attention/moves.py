"""Whether fixations move with the image: off the centre, from look to look, and under a mirror."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from agents.reinforce import ReinforceAgent
from encoders.bank.feature_bank import FeatureBank
from experiments.attention.measures import as_record
from experiments.metrics import mean_estimate, share_estimate
from experiments.train.factory import PlayEnv, build_play_env
from experiments.train.loop import episodes
from experiments.train.playback import OpenRun

STILL = 0.1
"""How near two fixations count as the same place, in units of [-1, 1]."""
FRAME_REACH, FRAME_BINS = 1.5, 12
"""Histograms of fixations in a dog's box: from -1.5 to 1.5 of its half sides, 12 bins each way."""


def same_place(
    first: Float[np.ndarray, "*N 2"], second: Float[np.ndarray, "*N 2"]
) -> Bool[np.ndarray, "*N"]:
    """Return whether fixations are at the same place, pair by pair."""
    return np.linalg.norm(np.asarray(first) - second, axis=-1) <= STILL


def moved(fixations: Float[np.ndarray, "T N 2"]) -> list[dict[str, Any]]:
    """Share of images whose fixation moved, glimpse by glimpse.

    Returns:
        For each glimpse `from_centre`, and from the second on `from_previous`.
    """
    rows = []
    for t, here in enumerate(fixations):
        row = {"from_centre": as_record(share_estimate(~same_place(here, np.zeros(2))))}
        if t:
            row["from_previous"] = as_record(share_estimate(~same_place(here, fixations[t - 1])))
        rows.append(row)
    return rows


def frame_histogram(places: Float[np.ndarray, "n 2"]) -> dict[str, Any]:
    """Count where fixations fall relative to the dog's box: at the head, at the edge, or beside.

    Args:
        places: In the frame of the nearest box: within [-1, 1] inside it, y downwards.

    Returns:
        `edges` of the bins, alike along x and y; `share` of all fixations by bin, rows from the
        top; `beyond`, the share outside the bins; `upper_half`, the share of the fixations in a box
        that lie in its upper half, with its interval, None where none is in a box.
    """
    edges = np.linspace(-FRAME_REACH, FRAME_REACH, FRAME_BINS + 1)
    counts, _, _ = np.histogram2d(places[:, 1], places[:, 0], bins=[edges, edges])
    inside = places[(np.abs(places) <= 1.0).all(axis=1)]
    # Those on the line between the halves count half to each.
    upper = np.where(inside[:, 1] < 0, 1.0, np.where(inside[:, 1] > 0, 0.0, 0.5))
    return {
        "edges": edges.round(4).tolist(),
        "share": (counts / len(places)).round(5).tolist(),
        "beyond": round(1.0 - float(counts.sum()) / len(places), 5),
        "upper_half": as_record(mean_estimate(upper)) if len(inside) else None,
    }


def under_a_mirror(
    run: OpenRun, fixations: Float[np.ndarray, "T N 2"], images: np.ndarray, seed: int
) -> dict[str, Any] | None:
    """`mirrored_fixations` of a run's policy; None where its source has no mirrored features."""
    env = mirrored_env(run)
    if env is None:
        return None
    return mirrored_fixations(run.agents["learned"], env, images, fixations, seed)


def mirrored_env(run: OpenRun) -> PlayEnv | None:
    """The run's images again, each mirrored or not as it is drawn; None without mirrored features.

    A bank must hold them; a live encoder takes any image.
    """
    if isinstance(run.source, FeatureBank) and not run.source.mirrored:
        return None
    config = replace(run.config, mirror="on", context="center")
    return build_play_env(
        config, run.dataset.split, source=run.source, training=True, dataset=run.dataset
    )


def mirrored_fixations(
    agent: ReinforceAgent,
    env: PlayEnv,
    images: np.ndarray,
    fixations: Float[np.ndarray, "T N 2"],
    seed: int,
) -> dict[str, Any] | None:
    """Does a mirrored image get the mirrored fixation?

    About half of the images are drawn mirrored, and those are compared. A fixation on the vertical
    line through the middle is its own mirror image, so it is also told how often the others agree.

    Args:
        agent: Who plays.
        env: Of `mirrored_env`.
        images: Indices of the images.
        fixations: Where the agent looked in the images as they are.
        seed: Of the draw.

    Returns:
        `images`, and for each glimpse the share that agrees among all of them and among those
        looked at `off_the_line`; None where no image was drawn mirrored.
    """
    agent.seed(seed)
    places, flags = [], []
    for trajectory, count in episodes(agent, env, images, seed=seed):
        places.append(trajectory.fixations[:, :count].cpu().numpy())
        flags.append(env.mirrored[:count])
    there, chosen = np.concatenate(places, axis=1), np.concatenate(flags)
    if not chosen.any():
        return None
    glimpses = []
    for plain, seen in zip(fixations[:, chosen], there[:, chosen], strict=True):
        agrees = same_place(plain * [-1.0, 1.0], seen)
        aside = np.abs(plain[:, 0]) > STILL
        glimpses.append(
            {
                "agrees": as_record(share_estimate(agrees)),
                "off_the_line": as_record(share_estimate(agrees[aside])) if aside.any() else None,
                "count_off_the_line": int(aside.sum()),
            }
        )
    return {"images": int(chosen.sum()), "glimpses": glimpses}
