"""Scanpaths as a table, one row a glimpse, in CSV or Parquet: for R, pandas or a gaze toolbox."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.geometry import inside, to_pixels
from experiments.runtime.runs import write_whole
from experiments.train.playback import Playback
from glimpse_env.datasets.base import ImageDataset

Columns = dict[str, np.ndarray]
"""Name of each column and its values, in the order of the file."""

SUFFIXES = (".csv", ".parquet")


def check_scanpath_file(path: Path | None) -> None:
    """Refuse a file that could not be written in the end, before anything is computed.

    Raises:
        ValueError: Another suffix than `.csv` and `.parquet`, a folder, or pyarrow is absent.
    """
    if path is None:
        return
    if path.suffix not in SUFFIXES or path.is_dir():
        raise ValueError(f"--scanpaths takes a file that ends in .csv or .parquet, not {path}")
    if path.suffix == ".parquet":
        _parquet()


def tabulate(
    dataset: ImageDataset,
    sizes: Sequence[tuple[int, int]],
    watched: Playback,
    *,
    run: str,
    agent: str,
    resolutions: Sequence[str],
    faces: Sequence[np.ndarray] | None = None,
) -> Columns:
    """The scanpaths of one agent: image by image, glimpse by glimpse.

    Args:
        dataset: The split that was watched.
        sizes: Width and height of each image watched, in pixels.
        watched: What the agent did.
        run: Title of its run.
        agent: Its name.
        resolutions: What each glimpse shows.
        faces: Boxes of the face in each image, `[M, 4]`, where keypoints are known; M may be 0.

    Returns:
        `x` and `y` in pixels of the image; `fixation_x` and `fixation_y` in [-1, 1]; `zoom` (0
        where it is not chosen); `breed`, `answer`, `right` and `confidence` after that glimpse; one
        column `probability:<class>` for each class; and with faces `on_face`: 1, 0, or empty where
        no face is known.
    """
    looks, count = watched.fixations.shape[:2]
    names = [dataset.name(index) for index in watched.images.tolist()]
    classes = np.array([_plain(name) for name in dataset.class_names], object)
    points = np.stack(
        [to_pixels(watched.fixations[:, n], size) for n, size in enumerate(sizes)]
    ).reshape(-1, 2)
    fixations = watched.fixations.transpose(1, 0, 2).reshape(-1, 2)
    answers = watched.predictions.T.ravel()
    probabilities = np.exp(watched.log_probs).transpose(1, 0, 2).reshape(count * looks, -1)
    labels = np.repeat(watched.labels, looks)
    scales = np.zeros(count * looks) if watched.scales is None else watched.scales.T.ravel()
    columns: Columns = {
        "run": _repeated(run, count * looks),
        "agent": _repeated(agent, count * looks),
        "image": np.repeat(watched.images, looks),
        "name": np.repeat(np.array([_plain(name) for name in names], object), looks),
        "width": np.repeat([size[0] for size in sizes], looks),
        "height": np.repeat([size[1] for size in sizes], looks),
        "breed": classes[labels],
        "glimpse": np.tile(np.arange(1, looks + 1), count),
        "x": points[:, 0].round(2),
        "y": points[:, 1].round(2),
        "fixation_x": fixations[:, 0].astype(np.float64).round(5),
        "fixation_y": fixations[:, 1].astype(np.float64).round(5),
        "zoom": scales.astype(np.float64).round(4),
        "resolution": _repeated("+".join(resolutions), count * looks),
        "answer": classes[answers],
        "right": answers == labels,
        "confidence": probabilities.max(axis=1).round(6),
    }
    if faces is not None:
        there = np.repeat([len(boxes) > 0 for boxes in faces], looks)
        on = np.concatenate(
            [
                inside(points[n * looks : (n + 1) * looks], boxes).any(axis=1)
                if len(boxes)
                else np.zeros(looks, bool)
                for n, boxes in enumerate(faces)
            ]
        )
        columns["on_face"] = _known(on, there)
    for label, name in enumerate(classes):
        columns[f"probability:{name}"] = probabilities[:, label].round(6)
    return columns


def write_scanpaths(path: Path, tables: Sequence[Columns]) -> int:
    """Write the tables of several agents below each other; returns the number of rows.

    Raises:
        ValueError: The agents know different classes, or pyarrow is absent.
    """
    names = list(tables[0])
    if any(list(table) != names for table in tables):
        raise ValueError(
            "scanpaths of runs with different classes do not fit into one table: write them to "
            "files of their own, one a data set"
        )
    whole = {name: np.concatenate([table[name] for table in tables]) for name in names}
    rows = len(whole["image"])
    if path.suffix == ".parquet":
        arrow, parquet = _parquet()
        sink = io.BytesIO()
        parquet.write_table(arrow.table({k: arrow.array(v) for k, v in whole.items()}), sink)
        write_whole(path, sink.getvalue())
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(names)
        columns = [_cells(values) for values in whole.values()]
        writer.writerows(zip(*columns, strict=True))
        write_whole(path, text.getvalue().encode("utf-8"))
    return rows


def _cells(values: np.ndarray) -> list[Any]:
    """Truth values as 1 and 0, as R and pandas read them; unknown ones empty."""
    return [
        "" if value is None else int(value) if isinstance(value, bool) else value
        for value in values.tolist()
    ]


def _known(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Truth values, None where nothing is known."""
    found = values.astype(object)
    found[~known] = None
    return found


def _repeated(text: str, rows: int) -> np.ndarray:
    return np.full(rows, _plain(text), object)


def _plain(name: str) -> str:
    """A name as UTF-8 can hold it; bytes of a file name that are no UTF-8 are spelled out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            "Parquet is written by pyarrow, which is not here: install the extra that brings it, "
            "`pip install 'glimpse-env[see]'`, or name a file that ends in .csv"
        ) from error
    return pyarrow, pyarrow.parquet
