"""People's records, read by `glimpse attention` like an agent's run."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.attention.analyse import AttentionConfig, attention
from experiments.attention.people import AGENT, PEOPLE, is_record, read_people
from experiments.data import DataConfig
from experiments.play.command import PlayConfig, prepare
from experiments.play.server import Calls
from experiments.play.store import read_record
from experiments.runtime.runs import RunError

Runs = dict[str, Path]


def play_some(config: PlayConfig, people: int, episodes: int, right: bool = True) -> Path:
    """Have people look at the dog's head and name the breed, as the server's calls have it."""
    served = prepare(config)
    calls, dataset = Calls(served), served.game.dataset
    for _ in range(people):
        token, _ = calls.store.begin()
        state, _ = calls.run(calls.state, token, {}, False)
        for episode in range(episodes):
            held = calls.store.find(token)
            assert held is not None
            image = held.session.current.image
            height, width = dataset.image(image).shape[:2]
            left, top, far, low = dataset.boxes(image)[0]
            x, y = (left + far) / width - 1, (top + low) / height - 1
            for look in range(state["task"]["glimpses"]):
                asked = {"episode": episode, "look": look, "x": float(x), "y": float(y)}
                calls.run(calls.look, token, asked, False)
            label = int(dataset.labels[image])
            label = label if right else (label + 1) % len(dataset.class_names)
            calls.run(calls.answer, token, {"episode": episode, "label": label}, False)
            if episode + 1 < episodes:
                calls.run(calls.next, token, {"episode": episode + 1}, False)
    return config.out


def test_people_are_judged_like_agents(watched_runs: Runs, tmp_path: Path) -> None:
    run = watched_runs["high"]
    folder = play_some(PlayConfig(run=run, out=tmp_path / "play"), people=2, episodes=3)
    assert is_record(folder) and not is_record(run)
    played = read_people(folder)
    assert played.sessions == 2 and played.fixations[PEOPLE].shape == (2, 6, 2)
    assert (played.answers[PEOPLE] == played.labels).all()
    table = tmp_path / "looks.csv"
    record = attention(
        AttentionConfig(runs=(run, folder), out=tmp_path / "out", count=8, scanpaths=table)
    )
    agent, people, same = record["runs"]
    assert "people" not in agent
    assert people["title"] == f"{PEOPLE}, high only, 2 glimpses"
    assert same["title"].startswith(AGENT) and same["images"] == people["images"] == 6
    assert people["boxes"]["glimpses"][0]["inside"]["value"] == 1.0
    assert people["answers"][-1]["learned"]["value"] == 1.0
    own = same["answers"][-1]["learned"]["value"]
    assert people["answers"][-1]["person_minus_agent"]["value"] == pytest.approx(1 - own, abs=1e-3)
    page = (tmp_path / "out" / "attention.md").read_text()
    assert "2 sessions of `glimpse play`" in page and "**Person and agent**" in page
    assert json.loads((tmp_path / "out" / "attention.json").read_text()) == record
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["agent"] == PEOPLE]
    assert len(rows) == 12 and {row["confidence"] for row in rows} == {""}
    assert [row["right"] for row in rows[:2]] == ["", "1"]
    left, top, far, low = played.dataset.boxes(int(rows[0]["image"]))[0]
    assert (float(rows[0]["x"]), float(rows[0]["y"])) == pytest.approx(
        ((left + far) / 2, (top + low) / 2), abs=0.5
    )
    # One record alone, and without an agent's run beside it.
    file = min(folder.iterdir())
    alone = attention(AttentionConfig(runs=(file,), out=tmp_path / "alone"))
    assert [row["images"] for row in alone["runs"]] == [3, 3]


def test_what_the_record_holds_of_the_agent_is_what_it_did(
    watched_runs: Runs, tmp_path: Path
) -> None:
    from experiments.train.playback import open_run, play_back

    run = watched_runs["high"]
    played = read_people(play_some(PlayConfig(run=run, out=tmp_path / "play"), 1, 2))
    opened = open_run(run, "val", num_images=1)
    seen = play_back(opened.agents["learned"], opened.env, images=played.images)
    np.testing.assert_allclose(played.fixations[AGENT], seen.fixations, atol=1e-4)


def test_a_person_alone_and_a_single_episode(tmp_path: Path) -> None:
    config = PlayConfig(alone=True, out=tmp_path / "play", data=DataConfig("synthetic"))
    folder = play_some(config, people=1, episodes=1, right=False)
    record = attention(AttentionConfig(runs=(folder,), out=tmp_path / "out"))
    (run,) = record["runs"]
    assert run["answers"][-1]["learned"]["value"] == 0.0
    assert "person_minus_agent" not in run["answers"][-1]


def test_a_record_alone_imports_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PlayConfig(alone=True, out=tmp_path / "play", data=DataConfig("synthetic"))
    folder = play_some(config, people=1, episodes=1)
    (file,) = folder.iterdir()
    header, *events = map(json.loads, file.read_text().splitlines())
    code = "outside_play_data:opened"
    (tmp_path / "outside_play_data.py").write_text(
        "from glimpse_env.datasets.synthetic import SyntheticDogs\n"
        "def opened(split):\n    return SyntheticDogs(split)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [header | {"data": {"dataset": code}}, *events]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match=f"give --dataset {code}"):
        read_people(file)
    assert "outside_play_data" not in sys.modules
    with pytest.raises(RunError, match="a record alone"):
        attention(AttentionConfig(runs=(folder,), out=tmp_path / "out"))
    assert read_people(file, dataset=code).sessions == 1


def test_records_that_cannot_be_read(tmp_path: Path) -> None:
    data = DataConfig("synthetic", num_images=24)
    config = PlayConfig(alone=True, out=tmp_path / "play", data=data)
    folder = play_some(config, people=1, episodes=1)
    (file,) = folder.iterdir()
    header, events, _ = read_record(file)

    def written(name: str, lines: list) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    for path, words in (
        (written("a.jsonl", [header, *events[:-1]]), "nobody has named"),
        (written("b.jsonl", [header, events[0], events[0]]), "damaged"),
        (written("c.jsonl", [header | {"fingerprint": "x"}, *events]), "other images"),
        (written("d.jsonl", [header | {"truth_known": False}, *events]), "own images"),
        (written("e.jsonl", [header | {"data": {"dataset": "no"}}, *events]), "damaged|what was"),
        (written("f.jsonl", [header | {"images": "many"}, *events]), "damaged"),
        (written("g.jsonl", [{"kind": "other"}]), "no record"),
        (tmp_path / "none.jsonl", "no record"),
    ):
        with pytest.raises(RunError, match=words):
            read_people(path)
    (folder / "session-0.jsonl").write_text(
        json.dumps(header | {"num_glimpses": 1}) + "\n", encoding="utf-8"
    )
    with pytest.raises(RunError, match="different games"):
        read_people(folder)
