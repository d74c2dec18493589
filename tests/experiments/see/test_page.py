"""The file that `glimpse view` writes: its size, and that names in it do nothing."""

from __future__ import annotations

import base64
import builtins
import hashlib
import html.parser
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.cli import main
from experiments.see.page import build_page, render
from experiments.see.view import ViewConfig, view
from glimpse_env.pyramids.pyramid import build_pyramid
from tests.experiments.see.players import HOSTILE, collection


class Tags(html.parser.HTMLParser):
    """The tags of a page, and the text within each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = True

    def handle_endtag(self, tag) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[len(self.tags) - 1] = self.texts.get(len(self.tags) - 1, "") + data

    def script(self, name: str) -> str:
        for n, (_, attributes) in enumerate(self.tags):
            if attributes.get("id") == name:
                return self.texts[n]
        raise KeyError(name)


@pytest.fixture(scope="module")
def page() -> str:
    return build_page(
        collection(HOSTILE), title="</title><script>window.hurt=6</script>"
    ).html.decode()


def test_hostile_names_add_no_tag(page: str) -> None:
    plain = build_page(collection(), title="plain").html.decode()
    assert [tag for tag, _ in Tags(page).tags] == [tag for tag, _ in Tags(plain).tags]
    assert "hurt=6</script>" not in page and "onerror='" not in page


def test_names_come_back_from_the_data_unchanged(page: str) -> None:
    data = json.loads(Tags(page).script("data"))
    assert data["classes"][1] == HOSTILE[1]
    assert data["classes"][7] == "no utf-8: \udcff"
    assert data["images"][0]["name"].endswith(".jpg")
    page.encode("utf-8")


def test_the_policy_names_what_may_run_and_nothing_is_fetched(page: str) -> None:
    tags = Tags(page)
    policy = next(a["content"] for tag, a in tags.tags if a.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    code = [n for n, (tag, a) in enumerate(tags.tags) if tag == "script" and "type" not in a]
    assert len(code) == 1
    digest = base64.b64encode(hashlib.sha256(tags.texts[code[0]].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for _, attributes in tags.tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)", re.sub(r"[A-Za-z0-9+/=]{200,}", "", page)
    )


def test_text_is_never_read_as_markup() -> None:
    for path in (Path(__file__).parents[3] / "experiments/see/assets").glob("*.js"):
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in path.read_text(), (path.name, word)


def test_patches_are_plain_copies_of_the_levels_in_the_file() -> None:
    found = collection()
    tags = Tags(build_page(found, title="levels").html.decode())
    index = int(found.images[found.shown[3]])
    levels = build_pyramid(found.dataset.image(index)).levels
    for name in ("low", "medium", "high"):
        stored = base64.b64decode(tags.script(f"pixels-3-{name}"))
        pixels = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))
        assert pixels.shape == levels[name].shape
        assert np.abs(pixels.astype(int) - levels[name]).mean() < 12
    with pytest.raises(KeyError):
        tags.script("pixels-16-low")


def test_images_are_compressed_to_fit() -> None:
    found = collection()
    whole = build_page(found, title="t", max_megabytes=20)
    tight = build_page(found, title="t", max_megabytes=0.6 * whole.megabytes)
    assert tight.megabytes <= 0.6 * whole.megabytes and tight.quality < whole.quality
    assert tight.images == whole.images == 16
    with pytest.raises(ValueError, match="take .* MB even at the lowest quality.*smaller --count"):
        build_page(found, title="t", max_megabytes=0.1)


def test_two_hundred_images_take_at_most_twenty_megabytes() -> None:
    found = collection(num_images=24, shown=24)
    # As many images as asked for, the same ones again and again: sizes add up.
    places = np.resize(found.shown, 200)
    page = build_page(replace(found, shown=places), title="t")
    assert page.images == 200 and len(page.html) <= 20_000_000


def test_the_command_says_the_size_before_it_writes(
    watched_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folder" / "view.html"
    page = view(ViewConfig(tuple(watched_runs.values()), out=out, count=6))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{out}: {page.megabytes:.1f} MB, 6 images of 4 agents")
    assert out.read_bytes() == page.html


def test_what_does_not_fit_is_not_written(
    watched_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "view.html"
    run = str(watched_runs["high"])
    assert main(["view", run, "--out", str(out), "--max-mb", "0.05"]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not out.exists()
    assert main(["view", str(tmp_path), "--out", str(out)]) == 1
    assert "no run in" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments, **options):
        if name.partition(".")[0] == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"glimpse-env\[see\]"):
        render({}, [], title="t")
