"""Faces from the keypoints of StanfordExtra, a file that its users obtain themselves.

StanfordExtra (Biggs et al. 2020) marks joints of the dogs in about half of Stanford Dogs' images.
A face is the box around its visible ear bases, nose, chin and eyes, grown by a quarter of its
longer side: a fixation on it shows the face in the middle of even the sharpest patch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from glimpse_env.datasets.base import ImageDataset, size_of

FACE_JOINTS = (14, 15, 16, 17, 20, 21)
"""Of its 24 joints: bases of the left and right ear, nose, chin, left and right eye. The first
edition has 20 joints, and no eyes among them."""

_GROWN = 0.25
_FEWEST = 3
_REMEDY = "give --keypoints the JSON file of StanfordExtra, as its authors hand it out"


def read_faces(
    path: Path, dataset: ImageDataset, images: Int64[np.ndarray, " N"]
) -> list[Float[np.ndarray, "M 4"]]:
    """Boxes of the faces in some images, in their pixels; none where none is known.

    Args:
        path: A list of objects with `img_path`, `img_width`, `img_height` and `joints`, each joint
            x, y and whether it is visible.
        dataset: Whose images they are; they go by `name`.
        images: Indices.

    Raises:
        ValueError: The file is absent, of another form, or knows none of these images.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there: {_REMEDY}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {_REMEDY}") from error
    found: dict[str, list[tuple[Float[np.ndarray, " 2"], np.ndarray]]] = {}
    try:
        for entry in entries:
            size = np.array([entry["img_width"], entry["img_height"]], np.float64)
            if not (size > 0).all():
                raise ValueError(f"{entry['img_path']} is of size {size.tolist()}")
            face = face_box(np.array(entry["joints"], np.float64))
            if face is not None:
                found.setdefault(entry["img_path"], []).append((size, face))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is of another form ({_what(error)}): {_REMEDY}") from error
    boxes = []
    for index in images.tolist():
        size = np.array(size_of(dataset, index), np.float64)
        scaled = [
            face * np.tile(size / original, 2)
            for original, face in found.get(dataset.name(index), [])
        ]
        boxes.append(np.stack(scaled) if scaled else np.zeros((0, 4)))
    if not any(len(each) for each in boxes):
        raise ValueError(
            f"{path} has no face in the {len(images)} images watched: it is of other images, or "
            "only of other splits than this one"
        )
    return boxes


def face_box(joints: Float[np.ndarray, "J 3"]) -> Float[np.ndarray, " 4"] | None:
    """The box of a face from a dog's joints; None where fewer than three of them are visible.

    Raises:
        ValueError: There are not 20 or 24 joints of three numbers.
    """
    if joints.shape not in ((20, 3), (24, 3)):
        raise ValueError(f"joints of shape {joints.shape}, not 20 or 24 of x, y and visible")
    chosen = joints[[joint for joint in FACE_JOINTS if joint < len(joints)]]
    seen = chosen[chosen[:, 2] > 0, :2]
    if len(seen) < _FEWEST:
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    grown = _GROWN * float((high - low).max())
    return np.concatenate([low - grown, high + grown])


def _what(error: Exception) -> Any:
    return f"no {error}" if isinstance(error, KeyError) else error
