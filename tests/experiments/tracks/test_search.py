"""`glimpse tune TRACK`: equal effort for each player, its record, and who plays by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import cli
from experiments.cluster.config import ClusterConfig
from experiments.cluster.job import Job
from experiments.runtime.runs import write_json
from experiments.tracks import players as players_module, search
from experiments.tracks.config import LookConfig, TrackTuneConfig, asked_for
from experiments.tracks.game import Game
from experiments.tracks.learners import build_player
from experiments.tracks.players import PLAYERS, player_settings
from experiments.tracks.registry import LEARNED, find_track
from experiments.tracks.run import look, open_game
from experiments.tracks.search import tune_track

pytest.importorskip("optuna")

TRIED = ("ppo", "label-sac")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """Trials that were run, with invented scores: the trial's number."""
    jobs: list[Job] = []

    def run_jobs(waiting: list[Job], on: ClusterConfig, **others: object) -> None:
        for job in waiting:
            jobs.append(job)
            number = int(job.folder.name.removeprefix("trial-"))
            about = {"versions": {}, "git_revision": "", "machine": {}}
            write_json(job.folder / "environment.json", about)
            run = {
                "score": {"information": 0.1 * number, "ma": float(number)},
                "settings": player_settings(job.experiment, job.config.options),
                "looks": 60,
                "stopped_short": False,
                "seconds": {"wall": 1.0, "processor": 1.0},
            }
            write_json(job.folder / "evaluation-val.json", run)

    monkeypatch.setattr(search, "run_jobs", run_jobs)
    yield jobs


def config(out: Path, banks: Path, classifiers: Path, **others: Any) -> TrackTuneConfig:
    own = {"players": TRIED, "trials": 3, "steps": 64, "minutes": 0.1, "jobs": 1} | others
    return TrackTuneConfig("tiny", out=out, bank=banks, classifier=classifiers, **own)


def test_every_player_gets_the_same_effort(
    asked: list[Job], banks: Path, classifiers: Path, tiny: str, tmp_path: Path
) -> None:
    record = tune_track(config(tmp_path, banks, classifiers))
    assert sorted((job.experiment, job.folder.name) for job in asked) == [
        (name, f"trial-{number}") for name in sorted(TRIED) for number in range(3)
    ]
    budgets = {(c.steps, c.minutes, c.evaluations, c.seed) for c in (job.config for job in asked)}
    assert budgets == {(64, 0.1, 1, 1000)}
    assert not any(job.config.by_the_rules for job in asked)
    assert json.loads((tmp_path / "tuning.json").read_text(encoding="utf-8")) == record
    for name, found in record["players"].items():
        assert found["best"] == found["trials"][2]
        # Trial 0 is the settings as they are, the others differ.
        assert found["trials"][0]["settings"] == player_settings(name)
        assert len({str(each["settings"]) for each in found["trials"]}) == 3

    asked.clear()
    again = tune_track(config(tmp_path, banks, classifiers, trials=4))
    assert {job.folder.name for job in asked} == {"trial-3"}
    assert again["players"]["ppo"]["trials"][:3] == record["players"]["ppo"]["trials"]


def test_players_train_with_the_settings_that_were_chosen(
    banks: Path, classifiers: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(players_module, "CHOSEN", tmp_path / "none.json")
    assert player_settings("ppo")["learning_rate"] == 1e-3
    best = {"learning_rate": 2e-4, "ent_coef": 0.02, "n_epochs": 2}
    chosen = {"players": {"ppo": {"best": {"settings": best}}}}
    write_json(tmp_path / "chosen.json", chosen)
    monkeypatch.setattr(players_module, "CHOSEN", tmp_path / "chosen.json")
    options: dict[str, Any] = {"bank": banks, "classifier": classifiers}
    game = open_game(find_track(tiny), LookConfig(tiny, "ppo", **options), 0)
    player: Any = build_player(game, "ppo", 0, {})
    model = player.model
    assert (model.learning_rate, model.ent_coef, model.n_epochs) == (2e-4, 0.02, 2)
    assert build_player(game, "ppo", 0, {"n_epochs": "8"}).model.n_epochs == 8  # type: ignore[attr-defined]

    run = LookConfig(
        tiny, "ppo", out=tmp_path / "run", steps=128, evaluations=1, set=("n_epochs=8",), **options
    )
    record = look(run)
    assert record["settings"] == best | {"n_epochs": 8}
    assert record["options"] == {} and record["by_the_rules"] is False


@pytest.mark.parametrize("name", sorted(LEARNED))
def test_a_player_takes_every_setting_that_is_searched(
    name: str, banks: Path, classifiers: Path, tiny: str
) -> None:
    game: Game = open_game(
        find_track(tiny), LookConfig(tiny, name, bank=banks, classifier=classifiers), 0
    )
    searched = PLAYERS[name].searched
    last = {
        each: str(own.space[-1]) if isinstance(own.space, tuple) else f"{own.default}"
        for each, own in searched.items()
    }
    assert build_player(game, name, 0, last).learns


def test_wrong_settings_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="ppo has no such setting, it has learning_rate"):
        player_settings("ppo", {"width": "3"})
    with pytest.raises(ValueError, match="center has no such setting, it has none"):
        player_settings("center", {"width": "3"})
    with pytest.raises(ValueError, match="learning_rate=fast: the value is of type float"):
        player_settings("sac", {"learning_rate": "fast"})
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"players": ("center",)}, "--players are some of two-deck"),
        ({"set": ("x=1",)}, "--set is for"),
        ({"trials": 0}, "--trials"),
    ]
    for changes, named in wrong:
        with pytest.raises(ValueError, match=named):
            TrackTuneConfig("look-synthetic", **changes)
    with pytest.raises(ValueError, match="name-synthetic is searched by"):
        TrackTuneConfig("name-synthetic")


def test_tune_knows_tracks_from_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked_for(["synthetic"], "tune") is None and asked_for([], "tune") is None
    found = asked_for(["look-synthetic", "--trials", "1"], "tune")
    assert found is not None and found[0] is TrackTuneConfig
    with pytest.raises(SystemExit) as ended:
        cli.main(["tune", "look-synthetic", "--help"])
    assert ended.value.code == 0 and "--trials" in capsys.readouterr().out
