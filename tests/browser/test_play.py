"""The page of `glimpse play`, driven by clicks and by keys against a server of its own."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="Starlette is not installed (the extra `play`)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra `play`)")

from experiments.attention.analyse import AttentionConfig, attention
from experiments.data import DataConfig
from experiments.play.command import PlayConfig, prepare
from experiments.play.game import Game
from experiments.play.server import Served, bind, make_server
from experiments.play.store import Store, read_record
from glimpse_env.datasets.synthetic import SyntheticDogs
from tests.browser.conftest import Watch
from tests.experiments.see.players import HOSTILE

pytestmark = pytest.mark.browser


@contextmanager
def serving(served: Served) -> Iterator[str]:
    taken = bind("127.0.0.1", 0)
    server = make_server(served, taken)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        taken.close()


def until(page: Any, expression: str) -> None:
    """Wait; Playwright's own way evaluates text in the page, which the page's policy forbids."""
    for _ in range(1200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"it never came that {expression}")


@dataclass
class Tabs:
    """Tabs of one person, and what their pages complained of."""

    context: Any
    address: str
    watches: list[Watch]

    def open(self) -> Any:
        page = self.context.new_page()
        self.watches.append(Watch(page))
        page.goto(self.address)
        until(page, "document.getElementById('image').naturalWidth > 0")
        return page


@pytest.fixture
def person(browser: Any) -> Iterator[Any]:
    """A function that gives somebody a browser; at the end no page may have complained."""
    everybody: list[Tabs] = []

    def arrive(address: str, *, width: int = 1280, height: int = 900, scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        context.set_default_timeout(60_000)
        everybody.append(Tabs(context, address, []))
        return everybody[-1]

    yield arrive
    for tabs in everybody:
        tabs.context.close()
        for watch in tabs.watches:
            assert watch.complaints == []
            others = [url for url in watch.requests if not url.startswith(("data:", tabs.address))]
            assert others == []


@pytest.fixture
def against(watched_runs: dict[str, Path], tmp_path: Path) -> PlayConfig:
    return PlayConfig(run=watched_runs["high"], out=tmp_path / "play")


def alone(folder: Path) -> PlayConfig:
    data = DataConfig("synthetic", num_images=24)
    return PlayConfig(alone=True, out=folder, data=data, resolutions=("medium", "high"))


def click_at(page: Any, x: float, y: float) -> None:
    """Click a place of the image, in [0, 1] of its width and height."""
    image = page.locator("#image")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    before = page.locator(".glimpse").count()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    until(page, f"document.querySelectorAll('.glimpse').length === {before + 1}")


def answer(page: Any, search: str) -> None:
    page.get_by_role("combobox", name="Which breed is it?").fill(search)
    page.get_by_role("option").first.click()
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#result:not([hidden])")


def test_three_whole_episodes_by_clicks(against: PlayConfig, person: Any, tmp_path: Path) -> None:
    places = [(0.25, 0.5), (0.75, 0.5)]
    with serving(prepare(against)) as address:
        page = person(address).open()
        for episode in range(3):
            assert page.locator("#score-of").text_content() == str(episode)
            for x, y in places:
                assert page.locator("#result").is_hidden()
                click_at(page, x, y)
            answer(page, "hound")
            assert page.locator("#answers dt").all_text_contents() == ["It is", "You", "Agent"]
            assert page.locator("#likeliest li").count() == 5
            assert page.locator("#marks .disc.you").count() == 2
            assert page.locator("#marks .disc.agent").count() == 2
            if episode < 2:
                page.get_by_role("button", name="Next image").click()
                page.wait_for_selector("#result", state="hidden")
        score = [int(page.locator(f"#score-{name}").text_content()) for name in ("you", "of")]
    (file,) = against.out.iterdir()
    events = read_record(file)[1]
    looked = [(event["x"], event["y"]) for event in events if event["kind"] == "look"]
    assert len(looked) == 6
    for found, (x, y) in zip(looked, places * 3, strict=True):
        assert found == pytest.approx((2 * x - 1, 2 * y - 1), abs=0.02)
    record = attention(AttentionConfig(runs=(against.out,), out=tmp_path / "attention"))
    people, agent = record["runs"]
    assert people["images"] == agent["images"] == 3 == score[1]
    right = [e["label"] == e["truth"] for e in events if e["kind"] == "answer"]
    assert sum(right) == score[0]


def test_an_episode_by_keys_alone(tmp_path: Path, person: Any) -> None:
    with serving(prepare(alone(tmp_path / "play"))) as address:
        page = person(address).open()
        for _ in range(10):  # to the image, wherever the focus begins
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "stage":
                break
        assert page.get_by_role("application", name="Image. Look 1 of 2").count() == 1
        page.keyboard.press("ArrowRight")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowUp")
        assert "60% from the left" in page.locator("#live").text_content()
        page.keyboard.press("Enter")
        until(page, "document.querySelectorAll('.glimpse').length === 1")
        page.keyboard.press("Space")
        page.wait_for_selector("#answer:not([hidden])")
        assert page.evaluate("document.activeElement.id") == "breed"
        page.keyboard.type("whipp")
        assert page.get_by_role("option").count() == 4
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        active = page.locator("#breed").get_attribute("aria-activedescendant")
        page.keyboard.press("Enter")
        assert page.get_by_role("option", selected=True).get_attribute("id") == active
        page.keyboard.press("Enter")
        page.wait_for_selector("#result:not([hidden])")
        assert page.evaluate("document.activeElement.id") == "next"
        assert "It is" in page.locator("#live").text_content()
        page.keyboard.press("Enter")
        page.wait_for_selector("#result", state="hidden")
        assert page.evaluate("document.activeElement.id") == "stage"
    (file,) = (tmp_path / "play").iterdir()
    first = next(event for event in read_record(file)[1] if event["kind"] == "look")
    assert (first["x"], first["y"]) == pytest.approx((0.2, -0.01), abs=1e-6)


def test_a_closed_tab_loses_nothing_and_two_tabs_agree(tmp_path: Path, person: Any) -> None:
    with serving(prepare(alone(tmp_path / "play"))) as address:
        tabs = person(address)
        page = tabs.open()
        click_at(page, 0.3, 0.3)
        page.close()
        again, other = tabs.open(), tabs.open()
        assert again.locator(".glimpse").count() == other.locator(".glimpse").count() == 1
        click_at(again, 0.6, 0.6)
        # The other tab does not know yet: it is told, and shows what is.
        box = other.locator("#image").bounding_box()
        other.mouse.click(box["x"] + 20, box["y"] + 20)
        other.wait_for_selector("#alert:not([hidden])")
        assert other.locator(".glimpse").count() == 2
        assert other.locator("#answer").is_visible()
        refused = [each for watch in tabs.watches for each in watch.complaints]
        assert len(refused) == 1 and "409" in refused[0]
        for watch in tabs.watches:
            watch.complaints.clear()
        answer(other, "hound")


def test_several_people_have_games_of_their_own(tmp_path: Path, person: Any) -> None:
    with serving(prepare(alone(tmp_path / "play"))) as address:
        one, two = person(address).open(), person(address).open()
        click_at(one, 0.3, 0.3)
        two.reload()
        until(two, "document.getElementById('image').naturalWidth > 0")
        assert two.locator(".glimpse").count() == 0


class Hostile(SyntheticDogs):
    """Images whose breeds have names that attack a page."""

    def __init__(self) -> None:
        super().__init__("val", num_images=12)
        self.class_names = (*HOSTILE, "plain")[: len(self.class_names)]


def test_hostile_names_do_nothing(tmp_path: Path, person: Any) -> None:
    dataset = Hostile()
    game = Game(dataset, ("high",), 1)
    store = Store(tmp_path, game.rules, {}, keep_seconds=3600, max_sessions=9)
    title = f"{HOSTILE[0]} against {HOSTILE[2]}"
    with serving(Served(game, store, title, ("127.0.0.1",))) as address:
        page = person(address).open()
        click_at(page, 0.5, 0.5)
        assert page.get_by_role("option").count() == len(dataset.class_names)
        page.get_by_role("combobox").fill("script")
        assert page.get_by_role("option").count() == 3
        answer(page, "<script>window")
        assert HOSTILE[0].replace("_", " ") in page.locator("#answers").text_content()
        assert page.evaluate("window.hurt") is None
        assert page.locator("#title").text_content() == title
        for tag in ("main script", "main img[src='x']", "main svg svg", "#answers b"):
            assert page.locator(tag).count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
def test_it_fits_and_can_be_read(
    width: int, height: int, scheme: str, against: PlayConfig, person: Any
) -> None:
    with serving(prepare(against)) as address:
        tabs = person(address, width=width, height=height, scheme=scheme)
        page = tabs.open()
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        for x in (0.3, 0.7):
            assert page.evaluate(fits)
            assert page.locator("#image").bounding_box()["height"] < height
            click_at(page, x, 0.5)
        assert page.evaluate(fits)
        assert contrast(page, "h1") >= 7 and contrast(page, "#found") >= 4.5
        answer(page, "hound")
        assert page.evaluate(fits)
        for selector in ("#verdict", "#answers dt", "#score-you", "#score-agent", "#next"):
            assert contrast(page, selector) >= 4.5, selector


def contrast(page: Any, selector: str) -> float:
    """The ratio of luminances of a text and what is behind it (WCAG 2)."""
    text, behind = page.locator(selector).first.evaluate(
        """(element) => {
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
                behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }"""
    )

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(text), luminance(behind)))
    return (high + 0.05) / (low + 0.05)


def test_a_server_that_ends_is_told(tmp_path: Path, person: Any) -> None:
    config = alone(tmp_path / "play")
    with serving(prepare(config)) as address:
        tabs = person(address)
        page = tabs.open()
        click_at(page, 0.4, 0.4)
    page.locator("#image").click()
    page.wait_for_selector("#alert:not([hidden])")
    assert "does not answer" in page.locator("#alert").text_content()
    assert page.locator(".glimpse").count() == 1
    assert all("ERR_" in each for each in tabs.watches[0].complaints)
    tabs.watches[0].complaints.clear()
    (file,) = config.out.iterdir()
    assert [json.loads(line)["kind"] for line in file.read_text().splitlines()][-1] == "look"


def test_a_full_folder_is_told(tmp_path: Path, person: Any) -> None:
    config = replace(alone(tmp_path / "play"), max_sessions=1)
    with serving(prepare(config)) as address:
        click_at(person(address).open(), 0.4, 0.4)
        tabs = person(address)
        page = tabs.open()
        page.locator("#image").click()
        page.wait_for_selector("#alert:not([hidden])")
        assert "its limit" in page.locator("#alert").text_content()
        assert len(tabs.watches[0].complaints) == 1 and "503" in tabs.watches[0].complaints[0]
        tabs.watches[0].complaints.clear()
