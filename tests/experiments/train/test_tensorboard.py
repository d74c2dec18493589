"""What TensorBoard shows of a run: scanpaths, heat maps of fixations, and its settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.train.tensorboard import flatten, heat_map


def test_a_heat_map_is_brightest_where_fixations_gather() -> None:
    drawn = heat_map(np.array([[0.5, -0.5]] * 20 + [[-0.9, 0.9]]))
    brightness = drawn.sum(axis=-1).astype(int)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    side = len(drawn)
    assert abs(row / side - 0.25) < 0.05 and abs(column / side - 0.75) < 0.05
    assert brightness[int(0.95 * side), int(0.05 * side)] > 0 == brightness[0, 0]
    assert heat_map(np.zeros((0, 2))).max() == 0


def test_settings_are_flat() -> None:
    found = flatten({"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": True})
    assert found == {"a": 1, "b.c": "[1, 2]", "b.d.e": "None", "f": True}


def test_a_run_has_images_and_a_page_of_settings(watched_runs: dict[str, Path]) -> None:
    events = EventAccumulator(str(watched_runs["high"] / "tensorboard" / "learned"))
    events.Reload()
    images = events.Tags()["images"]
    assert {f"fixations/glimpse_{t}" for t in (1, 2)} < set(images)
    assert sum(tag.startswith("scanpaths/") for tag in images) == 4
    assert [each.step for each in events.Images("fixations/glimpse_1")] == [0, 1]
    assert "_hparams_/session_start_info" in events.summary_metadata
    started = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"network.hidden_size" in started and b"learning.optimizer" in started
