"""Images of scanpaths: as many as asked for, and none left over from before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.metrics import Answers
from experiments.train.evaluate import draw_examples
from glimpse_env.datasets.synthetic import SyntheticDogs


def test_images_of_an_earlier_evaluation_go_and_others_stay(tmp_path: Path) -> None:
    dataset = SyntheticDogs("val", num_images=6)
    classes = len(dataset.class_names)
    right = Answers(
        labels=np.asarray(dataset.labels),
        log_probs=np.log(np.eye(classes, dtype=np.float32)[dataset.labels] + 1e-3),
        fixations=np.zeros((2, 6, 2), np.float32),
    )
    wrong = replace(right, log_probs=np.roll(right.log_probs, 1, axis=1))
    own = tmp_path / "my-figure.png"
    own.write_bytes(b"")
    first = draw_examples(dataset, wrong, ("low",), tmp_path, 4)
    assert len(first) == 4 and all("-named-" in path.name for path in first)
    second = draw_examples(dataset, right, ("low",), tmp_path, 2)
    assert set(tmp_path.iterdir()) == {own, *second}
