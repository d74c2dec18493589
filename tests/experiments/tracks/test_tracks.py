"""Tracks from outside: players, ceilings, runs, the table, entries and their verification."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoders.bank.description import BankMismatchError
from experiments import cli
from experiments.runtime.runs import RunError
from experiments.tracks import learners  # noqa: F401  registers its players
from experiments.tracks.config import LookConfig, TrackConfig, VerifyConfig, asked_for
from experiments.tracks.entries import make_entry, read_entry
from experiments.tracks.game import Game, eval_env
from experiments.tracks.learners import ALGORITHMS, build_player
from experiments.tracks.players import PLAYERS, best_scanpath, oracle_points
from experiments.tracks.registry import FIXED, LEARNED, TRACKS, find_track
from experiments.tracks.report import collect_track, format_track
from experiments.tracks.run import describe_game, load_player, look, open_game, score_player
from experiments.tracks.verify import verify
from glimpse_env.look.env import DogsLookVectorEnv


@pytest.fixture
def options(banks: Path, classifiers: Path, tmp_path: Path, tiny: str) -> dict[str, Any]:
    return {"bank": banks, "classifier": classifiers}


@pytest.fixture
def game(options: dict[str, Any], tiny: str) -> Game:
    return open_game(find_track(tiny), LookConfig(tiny, "center", **options), 0)


def log_p(game: Game, split: str, points: np.ndarray) -> np.ndarray:
    """Log p of the truth after glimpses at lattice points [T, N], by the environment's way."""
    from experiments.tracks.classifier import glimpses_at

    images = np.arange(len(game.dataset(split)))
    glimpse, fixation = glimpses_at(game.source(split), images, points, ("high",))
    history = {"glimpse": glimpse, "fixation": fixation, "image": images}
    told = game.bound(split).after_each(history)[-1]
    labels = torch.from_numpy(np.asarray(game.dataset(split).labels))
    return told.gather(1, labels[:, None]).squeeze(1).numpy()


def test_every_player_of_a_track_is_registered() -> None:
    assert {*FIXED, *LEARNED} == set(PLAYERS)
    assert set(ALGORITHMS) < set(LEARNED)
    assert {name for name, entry in PLAYERS.items() if entry.searched} == set(LEARNED)
    assert [name for name, entry in PLAYERS.items() if entry.privileged] == [
        "box-oracle",
        "lattice-oracle",
    ]


def test_the_greedy_oracle_is_greedy(game: Game) -> None:
    chosen = oracle_points(game.table("val"), 2).numpy()
    everywhere = np.stack([log_p(game, "val", np.full((1, len(chosen[0])), p)) for p in range(9)])
    np.testing.assert_allclose(
        np.take_along_axis(everywhere, chosen[:1], 0)[0], everywhere.max(0), atol=1e-5
    )
    after = np.stack(
        [log_p(game, "val", np.stack([chosen[0], np.full_like(chosen[0], p)])) for p in range(9)]
    )
    np.testing.assert_allclose(log_p(game, "val", chosen), after.max(0), atol=1e-5)


def test_the_best_fixed_scanpath_is_hardly_worse_than_all_pairs(game: Game) -> None:
    count = len(game.dataset("train"))
    points, earned = best_scanpath(game.table("train"), 2)
    pairs = itertools.product(range(9), repeat=2)
    means = {
        pair: log_p(game, "train", np.tile(np.array(pair)[:, None], (1, count))).mean()
        for pair in pairs
    }
    assert earned == pytest.approx(means[tuple(points)] + np.log(12), abs=1e-4)
    # No other point in either place is better.
    for place, point in itertools.product(range(2), range(9)):
        other = list(points)
        other[place] = point
        assert means[tuple(other)] <= means[tuple(points)] + 1e-6


def test_scores_are_what_the_environment_of_the_track_pays(game: Game) -> None:
    found = score_player(build_player(game, "center", 0, {}), eval_env(game), 0)
    env = DogsLookVectorEnv(
        len(found.labels),
        classifier=game.frozen,
        dataset=game.dataset("val"),
        encoder=game.source("val"),
        resolutions=("high",),
        num_glimpses=2,
        mirror=False,
        context="center",
    )
    env.reset(options={"image": np.arange(len(found.labels))})
    for looked in range(2):
        _, rewards, _, _, infos = env.step(np.zeros((len(found.labels), 2), np.float32))
        np.testing.assert_allclose(rewards, found.gains[looked], atol=1e-5)
    np.testing.assert_array_equal(infos["final_info"]["is_success"], found.correct)


def test_yardsticks_know_what_they_say(game: Game) -> None:
    scores = {
        name: score_player(
            build_player(game, name, 0, {}), eval_env(game, PLAYERS_REQUIRE[name]), 0
        )
        for name in ("random", "box-oracle", "saliency", "lattice-oracle")
    }
    total = {name: looks.gains.sum(0).mean() for name, looks in scores.items()}
    assert total["lattice-oracle"] == max(total.values())
    assert len(np.unique(scores["random"].fixations.reshape(-1, 2), axis=0)) == 9
    heads = scores["box-oracle"].fixations
    np.testing.assert_array_equal(heads[0], heads[1])


PLAYERS_REQUIRE = {
    "random": (),
    "box-oracle": ("box",),
    "saliency": ("pixels", "frame"),
    "lattice-oracle": (),
}


@pytest.mark.parametrize("name", ["two-deck", "fall-ppo", "label-sac", "ppo", "sac", "crossq"])
def test_a_player_learns_is_saved_and_plays_again_alike(
    name: str, options: dict[str, Any], tiny: str, tmp_path: Path
) -> None:
    record = look(LookConfig(tiny, name, out=tmp_path / "run", **options))
    assert record["looks"] >= 384 and not record["stopped_short"]
    assert len(record["curve"]) >= 2 and record["learns"]
    curve = [row["information"] for row in record["curve"]]
    assert np.isfinite(curve).all()
    game = open_game(find_track(tiny), LookConfig(tiny, name, **options), 0)

    again = build_player(game, name, 0, {})
    assert load_player(tmp_path / "run" / "checkpoint", name, again) == record["checkpoint_sha256"]
    found = score_player(again, eval_env(game), 0).score()
    assert found["information"] == pytest.approx(record["score"]["information"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*ALGORITHMS} - {"ppo", "sac", "crossq"}))
def test_every_algorithm_trains(
    name: str, options: dict[str, Any], tiny: str, tmp_path: Path
) -> None:
    record = look(LookConfig(tiny, name, out=tmp_path / "run", **options))
    assert record["looks"] >= 384


@pytest.fixture
def finished(options: dict[str, Any], tiny: str, tmp_path: Path) -> TrackConfig:
    """A comparison whose runs are there."""
    config = TrackConfig(
        tiny,
        players=("random", "best-fixed", "lattice-oracle"),
        out=tmp_path / "runs",
        submit=tmp_path / "entries",
        only_table=True,
        **options,
    )
    for player in config.players:
        for seed in range(2 if player == "random" else 1):
            look(config.look(player, seed))
    return config


def test_a_table_an_entry_and_its_verification(finished: TrackConfig) -> None:
    from experiments.tracks.command import compare_track

    record = compare_track(finished)
    text = (finished.folder / "track.md").read_text(encoding="utf-8")
    assert "lattice-oracle*" in text and "| random: " in text
    assert record["players"]["lattice-oracle"]["estimates"]["share_of_oracle"]["value"] == 1
    for name in ("track.json", "track.png", "maps.png"):
        assert (finished.folder / name).stat().st_size > 0
    assert finished.submit is not None
    for name in ("tiny-v1-curves.png", "tiny-v1-maps.png"):
        assert (finished.submit / name).stat().st_size > 0
    entry = finished.submit / "tiny-v1-best-fixed.json"
    folders: dict[str, Any] = {"bank": finished.bank, "classifier": finished.classifier}
    found = verify(VerifyConfig(entry, **folders))
    assert set(found["runs"]) == {"0"}

    told = read_entry(entry)
    told["runs"][0]["information"] += 0.02
    entry.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(RunError, match="curve of seed 0 ends at information"):
        verify(VerifyConfig(entry, **folders))
    told["runs"][0]["curve"][-1]["information"] += 0.02
    entry.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(RunError, match="information of seed 0 is .* the record says"):
        verify(VerifyConfig(entry, **folders))

    told = read_entry(finished.submit / "tiny-v1-random.json")
    told["estimates"]["information"]["high"] += 0.5
    entry = finished.submit / "changed.json"
    entry.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(RunError, match="high of its interval"):
        verify(VerifyConfig(entry, **folders))
    told["track"]["steps"] = 1
    entry.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(RunError, match="another protocol"):
        verify(VerifyConfig(entry, **folders))
    told = told | {"classifier_sha256": "0", "track": find_track("tiny").record()}
    entry.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(RunError, match="other classifiers"):
        verify(VerifyConfig(entry, **folders))


def test_runs_that_broke_the_rules_are_no_entry(
    options: dict[str, Any], tiny: str, tmp_path: Path
) -> None:
    config = LookConfig(tiny, "center", out=tmp_path / "center" / "seed-0", steps=10, **options)
    look(config)
    from experiments.cluster.job import Job

    record = collect_track(find_track(tiny), [Job("look", "center", config, resumable=False)])
    assert "no entry" in format_track(record)
    with pytest.raises(RunError, match="another budget"):
        make_entry(record, "center")
    with pytest.raises(ValueError, match="--submit"):
        TrackConfig(tiny, steps=10, submit=tmp_path)


def test_a_finished_run_is_left_alone(options: dict[str, Any], tiny: str, tmp_path: Path) -> None:
    config = LookConfig(tiny, "center", out=tmp_path / "run", **options)
    look(config)
    with pytest.raises(RunError, match="finished run"):
        look(config)


def test_compare_knows_tracks_from_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked_for(["synthetic"]) is None and asked_for([]) is None
    found = asked_for(["look-synthetic", "--seeds", "1"])
    assert found is not None and found[0] is TrackConfig
    found = asked_for(["--verify", "x.json"])
    assert found is not None and found[0] is VerifyConfig
    assert cli.main(["compare", "--verify", "nowhere.json"]) == 1
    assert "there is no record nowhere.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["look", "elsewhere", "center"])
    assert "there is no track 'elsewhere'" in capsys.readouterr().err


def test_a_track_may_name_its_encoder_by_hash(
    options: dict[str, Any], tiny: str, monkeypatch: pytest.MonkeyPatch, game: Game
) -> None:
    """Banks of a tuned core are played, whatever the experiment's own encoder is."""
    own = game.source("val").encoder
    track = replace(find_track(tiny), encoder=own)
    assert "encoder" not in find_track(tiny).record() and track.record()["encoder"] == own
    config = LookConfig(tiny, "center", **options)
    run = replace(game.run, encoder="googlenet")
    named = Game(track, run=run, classifier=options["classifier"])
    assert describe_game(named)["encoder"] == {"name": "inception_mini", "fingerprint": own}
    with pytest.raises(BankMismatchError, match="wanted 000000000000"):
        open_game(replace(track, encoder="0" * 64), config, 0)


@pytest.mark.parametrize(
    ("options", "bank"),
    [
        ({}, "banks/synthetic-1800"),
        ({"num_images": 256}, "banks/synthetic-256"),
        ({"num_images": 256, "bank": Path("mine")}, "mine"),
    ],
)
def test_the_names_track_is_a_comparison_by_its_protocol(
    options: dict[str, Any], bank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.compare import compare as module
    from experiments.tracks.command import compare_track

    asked: list[Any] = []
    monkeypatch.setattr(module, "compare", lambda config: asked.append(config) or {})
    compare_track(TrackConfig("name-synthetic", players=("ppo",), seeds=2, **options))
    (found,) = asked
    track = find_track("name-synthetic")
    assert found.bank == Path(bank)
    assert found.data.num_images == options.get("num_images", track.num_images)
    assert (found.agents, found.seeds, found.steps) == (("ppo",), 2, track.steps)
    assert found.clock == "processor" and found.minutes == track.minutes


def test_the_names_track_refuses_what_it_does_not_use() -> None:
    from experiments.tracks.command import compare_track

    with pytest.raises(RunError, match="takes no --classifier, since its players name the breed"):
        compare_track(TrackConfig("name-synthetic", classifier=Path("mine")))


def test_a_policy_that_sees_pixels_alone_is_refused(game: Game) -> None:
    with pytest.raises(ValueError, match="pixels alone cannot play tiny, since .* reads features"):
        game.env("val", 2, ("pixels-alone", "frame"))


def test_schedules_follow_from_the_looks_that_a_run_may_take(
    options: dict[str, Any], tiny: str
) -> None:
    for steps in (None, 96):
        config = LookConfig(tiny, "dqn", steps=steps, **options)
        game = open_game(find_track(tiny), config, 0)
        player: Any = build_player(game, "dqn", 0, {})
        assert player.steps == game.steps == (steps or 384)
        assert player.model.learning_starts == player.steps // 4


def test_a_track_is_a_record_that_json_gives_back() -> None:
    for name, track in TRACKS.items():
        assert json.loads(json.dumps(track.record())) == track.record()
        assert track.name == name and track.run.num_glimpses >= 1
