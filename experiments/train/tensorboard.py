"""What TensorBoard shows besides curves: scanpaths, where fixations gather, and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from experiments.metrics import Answers
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.rendering.scanpath import draw_scanpath

EVERY = 5
"""Epochs between images; the first and the last epoch have some too."""

_SHOWN = 4
_CELLS = 64


def heat_map(fixations: Float[np.ndarray, "N 2"]) -> UInt8[np.ndarray, "H W 3"]:
    """Draw where fixations gather, as a square image from black over red to white."""
    edges = np.linspace(-1, 1, _CELLS + 1)
    y, x = np.clip(fixations[:, 1], -1, 1), np.clip(fixations[:, 0], -1, 1)
    counts, _, _ = np.histogram2d(y, x, bins=(edges, edges))
    smooth = np.sqrt(gaussian_filter(counts, 1.5))
    level = 3 * smooth / max(float(smooth.max()), 1e-9)
    colors = np.clip(level[..., None] - np.arange(3), 0, 1)
    return (255 * np.kron(colors, np.ones((4, 4, 1)))).astype(np.uint8)


def write_looks(writer: SummaryWriter, answers: Answers, dataset: ImageDataset, epoch: int) -> None:
    """Write the scanpaths on a few images, the same each time, and a heat map of each glimpse.

    Args:
        writer: Of the agent.
        answers: On every image of the split.
        dataset: The split.
        epoch: Step that they are of.
    """
    for t, fixations in enumerate(answers.fixations):
        writer.add_image(
            f"fixations/glimpse_{t + 1}", heat_map(fixations), epoch, dataformats="HWC"
        )
    for index in np.linspace(0, len(dataset) - 1, min(_SHOWN, len(dataset)), dtype=int).tolist():
        try:
            image = dataset.image(index)
        except (OSError, ValueError):
            continue  # a bank trains without its images
        right = bool(answers.predictions[index] == answers.labels[index])
        drawn = draw_scanpath(image, answers.fixations[:, index], correct=right)
        writer.add_image(f"scanpaths/image_{index}", drawn, epoch, dataformats="HWC")


def write_settings(
    writer: SummaryWriter, record: Mapping[str, Any], results: Mapping[str, float]
) -> None:
    """Write the page of hyper-parameters: a run's settings beside its results.

    Args:
        writer: Of the agent.
        record: The configuration as JSON has it.
        results: Numbers by name, under which curves of the agent go too.
    """
    for part in hparams(flatten(record), dict(results)):
        writer._get_file_writer().add_summary(part)


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Settings of all levels by dotted names; lists and what is not set as text.

    Example:
        >>> flatten({"epochs": 3, "network": {"cell": "rnn"}, "bank": None})
        {'epochs': 3, 'network.cell': 'rnn', 'bank': 'None'}
    """
    found: dict[str, bool | int | float | str] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = (
                value if isinstance(value, (bool, int, float, str)) else str(value)
            )
    return found
