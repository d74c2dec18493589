"""Pictures of what an agent looked at, in the manner of the paper's Figures 3 and 6."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.answers import Answers
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramid import build_pyramid
from glimpse_env.render import scanpath_panel
from glimpse_env.retina import cut_patches, cut_scaled_patches


def draw_examples(
    dataset: ImageDataset,
    answers: Answers,
    resolutions: Sequence[str],
    folder: Path,
    count: int,
    seed: int = 0,
) -> list[Path]:
    """Draw random pictures of a split with their scanpath, glimpses and composite.

    Args:
        dataset: The split that was played, unmirrored.
        answers: Of every picture of it.
        resolutions: What each glimpse showed.
        folder: Where the PNG files go.
        count: How many.
        seed: Of the choice, so that two agents can be shown on the same pictures.

    Returns:
        The files, by picture; those of an earlier call are gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = "|".join(re.escape(name) for name in dataset.class_names)
    for path in folder.glob("*.png"):  # of an earlier choice, or with an earlier answer
        if re.fullmatch(rf"\d{{5,}}-({names})(-named-({names}))?\.png", path.name):
            path.unlink()
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:count]
    files = []
    for index in np.sort(chosen).tolist():
        image, fixations = dataset.image(index), answers.fixations[:, index]
        looks = len(fixations)
        scales = None if answers.scales is None else answers.scales[:, index]
        rest = np.zeros(looks, bool), np.arange(looks, dtype=np.uint64), tuple(resolutions)
        if scales is None:
            patches = cut_patches([build_pyramid(image)] * looks, fixations, *rest)
        else:
            patches = cut_scaled_patches([image] * looks, fixations, scales, *rest)
        right = bool(answers.predictions[index] == answers.labels[index])
        panel = scanpath_panel(
            image, fixations, patches, resolutions=resolutions, scales=scales, correct=right
        )
        truth = dataset.class_names[int(answers.labels[index])]
        named = dataset.class_names[int(answers.predictions[index])]
        path = folder / f"{index:05d}-{truth}{'' if right else f'-named-{named}'}.png"
        Image.fromarray(panel).save(path)
        files.append(path)
    return files
