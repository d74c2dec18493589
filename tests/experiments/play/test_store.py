"""Sessions beyond the memory's bound: put aside, and read back when they are asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from experiments.play import store as module
from experiments.play.session import Rules
from experiments.play.store import Held, Store

RULES = Rules(num_images=10, num_glimpses=1, num_classes=3)
HEADER = {"fingerprint": "f", "num_glimpses": 1, "num_classes": 3}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IN_MEMORY", 3)


def make(folder: Path, **settings) -> Store:
    settings = {"keep_seconds": 100.0, "max_sessions": 100} | settings
    return Store(folder, RULES, settings.pop("header", HEADER), **settings)


def begun(store: Store, image: int) -> tuple[str, Held]:
    """A session that shows an image and has written nothing."""
    token, held = store.begin()
    held.session.apply({"kind": "begin", "episode": 0, "image": image})
    return token, held


def test_idle_sessions_without_a_record_come_back(tmp_path: Path) -> None:
    store = make(tmp_path)
    tokens = [begun(store, image)[0] for image in range(7)]
    assert len(store._held) == 3
    assert len(list((tmp_path / "idle").iterdir())) == 4
    for image, token in enumerate(tokens):
        held = store.find(token)
        assert held is not None and held.session.current.image == image and not held.recorded
    assert len(store._held) == 3, "each that comes back sends another one out"
    assert len(list((tmp_path / "idle").iterdir())) == 4


def test_one_that_came_back_goes_on_and_has_a_record(tmp_path: Path) -> None:
    store = make(tmp_path)
    token = begun(store, 5)[0]
    for image in range(3):
        begun(store, image)
    held = store.find(token)
    assert held is not None
    store.append(held, {"kind": "look", "episode": 0, "look": 0, "x": 0.5, "y": 0.0})
    for image in range(3):
        begun(store, image)
    again = store.find(token)
    assert again is not None and again is not held and again.recorded
    assert again.session.current.looks == [(0.5, 0.0)] and again.session.current.image == 5


def test_one_that_is_being_served_stays(tmp_path: Path) -> None:
    store = make(tmp_path)
    token, held = begun(store, 5)
    with held.lock:
        for image in range(5):
            begun(store, image)
        assert store.find(token) is held


def test_a_server_that_starts_anew_takes_them_back_if_the_game_is_the_same(tmp_path: Path) -> None:
    first = make(tmp_path)
    tokens = [begun(first, image)[0] for image in range(4)]
    other = make(tmp_path, header=HEADER | {"fingerprint": "g"})
    assert other.find(tokens[0]) is None
    tokens = [begun(first, image)[0] for image in range(4)]
    held = make(tmp_path).find(tokens[0])
    assert held is not None and held.session.current.image == 0


def test_what_is_too_old_or_damaged_is_over(tmp_path: Path) -> None:
    store = make(tmp_path, keep_seconds=0.2)
    token = begun(store, 0)[0]
    for image in range(3):
        begun(store, image)
    time.sleep(0.3)
    assert store.find(token) is None
    store = make(tmp_path)
    token = begun(store, 0)[0]
    for image in range(3):
        begun(store, image)
    for path in (tmp_path / "idle").iterdir():
        path.write_text(json.dumps({"game": HEADER, "images": ["x"]}))
    assert store.find(token) is None


def test_what_is_put_aside_is_bounded_and_said(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "_ASIDE", 5)
    store = make(tmp_path)
    for image in range(9):
        begun(store, image)
    store._forget_oldest()
    assert len(list((tmp_path / "idle").iterdir())) == 5
    assert "1 sessions in which nothing happened are forgotten" in caplog.text


def test_a_disk_that_takes_nothing_is_said(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("")
    store = make(tmp_path / "file")
    for image in range(4):
        begun(store, image)
    assert "an idle session is lost" in caplog.text
