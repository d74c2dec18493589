"""The page of `glimpse view`, driven as a person does: filter, open, step, compare, both themes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.see.page import build_page
from experiments.see.view import ViewConfig, view
from tests.experiments.see.players import HOSTILE, collection

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def real(watched_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs that were trained."""
    out = tmp_path_factory.mktemp("view") / "view.html"
    view(ViewConfig(tuple(watched_runs.values()), out=out, count=12))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "view.html"
    out.write_bytes(build_page(collection(num_images=96, shown=80), title="Made up").html)
    return out


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The file's own name is not to be trusted either.
    out = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)> 'a' \"b\" \u202e.html"
    title = "<script>window.hurt = 6</script>"
    out.write_bytes(build_page(collection(HOSTILE), title=title).html)
    return out


DRAWN = """[...document.querySelectorAll('#episode canvas')]
.every((canvas) => canvas.classList.contains('drawn'))"""
# Noise and image alike: a canvas that was drawn has many values, an empty one has one.
VALUES = """() => [...document.querySelectorAll('#episode canvas')].map((canvas) => new Set(
canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size)"""


def cards(page: Any) -> Any:
    return page.locator("#grid .card")


def until(page: Any, expression: str, seconds: float = 60) -> None:
    """Wait; the page's own policy forbids `wait_for_function`, which evaluates strings in it."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


def current_step(page: Any) -> str:
    return page.locator("#steps [aria-current=step]").inner_text()


def sure(page: Any) -> list[int]:
    return [int(text.rstrip("%")) for text in page.locator(".verdict .number").all_inner_texts()]


def test_a_run_is_filtered_sorted_opened_and_stepped_through(open_page: Any, real: Path) -> None:
    page = open_page(real)
    assert cards(page).count() == 12
    assert sure(page) == sorted(sure(page), reverse=True)
    page.select_option("#sort", "unsure")
    assert sure(page) == sorted(sure(page))
    counts = {}
    for answer in ("right", "wrong", "all"):
        page.locator(f"input[name=answer][value={answer}]").check(force=True)
        counts[answer] = cards(page).count()
    assert counts["right"] + counts["wrong"] == counts["all"] == 12
    cards(page).first.click()
    assert page.locator("#episode").is_visible()
    assert current_step(page) == "Context"
    page.keyboard.press("ArrowRight")
    assert current_step(page).startswith("Glimpse 1")
    assert page.locator("#episode .overlay .fixation").count() == 1
    assert page.locator(".beliefs tbody tr").count() in (5, 6)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert current_step(page).startswith("Glimpse 2")
    assert page.locator("#episode .overlay .fixation").count() == 2
    assert "glimpse 2 of 2" in page.locator("#spoken").inner_text()
    page.keyboard.press("ArrowLeft")
    assert current_step(page).startswith("Glimpse 1")
    page.keyboard.press("Escape")
    assert not page.locator("#episode").is_visible()
    # The focus is back where it was.
    assert page.evaluate("document.activeElement.dataset.position") == "0"


def test_filters_by_breed_agent_and_run(open_page: Any, made: Path) -> None:
    page = open_page(made)
    page.select_option("#breed", index=1)
    name = page.locator("#breed option:checked").inner_text()
    assert set(page.locator("#grid .truth").all_inner_texts()) == {name}
    page.select_option("#breed", "-1")
    assert page.locator("#agent option").all_inner_texts() == ["learned", "center", "all agents"]
    page.select_option("#agent", "all")
    assert "of 160 episodes" in page.locator("#count").inner_text()
    page.select_option("#run", "all")
    page.select_option("#agent", "all")
    assert "of 240 episodes" in page.locator("#count").inner_text()
    page.select_option("#run", "1")
    cards(page).first.click()
    page.keyboard.press("End")
    assert current_step(page).startswith("Glimpse 3")


def test_more_cards_come_when_one_scrolls(open_page: Any, made: Path) -> None:
    page = open_page(made)
    assert cards(page).count() < 80
    page.locator("#more").scroll_into_view_if_needed()
    until(page, "document.querySelectorAll('#grid .card').length === 80")
    assert page.locator("#more").is_hidden()


def test_images_patches_and_composite_are_drawn(open_page: Any, real: Path) -> None:
    page = open_page(real)
    until(page, "document.querySelector('#grid img').naturalWidth > 0")
    cards(page).first.click()
    page.keyboard.press("End")
    # Noise and image alike: a canvas that was drawn has many colours, an empty one has one.
    until(page, DRAWN)
    assert min(page.evaluate(VALUES)) > 30
    until(page, "document.querySelector('#episode .frame img').naturalWidth > 0")
    assert page.locator("#episode .patches .patch").count() == 3  # the context and two glimpses
    page.locator("#show-box").check()
    assert page.locator("#episode .overlay .dog").count() >= 1
    page.keyboard.press("b")
    assert page.locator("#episode .overlay .dog").count() == 0


def test_the_context_patch_is_the_agents_own(open_page: Any, made: Path) -> None:
    """Pixel by pixel what the retina cuts, up to the compression of the level that it lies in."""
    import numpy as np

    from glimpse_env.pyramids.pyramid import build_pyramid
    from glimpse_env.retina.rules import cut_patches

    found = collection(num_images=96, shown=80)
    page = open_page(made)
    page.select_option("#sort", "order")
    cards(page).first.click()
    until(page, DRAWN)
    given = page.evaluate(
        """() => { const c = document.querySelector('#episode .patches canvas');
        return [...c.getContext('2d').getImageData(0, 0, 96, 96).data]; }"""
    )
    drawn = np.array(given, int).reshape(96, 96, 4)[..., :3]
    image = found.dataset.image(int(found.images[found.shown[0]]))
    seen = cut_patches(
        [build_pyramid(image, ("low",))],
        np.zeros((1, 2)),
        np.zeros(1, bool),
        np.zeros(1, np.uint64),
        ("low",),
    )[0, 0]
    assert np.abs(drawn - seen).mean() < 8


def test_two_runs_side_by_side(open_page: Any, made: Path) -> None:
    page = open_page(made)
    page.select_option("#versus", "2")
    assert page.locator("#grid.paired .images.two").count() > 0
    page.locator("#disagree").check()
    total = int(re.match(r"(\d+) of", page.locator("#count").inner_text())[1])
    assert 0 < total < 80
    cards(page).first.click()
    sides = page.locator("#episode .side")
    assert sides.count() == 2
    page.keyboard.press("End")
    assert current_step(page) == "Glimpse 3"
    assert sides.nth(0).locator(".fixation").count() == 2
    assert sides.nth(1).locator(".fixation").count() == 3
    page.select_option("#episode-versus", "-1")
    assert sides.count() == 1


def test_heat_maps_and_breeds(open_page: Any, made: Path) -> None:
    page = open_page(made)
    page.locator("#tab-heat").click()
    assert page.locator("#panel-heat .heat").count() == 2
    assert "192 fixations in 96 images" in page.locator("#panel-heat .panel").inner_text()
    page.select_option("#heat-glimpse", "0")
    assert "96 fixations in 96 images" in page.locator("#panel-heat .panel").inner_text()
    page.locator("#tab-heat").press("ArrowRight")
    assert page.locator("#panel-breeds").is_visible()
    assert page.locator("#breed-table tbody tr").count() == 12
    pair = page.locator("#pairs button").first
    truth, answer = pair.inner_text().split(" taken for ")
    pair.click()
    assert page.locator("#panel-images").is_visible()
    assert set(page.locator("#grid .truth").all_inner_texts()) <= {truth}
    assert answer in page.locator("#pair").inner_text()


def test_dark_and_light(open_page: Any, made: Path) -> None:
    def ground(page: Any) -> float:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3])) / 3

    light, dark = open_page(made), open_page(made, scheme="dark")
    assert ground(light) > 200 and ground(dark) < 60
    dark.locator("#theme").click()
    assert ground(dark) > 200
    dark.locator("#theme").click()
    assert ground(dark) < 60 and dark.locator("#theme").inner_text() == "Theme: dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    open_page: Any, hostile: Path, made: Path, scheme: str
) -> None:
    for path in (made, hostile):
        page = open_page(path, width=390, height=844, scheme=scheme)
        wide = "document.documentElement.scrollWidth <= innerWidth"
        assert page.evaluate(wide)
        for name in ("heat", "breeds", "images"):
            page.locator(f"#tab-{name}").click()
            assert page.evaluate(wide), name
        page.select_option("#versus", "2")
        cards(page).first.click()
        page.locator("#forward").click()
        assert page.evaluate(wide)
        dialog = page.locator("#episode")
        assert dialog.evaluate("(each) => each.scrollWidth <= each.clientWidth")
        page.locator("#close").click()
        assert not page.locator("#episode").is_visible()


def test_hostile_names_do_nothing(open_page: Any, hostile: Path) -> None:
    page = open_page(hostile)
    assert page.locator("h1").inner_text() == "<script>window.hurt = 6</script>"
    page.select_option("#run", "all")
    page.select_option("#agent", "all")
    page.select_option("#versus", "1")
    for name in ("heat", "breeds", "images"):
        page.locator(f"#tab-{name}").click()
    for _ in range(2):
        cards(page).first.click()
        page.keyboard.press("End")
        for _ in range(len(HOSTILE)):
            page.keyboard.press("PageDown")
        page.keyboard.press("Escape")
        page.select_option("#sort", "breed")
    assert page.evaluate("window.hurt") is None
    assert page.locator("body img[onerror], body svg[onload], body b").count() == 0
    shown = page.locator("#breed option").all_inner_texts()
    assert any("<script>window.hurt=1</script>" in text for text in shown)


def test_the_keyboard_is_enough(open_page: Any, made: Path) -> None:
    page = open_page(made)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.position") == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.position") == "1"
    page.keyboard.press("ArrowDown")
    assert int(page.evaluate("document.activeElement.dataset.position")) > 1
    page.keyboard.press("Enter")
    assert page.locator("#episode").is_visible()
    for _ in range(40):  # the focus stays in the dialog, or on the browser's own controls
        page.keyboard.press("Tab")
        assert page.evaluate("!!document.activeElement.closest('#episode, body:not(:has(:focus))')")


def test_everything_that_can_be_used_has_a_name_and_a_role(open_page: Any, made: Path) -> None:
    page = open_page(made)
    page.select_option("#versus", "2")
    for part in ("", "#tab-heat", "#tab-breeds", "#tab-images"):
        if part:
            page.locator(part).click()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, [role], canvas, img')]
            .filter((e) => e.offsetParent !== null).filter((e) => !(e.getAttribute('aria-label')
              || e.getAttribute('aria-labelledby') || e.textContent.trim() || e.labels?.length
              || e.closest('button')?.textContent.trim() || e.alt
              || e.getAttribute('role') === 'status'))
            .map((e) => e.outerHTML.slice(0, 120))"""
        )
        assert nameless == []
    cards(page).first.click()
    page.keyboard.press("End")
    assert page.get_by_role("dialog").count() == 1
    assert page.get_by_role("img", name=re.compile("Glimpse 1, high resolution")).count() >= 1
    assert page.get_by_role("table").count() == 2
