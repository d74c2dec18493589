"""`glimpse report`: seeds of one experiment are put together, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.runtime.runs import RunError, to_record, write_json
from experiments.train.aggregate import ReportConfig, collect_runs, format_report, report
from experiments.train.config import TrainConfig

MakeRun = Callable[..., Path]


def score(ma: float) -> dict[str, Any]:
    row = {"ma": ma, "low": ma - 1, "high": ma + 1, "accuracy": ma, "num_images": 12}
    return row | {"fixations": {"mean": [[0.0, 0.0]], "spread": [[0.1, 0.2]]}}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write the records of a finished run of two epochs, as `train` leaves them."""

    def make(seed: int, learned: float = 50.0, **settings: Any) -> Path:
        config = TrainConfig(out=tmp_path / f"seed-{seed}", epochs=2, seed=seed)
        environment = {
            "seed": seed,
            "git_revision": "abc",
            "versions": {},
            "machine": {},
            "command": ["glimpse", "train"],
            "bank": None,
            "live": "float32",
            "encoder": {
                "name": "core",
                "fingerprint": "e",
                "weights_sha256": "w",
                "seen": "nothing yet",
            },
            "datasets": {"val": {"fingerprint": "d"}},
        }
        kind = {
            "split": "val",
            "seed": seed,
            "scanpaths": 8,
            "source": {"live": "float32"},
            "epochs": {"learned": 2, "center": 2, "random": 2},
        }
        write_json(config.out / "config.json", to_record(config))
        write_json(config.out / "environment.json", environment)
        write_json(
            config.out / "evaluation-val.json",
            {"settings": kind | settings, "learned": score(learned), "center": score(40.0)},
        )
        return config.out

    return make


def edit(path: Path, change: Callable[[dict], None]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_seeds_are_put_together(make_run: MakeRun, tmp_path: Path) -> None:
    runs = (make_run(0, 50.0), make_run(1, 54.0))
    record = report(ReportConfig(runs, out=tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text())["seeds"] == [0, 1]
    assert record["results"]["learned"]["ma_mean"] == 52.0
    assert record["results"]["learned"]["ma_std_over_seeds"] == pytest.approx(8**0.5, abs=0.01)
    assert record["learned_minus_center"] == {"mean": 12.0, "runs": [10.0, 14.0]}
    assert "| center | 40.0 | 0.0 |" in format_report(record)


def test_what_the_weights_have_seen_is_told(make_run: MakeRun) -> None:
    """By the run's own record: an encoder of one's own is in no list of specs."""
    assert collect_runs((make_run(0),), "val")["weights_have_seen"] == "nothing yet"


def test_runs_in_other_places_are_still_seeds_of_one_experiment(make_run: MakeRun) -> None:
    runs = make_run(0), make_run(1)
    edit(runs[1] / "config.json", lambda record: record["data"].update(data_dir="/elsewhere"))
    collect_runs(runs, "val")


def test_runs_of_other_settings_or_images_are_refused(make_run: MakeRun) -> None:
    runs = make_run(0), make_run(1)
    edit(runs[1] / "environment.json", lambda record: record["datasets"]["val"].update(images=3))
    with pytest.raises(RunError, match="more than their seed .datasets.val.images"):
        collect_runs(runs, "val")
    edit(runs[1] / "config.json", lambda record: record["learning"].update(momentum=0.5))
    with pytest.raises(RunError, match="more than their seed .learning.momentum"):
        collect_runs(runs, "val")


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"scanpaths": 1}, "scanpaths"), ({"source": {"live": "bfloat16"}}, "source.live")],
)
def test_other_kinds_of_evaluation_are_refused(
    settings: dict, named: str, make_run: MakeRun
) -> None:
    runs = make_run(0), make_run(1, **settings)
    with pytest.raises(RunError, match=rf"different kinds \({named}\)"):
        collect_runs(runs, "val")


def test_evaluations_with_other_scores_are_refused(make_run: MakeRun) -> None:
    runs = make_run(0), make_run(1)
    edit(runs[0] / "evaluation-val.json", lambda record: record.update(oracle=score(90.0)))
    with pytest.raises(RunError, match="scores of oracle"):
        collect_runs(runs, "val")


def test_unfinished_agents_are_refused(make_run: MakeRun) -> None:
    run = make_run(0, epochs={"learned": 2, "center": 1})
    with pytest.raises(RunError, match="'center' after 1 of 2"):
        collect_runs((run,), "val")
    edit(run / "evaluation-val.json", lambda r: r["settings"].update(epochs={"learned": 2}))
    with pytest.raises(RunError, match="'center' after 0 of 2"):
        collect_runs((run,), "val")


def test_missing_and_old_evaluations_say_what_to_do(make_run: MakeRun) -> None:
    run = make_run(0)
    edit(run / "evaluation-val.json", lambda record: record.pop("settings"))
    with pytest.raises(RunError, match="glimpse evaluate --split val"):
        collect_runs((run,), "val")
    with pytest.raises(RunError, match="evaluation-test.json is missing"):
        collect_runs((run,), "test")
    with pytest.raises(RunError, match="at least one"):
        collect_runs((), "val")
