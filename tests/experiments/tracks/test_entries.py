"""Entries from outside: what is malformed or forged is refused, in one sentence."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import cli
from experiments.cluster.job import Job
from experiments.runtime.runs import RunError
from experiments.tracks.config import TrackConfig, VerifyConfig
from experiments.tracks.entries import ENTRIES, entry_name, make_entry, read_entries, read_entry
from experiments.tracks.players import PLAYERS
from experiments.tracks.registry import find_track
from experiments.tracks.report import collect_track
from experiments.tracks.run import describe_player, look
from experiments.tracks.verify import UNCHECKED, check_curve, verify

sys.path.insert(0, str(Path(__file__).parents[3] / "docs"))

from leaderboard import comparable, figures, leaderboard_page, track_section  # noqa: E402

OWN = ENTRIES / "look-synthetic-v1-two-deck.json"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', "\xff"])
def test_a_damaged_entry_is_refused_in_one_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "entry.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match="--submit"):
        read_entry(path)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("runs",), [1], "runs.0"),
        (("runs",), [], "runs"),
        (("runs", 0, "accuracy"), None, "runs.0.accuracy"),
        (("runs", 0, "seed"), 0.5, "runs.0.seed"),
        (("runs", 0, "seed"), True, "runs.0.seed"),
        (("runs", 1, "after_each"), ["much"], "runs.1.after_each.0"),
        (("runs", 0, "seconds"), 3, "runs.0.seconds"),
        (("runs", 0, "folder"), "../seed-0", "runs.0.folder"),
        (("runs", 2, "curve", 1, "looks"), "many", "runs.2.curve.1.looks"),
        (("runs", 0, "curve"), None, "runs.0.curve"),
        (("estimates", "information"), 2.2, "estimates.information"),
        (("estimates", "ma", "high"), "high", "estimates.ma.high"),
        (("datasets", "val"), "images", "datasets.val"),
        (("datasets", "train"), 7, "datasets.train"),
        (("datasets",), {}, "datasets.val"),
        (("bank", "val"), None, "bank.val"),
        (("options",), {"width": [1]}, "options.width"),
        (("encoder",), "inception", "encoder"),
        (("track",), {"name": None}, "track.name"),
        (("format",), 2, "format"),
    ],
)
def test_a_malformed_entry_is_refused_in_one_sentence(
    place: tuple, value: Any, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = json.loads(OWN.read_text(encoding="utf-8"))
    inner = entry
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(entry), encoding="utf-8")
    assert cli.main(["compare", "--verify", str(path)]) == 1
    told = capsys.readouterr().err
    assert f"(see {named}" in told and "Traceback" not in told


def test_the_entries_of_the_project_are_of_the_form() -> None:
    found = read_entries()
    assert {entry["player"] for entry in found} <= set(PLAYERS)
    for entry in found:
        assert [run["seed"] for run in entry["runs"]] == list(range(len(entry["runs"])))


def test_the_leaderboard_says_how_many_seeds_and_which_tree() -> None:
    text = "\n".join(track_section([read_entry(OWN)]))
    assert "0, 1, 2 (3 of 5)" in text and "| dcd4a99e7+ |" in text
    center = read_entry(ENTRIES / "look-synthetic-v1-center.json")
    assert "| 0 (all are the same) |" in "\n".join(track_section([center]))


def test_the_leaderboard_shows_the_figures_that_are_there(tmp_path: Path) -> None:
    track = find_track("look-synthetic").record()
    assert figures(track, tmp_path) == []
    (tmp_path / "look-synthetic-v1-maps.png").write_bytes(b"")
    (shown, *_) = figures(track, tmp_path)
    assert shown.endswith("look-synthetic-v1-maps.png)") and "Where the first seed" in shown


def test_entries_on_other_classifiers_or_lattices_have_a_table_of_their_own(tmp_path: Path) -> None:
    names = ("random", "center", "best-fixed")
    own = [read_entry(ENTRIES / f"look-synthetic-v1-{name}.json") for name in names]
    assert comparable(own) == [own]
    own[0]["classifier_sha256"] = "0" * 64
    assert comparable(own) == [own[1:], own[:1]]
    own[1]["bank"]["val"]["fixations"]["count"] = 9
    assert len(comparable(own)) == 3
    for name, entry in zip(names, own, strict=True):
        path = tmp_path / f"look-synthetic-v1-{name}.json"
        path.write_text(json.dumps(entry), encoding="utf-8")
    text = leaderboard_page(tmp_path)
    assert text.count("Interquartile mean over seeds and 95%") == 3
    assert text.count("stand on different images, features or classifiers") == 1


def test_a_forged_entry_is_refused(
    banks: Path, classifiers: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"bank": banks, "classifier": classifiers}
    config = TrackConfig(tiny, players=("random",), out=tmp_path / "runs", **options)
    track, jobs = find_track(tiny), []
    for seed in range(2):
        look(config.look("random", seed))
        jobs.append(Job("look", "random", config.look("random", seed), resumable=False))
    record = collect_track(track, jobs)
    for run in record["players"]["random"]["runs"]:
        run["folder"] = f"seed-{run['seed']}"
    entry = make_entry(record, "random")
    path = tmp_path / entry_name(track, "random")

    def check(told: dict[str, Any]) -> None:
        path.write_text(json.dumps(told), encoding="utf-8")
        verify(VerifyConfig(path, **options))

    check(entry)
    told = capsys.readouterr().out
    assert "2 runs" in told and f"not checked: {', '.join(UNCHECKED)}" in told

    twice, gap, more = deepcopy(entry), deepcopy(entry), deepcopy(entry)
    twice["runs"][1] = twice["runs"][0]
    gap["runs"][1] |= {"seed": 2, "folder": "seed-2"}
    for forged in (twice, gap):
        with pytest.raises(RunError, match="has the seeds"):
            check(forged)
    more["estimates"]["share_of_oracle"] = more["estimates"]["ma"]
    with pytest.raises(RunError, match="other estimates"):
        check(more)
    with pytest.raises(RunError, match="other splits, images of train"):
        check(entry | {"datasets": {"val": entry["datasets"]["val"]}})
    other = entry["datasets"]["val"] | {"images": 5_000}
    with pytest.raises(RunError, match="images of val"):
        check(entry | {"datasets": entry["datasets"] | {"val": other}})
    finer = deepcopy(entry)
    finer["bank"]["val"]["fixations"]["count"] *= 4
    with pytest.raises(RunError, match="other lattice of the bank than are here"):
        check(finer)
    after = deepcopy(entry)
    after["runs"][1]["after_each"][0] += 1
    with pytest.raises(RunError, match="after_each of seed 1 is"):
        check(after)
    changed = deepcopy(entry) | {"title": "the best", "privileged": True, "learns": True}
    for run in changed["runs"]:
        run |= {"converged": False, "stopped_short": True}
        run["seconds"]["processor"] = run["curve"][-1]["seconds"] = 60 * track.minutes
    with pytest.raises(RunError, match="title is .*; privileged is False here.*; learns is False"):
        check(changed)
    with pytest.raises(RunError, match="has options, and random takes none"):
        check(entry | {"options": {"width": "1"}})

    record["players"]["random"]["runs"].pop(0)
    with pytest.raises(RunError, match="an entry's seeds are 0, 1, 2"):
        make_entry(record, "random")


@pytest.mark.parametrize("path", sorted(ENTRIES.glob("*.json")), ids=lambda path: path.stem)
def test_curves_and_marks_of_the_projects_entries_come_out(path: Path) -> None:
    entry = read_entry(path)
    track = find_track(entry["track"]["name"])
    found = [check_curve(run, entry["learns"], track) for run in entry["runs"]]
    assert found == [[]] * len(found)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("curve", -1, "information"), 2.5, "curve of seed 1 ends at information 2.5"),
        (("curve", -1, "ma"), 99.0, "curve of seed 1 ends at ma 99.0"),
        (("curve", -1, "looks"), 10**6, "curve of seed 1 ends at looks"),
        (("curve", -1, "seconds"), 3.0, "curve of seed 1 ends at seconds"),
        (("curve", 3, "looks"), 0, "curve of seed 1 goes back"),
        (("curve",), [], "curve of seed 1 is empty"),
        (("converged",), False, "converged of seed 1 follows as True, the record says False"),
        (("converged",), None, "converged of seed 1 follows as True, the record says None"),
        (("stopped_short",), True, "stopped_short of seed 1 follows as False"),
    ],
)
def test_a_curve_that_does_not_end_there_and_a_mark_that_does_not_follow_are_refused(
    place: tuple, value: Any, named: str, tmp_path: Path
) -> None:
    entry = read_entry(OWN)
    inner = entry["runs"][1]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(RunError, match=named):
        verify(VerifyConfig(path))


def test_convergence_is_judged_from_the_curve(tmp_path: Path) -> None:
    """A curve that still rises in its last third has not converged, whatever its record says."""
    entry = read_entry(OWN)
    for number, row in enumerate(entry["runs"][0]["curve"][:-1]):
        row["information"] = 0.2 * number
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(RunError, match="converged of seed 0 follows as False"):
        verify(VerifyConfig(path))


def test_a_run_that_ended_early_for_no_reason_is_refused(tmp_path: Path) -> None:
    entry = read_entry(OWN)
    run = entry["runs"][0]
    run["looks"] = run["curve"][-1]["looks"] = 190_000
    run["stopped_short"] = True
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(RunError, match="before its looks and its time were used"):
        verify(VerifyConfig(path))


def test_several_seeds_of_one_checkpoint_are_refused(tmp_path: Path) -> None:
    entry = read_entry(OWN)
    entry["runs"][1]["checkpoint_sha256"] = entry["runs"][0]["checkpoint_sha256"]
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(RunError, match="one checkpoint for several seeds"):
        verify(VerifyConfig(path))


def test_a_policy_that_asks_for_the_box_is_privileged(
    banks: Path, classifiers: Path, tiny: str, tmp_path: Path
) -> None:
    name = "agents.reference.registered:look_at_box"
    config = TrackConfig(
        tiny, players=(name,), out=tmp_path, bank=banks, classifier=classifiers
    ).look(name, 0)
    record = look(config)
    assert record["privileged"] is True and record["title"] == name
    plain: Any = SimpleNamespace(requires=("pixels",), learns=False)
    assert describe_player("some.module:Policy", plain)["privileged"] is False
    assert describe_player("lattice-oracle", plain)["privileged"] is True


def test_arguments_reach_whoever_takes_them() -> None:
    config = TrackConfig(
        "look-synthetic", players=("center", "registered", "module:Class"), set=("width=3",)
    )
    taken = [config.look(player, 0).options for player in config.players]
    assert taken == [{}, {"width": "3"}, {"width": "3"}]
    for players in ((), ("center", "ppo")):
        with pytest.raises(ValueError, match="--set is for policies of your own"):
            replace(config, players=players)


def test_runs_with_different_settings_are_not_one_player(
    banks: Path, classifiers: Path, tiny: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"bank": banks, "classifier": classifiers}
    config = TrackConfig(tiny, players=("center",), out=tmp_path / "runs", **options)
    jobs = []
    for seed in range(2):
        look(config.look("center", seed))
        jobs.append(Job("look", "center", config.look("center", seed), resumable=False))
    path = jobs[1].folder / "evaluation-val.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in run.items() if k != "settings"}), encoding="utf-8")
    assert len(collect_track(find_track(tiny), jobs)["players"]["center"]["runs"]) == 2
    path.write_text(json.dumps(run | {"settings": {"rate": 1}}), encoding="utf-8")
    with pytest.raises(RunError, match=r"trained with other settings .* \(settings.rate\)"):
        collect_track(find_track(tiny), jobs)
