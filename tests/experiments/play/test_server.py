"""The server of `glimpse play`, over real sockets: what it serves, and what it refuses."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="Starlette is not installed (the extra `play`)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra `play`)")

from experiments.cli import main
from experiments.data import DataConfig
from experiments.play.command import PlayConfig, prepare
from experiments.play.game import Game, draw_seen, look_at
from experiments.play.server import Served, bind, make_server
from experiments.play.store import Store, read_record
from experiments.runtime.runs import RunError
from glimpse_env.datasets.synthetic import SyntheticDogs


@contextmanager
def serving(served: Served) -> Iterator[int]:
    """Serve on a free port of this machine."""
    taken = bind("127.0.0.1", 0)
    server = make_server(served, taken)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    try:
        yield taken.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        taken.close()


class Browser:
    """Somebody with a cookie."""

    def __init__(self, port: int) -> None:
        self.port, self.cookie = port, ""
        self.headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent: dict[str, Any] = dict(self.headers) if method == "POST" else {}
        sent |= {"Cookie": self.cookie} if self.cookie else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in sent.items() if value is not None}
        text = body if isinstance(body, (bytes, str)) or body is None else json.dumps(body)
        connection.request(method, path, text, sent)
        answer = connection.getresponse()
        content, found = answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        connection.close()
        if "set-cookie" in found:
            self.cookie = found["set-cookie"].partition(";")[0]
        return answer.status, found, content

    def call(self, path: str, body: Any = None) -> dict[str, Any]:
        status, _, content = self.ask("GET" if body is None else "POST", path, body)
        assert status == 200, content
        return json.loads(content)

    def play(self, label: int = 0) -> dict[str, Any]:
        state = self.call("/api/state")
        for number in range(state["task"]["glimpses"]):
            where = {"episode": state["episode"], "look": number, "x": 0.1 * number, "y": 0.2}
            state = self.call("/api/look", where)
        assert state["phase"] == "answer" and state["result"] is None
        return self.call("/api/answer", {"episode": state["episode"], "label": label})


@pytest.fixture
def served(tmp_path: Path) -> Served:
    config = PlayConfig(
        alone=True,
        out=tmp_path / "play",
        data=DataConfig("synthetic", num_images=24),
        resolutions=("medium", "high"),
        keep_days=1,
    )
    return prepare(config)


def pixels(source: str) -> np.ndarray:
    assert source.startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_a_whole_game_alone(served: Served) -> None:
    with serving(served) as port:
        one, two = Browser(port), Browser(port)
        status, headers, page = one.ask("GET", "/")
        assert status == 200 and b"Where would you look?" in page
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "set-cookie" not in headers, "a visit from elsewhere must not begin a new session"
        state = one.call("/api/state")
        assert state["phase"] == "look" and state["task"]["breeds"][0] == "barred_terrier"
        assert state["result"] is None and state["glimpses"] == []
        assert pixels(state["seen"]).shape[:2] == tuple(reversed(state["size"]))
        result = one.play(label=3)
        assert result["phase"] == "result" and result["result"]["label"] == 3
        assert len(result["glimpses"]) == 2 and len(result["glimpses"][0]) == 2
        assert result["score"]["episodes"] == 1
        # Several at once, each with images in an order of their own.
        other = two.play()
        assert other["score"]["episodes"] == 1 and two.cookie != one.cookie
        # The tab was closed, or the server ended: the same cookie goes on.
        assert one.call("/api/state")["result"]["label"] == 3
        after = one.call("/api/next", {"episode": 1})
        assert after["phase"] == "look" and after["episode"] == 1 and after["left"] == 4
    with serving(served_again(served)) as port:
        back = Browser(port)
        back.cookie = f"glimpse-play-{port}={one.cookie.partition('=')[2]}"
        state = back.call("/api/state")
        assert state["episode"] == 1 and state["score"] == after["score"]
    files = sorted(served.store.folder.iterdir())
    assert len(files) == 2
    events = [event for file in files for event in read_record(file)[1]]
    assert sum(event["kind"] == "answer" for event in events) == 2
    assert all(event["seconds"] >= 0 for event in events if event["kind"] == "look")


def served_again(served: Served) -> Served:
    store = served.store
    fresh = Store(
        store.folder,
        store.rules,
        store.header,
        keep_seconds=store.keep_seconds,
        max_sessions=store.max_sessions,
    )
    return Served(served.game, fresh, served.title, served.hosts)


def test_every_image_once_and_then_an_end(tmp_path: Path) -> None:
    data = DataConfig("synthetic", num_images=8)
    served = prepare(PlayConfig(alone=True, out=tmp_path, data=data, num_glimpses=1))
    with serving(served) as port:
        browser, images = Browser(port), []
        for number in range(2):
            assert browser.play()["left"] == 1 - number
            if number == 0:
                browser.call("/api/next", {"episode": 1})
        status, _, content = browser.ask("POST", "/api/next", {"episode": 2})
        assert status == 409 and b"every image" in content
    (file,) = tmp_path.iterdir()
    images = [event["image"] for event in read_record(file)[1] if event["kind"] == "begin"]
    assert sorted(images) == [0, 1]


def test_a_page_of_another_site_can_do_nothing(served: Served) -> None:
    look = {"episode": 0, "look": 0, "x": 0, "y": 0}
    with serving(served) as port:
        browser = Browser(port)
        browser.call("/api/state")
        for headers, status in (
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": None}, 403),
            ({"Origin": f"http://127.0.0.1:{port + 1}"}, 403),
            ({"Origin": f"http://localhost:{port}"}, 403),
            ({"Sec_Fetch_Site": "cross-site"}, 403),
            ({"Sec_Fetch_Site": "same-site"}, 403),
            ({"Content_Type": "text/plain"}, 415),
            # A name that leads here, of somebody else's (DNS rebinding).
            ({"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}, 400),
        ):
            found, _, content = browser.ask("POST", "/api/look", look, **headers)
            assert found == status, (headers, content)
        assert browser.ask("GET", "/", Host="evil.example")[0] == 400
        assert browser.ask("GET", "/api/state", Host=f"localhost:{port}")[0] == 200
        _, headers, _ = browser.ask("GET", "/api/state")
        assert "access-control-allow-origin" not in headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert browser.call("/api/state")["looks"] == []
        _, headers, _ = Browser(port).ask("GET", "/api/state")
        assert "HttpOnly" in headers["set-cookie"] and "strict" in headers["set-cookie"].lower()


def test_no_path_is_taken_from_a_request(served: Served) -> None:
    with serving(served) as port:
        browser = Browser(port)
        for path in (
            "/../pyproject.toml",
            "/play.css/../game.py",
            "/%2e%2e/game.py",
            "/static/play.js",
            "//etc/passwd",
            "/session.py",
            "/api/",
            "/play.js%00",
            "/api/look/..",
        ):
            assert browser.ask("GET", path)[0] == 404, path
        assert browser.ask("GET", "/api/look")[0] == 405
        assert browser.ask("DELETE", "/api/state")[0] == 405
        browser.cookie = f"glimpse-play-{port}=../../../../etc/passwd"
        assert browser.ask("POST", "/api/look", {})[0] == 401


@pytest.mark.parametrize(
    "body, status",
    [
        ({"episode": 0, "look": 0, "x": 2, "y": 0}, 409),
        ({"episode": 0, "look": 1, "x": 0, "y": 0}, 409),
        ({"episode": 7, "look": 0, "x": 0, "y": 0}, 409),
        ({}, 409),
        ([], 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 1900, 400),
        ({"x": "a" * 3000}, 413),
        (b'{"episode": 0, "look": 0, "x": NaN, "y": 0}', 409),
    ],
)
def test_a_call_that_does_not_fit_is_refused(served: Served, body: Any, status: int) -> None:
    with serving(served) as port:
        browser = Browser(port)
        browser.call("/api/state")
        found, _, content = browser.ask("POST", "/api/look", body)
        assert found == status and json.loads(content)["error"]
        assert browser.call("/api/state")["looks"] == []


def test_nothing_of_the_answer_comes_before_it(served: Served) -> None:
    with serving(served) as port:
        browser = Browser(port)
        state = browser.call("/api/state")
        assert state["result"] is None and "truth" not in json.dumps(state["looks"])
        status, _, _ = browser.ask("POST", "/api/answer", {"episode": 0, "label": 0})
        assert status == 409


def test_many_people_at_once(served: Served) -> None:
    with serving(served) as port:
        people = [Browser(port) for _ in range(6)]
        threads = [threading.Thread(target=person.play) for person in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [person.call("/api/state")["phase"] for person in people] == ["result"] * 6
    assert len(list(served.store.folder.iterdir())) == 6


def test_a_port_in_use_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIMPSE_DEBUG", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["play", "--alone", "--port", str(port), "--out", str(tmp_path / "p")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"port {port}" in said and "--port" in said


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    for options, words in (
        ({"alone": True, "run": tmp_path}, "--alone takes neither"),
        ({"host": "0.0.0.0"}, "--allow-host"),
        ({"port": 70000}, "--port"),
        ({"keep_days": 0}, "--keep-days"),
        ({"max_sessions": 0}, "--max-sessions"),
    ):
        with pytest.raises(ValueError, match=words):
            PlayConfig(**options)
    with pytest.raises(RunError, match="no run in"):
        prepare(PlayConfig(run=tmp_path / "none"))


def test_names_are_those_that_browsers_send(tmp_path: Path) -> None:
    config = PlayConfig(
        alone=True,
        out=tmp_path,
        data=DataConfig("synthetic", num_images=8),
        host="::1",
        allow_host=("MyBox",),
    )
    assert prepare(config).hosts[-2:] == ("[::1]", "mybox")


def test_against_an_agent(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    served = prepare(PlayConfig(run=watched_runs["high"], out=tmp_path))
    with serving(served) as port:
        browser = Browser(port)
        shown = browser.play()
    agent = shown["result"]["agent"]
    assert len(agent["looks"]) == 2 and len(agent["likeliest"]) == 5
    assert agent["likeliest"][0][0] == agent["label"]
    (file,) = tmp_path.iterdir()
    header, events, _ = read_record(file)
    answer = events[-1]
    assert header["run"] == str(watched_runs["high"]) and answer["kind"] == "answer"
    assert answer["agent"]["label"] == agent["label"] and answer["truth"] is not None


def test_images_of_your_own(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.fromarray(SyntheticDogs("test", num_images=12).image(3)).save(path)
    served = prepare(PlayConfig(run=watched_runs["high"], out=tmp_path / "p", image=(path,)))
    with serving(served) as port:
        shown = Browser(port).play()
    assert shown["result"]["truth"] is None and shown["score"]["episodes"] == 0
    assert shown["result"]["agent"]["right"] is None and shown["left"] == 0


def test_a_person_sees_what_an_agent_sees() -> None:
    """The context is as blurred as an agent's, and a look shows the agent's very patch."""
    dogs = SyntheticDogs("val", num_images=12)
    image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    blurred = draw_seen(image, np.zeros((0, 2)), ("high",))
    seen = draw_seen(image, np.array([[0.0, 0.0]]), ("high",))
    height, width = blurred.shape[:2]
    middle = np.s_[height // 2 - 40 : height // 2 + 40, width // 2 - 40 : width // 2 + 40]
    detail = [np.abs(np.diff(each[middle].astype(int), axis=1)).mean() for each in (blurred, seen)]
    assert detail[1] > 1.5 * detail[0]
    assert np.array_equal(blurred[:20], seen[:20])
    assert look_at(image, np.array([[0.3, -0.2]]), ("medium", "high")).shape == (1, 2, 96, 96, 3)
    game = Game(dogs, ("high",), 1)
    assert game.outcome(0) == {"truth": int(dogs.labels[0]), "agent": None}
