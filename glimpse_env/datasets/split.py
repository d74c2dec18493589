"""The seeded, stratified cut of a training list into training and validation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, Integer


def stratified_split(
    labels: Integer[np.ndarray, " N"], fraction: float = 0.2, seed: int = 0
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Hold out the same share of every class, at random but reproducibly.

    The paper chooses everything on 20% of the training list (section 3). Random numbers are taken
    raw from the bit generator, whose stream NumPy guarantees: the cut is the same on every version.

    Args:
        labels: Class of each image.
        fraction: Share held out, in [0, 1). A class gives `fraction` of its images, rounded to
            the nearest; where `fraction` > 0 a class of two or more gives at least one and keeps at
            least one, and a class of one keeps it.
        seed: Which cut.

    Returns:
        Indices kept and indices held out, each in increasing order. Together they are `range(N)`.

    Raises:
        ValueError: If `fraction` is outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"fraction must be in [0, 1), got {fraction}")
    keys = np.random.PCG64(seed).random_raw(len(labels))
    order = np.lexsort((keys, labels))
    _, first, count = np.unique(labels[order], return_index=True, return_counts=True)
    share = np.floor(count * fraction + 0.5).astype(np.int64)
    if fraction > 0:
        share = np.minimum(np.maximum(share, 1), count - 1)
    rank = np.arange(len(labels)) - np.repeat(first, count)
    held = np.zeros(len(labels), dtype=bool)
    held[order] = rank < np.repeat(share, count)
    return (
        np.flatnonzero(~held).astype(np.int64, copy=False),
        np.flatnonzero(held).astype(np.int64, copy=False),
    )
