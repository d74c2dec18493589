"""A person's session: events that follow, those that do not, and a record that gives it back."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from experiments.play.session import EventError, Rules, Session
from experiments.play.store import FolderFullError, RecordError, Store, read_record

RULES = Rules(num_images=4, num_glimpses=2, num_classes=3)
HEADER = {"fingerprint": "f", "num_glimpses": 2, "num_classes": 3}
AGENT = {"fixations": [[0.0, 0.1], [-1, 1]], "label": 2, "probability": 0.5}


def looks(episode: int) -> list[dict]:
    return [
        {"kind": "look", "episode": episode, "look": n, "x": 0.25 * n, "y": -0.5}
        for n in range(RULES.num_glimpses)
    ]


def whole(episode: int, image: int, label: int = 1, truth: int | None = 1) -> list[dict]:
    begin = {"kind": "begin", "episode": episode, "image": image}
    answer = {"kind": "answer", "episode": episode, "label": label, "truth": truth, "agent": AGENT}
    return [begin, *looks(episode), answer]


def make_store(folder: Path, **options) -> Store:
    settings = {"keep_seconds": 3600.0, "max_sessions": 5} | options
    header = settings.pop("header", HEADER)
    return Store(folder, settings.pop("rules", RULES), header, **settings)


def test_an_episode_goes_from_looks_to_an_answer_to_a_score() -> None:
    session = Session(RULES)
    begin, first, second, answer = whole(0, 3)
    session.apply(begin)
    assert session.phase == "look"
    session.apply(first)
    assert session.phase == "look"
    session.apply(second)
    assert session.phase == "answer"
    session.apply(answer)
    assert session.phase == "result" and session.current.right is True
    assert session.current.agent_right is False
    for event in whole(1, 0, label=0):
        session.apply(event)
    for event in whole(2, 1, truth=None):
        session.apply(event)
    assert session.score() == {"episodes": 2, "person": 1, "agent": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"x": 1.01},
        {"x": float("nan")},
        {"x": "0"},
        {"x": None},
        {"x": True},
        {"x": 10**400},
        {"y": [0]},
        {"look": 1},
        {"look": 0.0},
        {"episode": 1},
        {"episode": -1},
        {"kind": "peek"},
        {"kind": "answer", "label": 0},
        {"kind": "begin", "image": 1},
    ],
)
def test_what_does_not_follow_changes_nothing(change: dict) -> None:
    session = Session(RULES)
    session.apply({"kind": "begin", "episode": 0, "image": 3})
    with pytest.raises(EventError):
        session.apply(looks(0)[0] | change)
    assert session.current.looks == [] and session.phase == "look"


@pytest.mark.parametrize(
    "change",
    [
        {"label": 3},
        {"label": -1},
        {"label": 1.0},
        {"truth": 3},
        {"agent": []},
        {"agent": AGENT | {"fixations": [[0, 0]]}},
        {"agent": AGENT | {"label": 9}},
        {"agent": AGENT | {"fixations": [[0, 0], [0, 2]]}},
        {"agent": AGENT | {"probability": 2}},
        {"agent": AGENT | {"fixations": "ab"}},
    ],
)
def test_an_answer_out_of_range_is_refused(change: dict) -> None:
    session = Session(RULES)
    *before, answer = whole(0, 3)
    for event in before:
        session.apply(event)
    with pytest.raises(EventError):
        session.apply(answer | change)
    assert session.phase == "answer"


def test_no_image_comes_twice_and_none_from_outside() -> None:
    session = Session(RULES)
    for event in whole(0, 3):
        session.apply(event)
    for image in (3, 4, -1, "1", True):
        with pytest.raises(EventError):
            session.apply({"kind": "begin", "episode": 1, "image": image})


def test_another_server_takes_a_session_up_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token, held = store.begin()
    begin, first, second, answer = whole(0, 2)
    held.session.apply(begin)
    assert not list(tmp_path.iterdir()), "nothing is written before a look"
    for event in (first, second, answer, {"kind": "begin", "episode": 1, "image": 0}):
        store.append(held, event)
    store.append(held, looks(1)[0])
    again = make_store(tmp_path).find(token)
    assert again is not None and again.session.phase == "look"
    assert [each.image for each in again.session.episodes] == [2, 0]
    assert again.session.current.looks == [(0.0, -0.5)] and again.session.score()["person"] == 1
    header, events, _ = read_record(store.path(held.key))
    assert header["kind"] == "session" and header["fingerprint"] == "f" and len(events) == 6
    (file,) = tmp_path.iterdir()
    assert token not in file.name and token not in file.read_text()


def test_half_a_line_of_a_killed_server_is_dropped(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token, held = store.begin()
    begin, first, second, _ = whole(0, 2)
    held.session.apply(begin)
    store.append(held, first)
    with open(store.path(held.key), "a") as file:
        file.write('{"kind": "look", "epis')
    fresh = make_store(tmp_path)
    again = fresh.find(token)
    assert again is not None and len(again.session.current.looks) == 1
    fresh.append(again, second)
    assert len(read_record(store.path(held.key))[1]) == 3


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "look", "episode": 0, "look": 1, "x": 5, "y": 0}',
        '{"kind": "look"}',
        "[]",
        "not JSON",
        '{"kind": "begin", "episode": 1, "image": 99}',
        "[" * 10_000,
    ],
)
def test_a_damaged_record_is_not_taken_over(line: str, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token, held = store.begin()
    begin, first, *_ = whole(0, 2)
    held.session.apply(begin)
    store.append(held, first)
    with open(store.path(held.key), "a") as file:
        file.write(line + "\n")
    assert make_store(tmp_path).find(token) is None
    assert store.path(held.key).exists(), "what is there is left for its owner"


def test_a_record_of_another_game_is_not_taken_over(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token, held = store.begin()
    begin, first, *_ = whole(0, 2)
    held.session.apply(begin)
    store.append(held, first)
    assert make_store(tmp_path, header=HEADER | {"fingerprint": "g"}).find(token) is None
    assert make_store(tmp_path).find(token) is not None


def test_sessions_end_and_the_folder_has_a_limit(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_sessions=1)
    token, held = store.begin()
    begin, first, second, _ = whole(0, 2)
    held.session.apply(begin)
    store.append(held, first)
    _, other = store.begin()
    other.session.apply(begin)
    with pytest.raises(FolderFullError, match="larger --max-sessions"):
        store.append(other, first)
    assert other.session.current.looks == []
    store.append(held, second)  # who is in may go on
    held.used -= 7200
    assert store.find(token) is None
    path = store.path(held.key)
    os.utime(path, (path.stat().st_mtime - 7200,) * 2)
    assert make_store(tmp_path).find(token) is None and path.exists()


def test_what_cannot_be_written_leaves_the_record_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    token, held = store.begin()
    begin, first, second, _ = whole(0, 2)
    held.session.apply(begin)
    store.append(held, first)
    before = store.path(held.key).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="space"):
        patched.setattr(os, "fsync", full)
        store.append(held, second)
    assert store.path(held.key).read_bytes() == before and len(held.session.current.looks) == 1
    store.append(held, second)
    again = make_store(tmp_path).find(token)
    assert again is not None and again.session.phase == "answer"


@pytest.mark.parametrize("token", [None, "", "../../etc/passwd", "a" * 31, "a" * 33, "ü" * 32])
def test_a_token_of_another_form_is_nobodys(token: str | None, tmp_path: Path) -> None:
    assert make_store(tmp_path).find(token) is None


def test_a_foreign_file_is_no_record(tmp_path: Path) -> None:
    for content in ("", "{}\n", json.dumps({"kind": "session", "format": 99}) + "\n"):
        (tmp_path / "x.jsonl").write_text(content)
        with pytest.raises(RecordError, match="session-"):
            read_record(tmp_path / "x.jsonl")
