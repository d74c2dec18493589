"""The protocol of CircleSquare from outside: seeds that are there are of the settings asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.runtime.runs import RunError, read_json, write_json
from experiments.tracks import circle_square as module
from experiments.tracks.circle_square import CircleSquareConfig, circle_square


def test_a_seed_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def run_seed(config: CircleSquareConfig, seed: int) -> dict[str, Any]:
        played.append(seed)
        curve = [{"steps": config.steps, "accuracy": 50.0 + seed}]
        return {"seed": seed, "settings": module.settings(config), "curve": curve}

    monkeypatch.setattr(module, "run_seed", run_seed)
    config = CircleSquareConfig(out=tmp_path, steps=64, seeds=2)
    assert len(circle_square(config)["runs"]) == 2
    assert len(circle_square(replace(config, seeds=3))["runs"]) == 3
    assert played == [0, 1, 2]
    with pytest.raises(RunError, match=r"seed-0.json is of other settings \(steps\)"):
        circle_square(replace(config, steps=128))
    path = tmp_path / "seed-0.json"  # an older record does not tell of them
    write_json(path, {k: v for k, v in read_json(path, "").items() if k != "settings"})
    assert len(circle_square(config)["runs"]) == 2
