"""Examples outside the packages run as a reader would run them."""

from __future__ import annotations

import runpy
from pathlib import Path

import experiments

EXAMPLES = Path(experiments.__file__).parent / "examples"


def test_the_five_minutes_in_seconds(capsys) -> None:
    script = runpy.run_path(str(EXAMPLES / "compare_in_five_minutes.py"))
    scores = script["main"](steps=384, train_images=64, held_out=20)
    assert set(scores) == {"PPO", "two-deck"}
    # Of 20 images, each shown once.
    assert all((20 * score) % 1 < 1e-6 or (20 * score) % 1 > 1 - 1e-6 for score in scores.values())
    shown = capsys.readouterr().out
    assert f"{scores['PPO']:.1%}" in shown and "chance" in shown
