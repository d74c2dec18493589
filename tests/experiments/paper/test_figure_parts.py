"""Figures for print: vectors for boxes and text, legible sizes, the same bytes twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from experiments.paper import figure_parts
from experiments.paper.config import FiguresConfig
from experiments.paper.figure_parts import Shown
from experiments.paper.figures import figures
from glimpse_env.datasets.synthetic import SyntheticDogs
from tests.experiments.see.players import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def shown() -> Shown:
    image = SyntheticDogs("val", num_images=2).image(0)
    fixations = np.array([[-0.9, -0.9], [0.1, 0.2], [0.9, 0.8]])
    return Shown(image, fixations, ("low", "medium", "high"), "ringed_hound", "barred_terrier")


def drawn(shown: Shown) -> dict[str, object]:
    high = replace(shown, resolutions=("high",), answer="ringed_hound")
    return {
        "3": figure_parts.figure_3([("all three", shown), ("high only", high)]),
        "5": figure_parts.figure_5("all three", [shown, high, shown]),
        "6": figure_parts.figure_6(["all three", "high only"], [[shown, high], [shown, high]]),
    }


def words(path: Path) -> list[str]:
    tree = ElementTree.parse(path)
    return ["".join(each.itertext()).strip() for each in tree.iter(f"{SVG}text")]


def test_text_and_boxes_are_vectors(shown: Shown, tmp_path: Path) -> None:
    found = {}
    for name, figure in drawn(shown).items():
        path = tmp_path / f"{name}.svg"
        figure_parts.save(figure, path)
        found[name] = words(path)
        tree = ElementTree.parse(path)
        pixels = sum(1 for _ in tree.iter(f"{SVG}image"))
        # Images and patches, and nothing else, are pixels.
        assert pixels == {"3": 2 + 9 + 3 + 2, "5": 3 * 2 + 9 + 3 + 9, "6": 8}[name]
    assert "(a) all three: barred terrier, wrong" in found["3"]
    assert "composite of all glimpses" in found["3"] and "medium" in found["3"]
    assert "ringed hound, answered barred terrier" in found["5"] and "(b) context" in found["5"]
    assert found["6"].count("answered barred terrier") == 2
    assert {"1", "2", "3"} <= set(found["6"])


def test_a_pdf_has_fonts_of_its_own_and_fits_the_page(shown: Shown, tmp_path: Path) -> None:
    for name, figure in drawn(shown).items():
        path = tmp_path / f"{name}.pdf"
        figure_parts.save(figure, path)
        content = path.read_bytes()
        assert content.startswith(b"%PDF") and b"/FontFile2" in content
        assert b"/Subtype /Type3" not in content
        assert figure.get_figwidth() == 6.5 and figure.get_figheight() < 11
        sizes = [text.get_fontsize() for text in figure.findobj(match=_is_text)]
        assert min(sizes) >= 5


def _is_text(artist: object) -> bool:
    from matplotlib.text import Text

    return isinstance(artist, Text) and bool(artist.get_text())


def test_ten_images_of_four_models_fit_a_page(shown: Shown) -> None:
    figure = figure_parts.figure_6([f"model {n}" for n in range(4)], [[shown] * 4] * 10)
    assert figure.get_figheight() < 11


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_the_same_figure_is_the_same_file(shown: Shown, tmp_path: Path, form: str) -> None:
    for name in ("one", "two"):
        figure_parts.save(figure_parts.figure_5("m", [shown]), tmp_path / f"{name}.{form}")
    one, two = ((tmp_path / f"{name}.{form}").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.filterwarnings("ignore:.*Glyph.*missing")
def test_names_are_text_and_nothing_else(shown: Shown, tmp_path: Path) -> None:
    names = (*HOSTILE, "$\\frac{", "a$b$c", "tab\tnull\0")
    rows = [
        [replace(shown, truth=name, answer=f"{name}?", resolutions=("high",))] for name in names
    ]
    for form in ("svg", "pdf"):
        figure_parts.save(figure_parts.figure_6([HOSTILE[1]], rows), tmp_path / f"odd.{form}")
    found = words(tmp_path / "odd.svg")
    assert any("<script>" in text for text in found)
    assert any("a$b$c" in text for text in found)


def test_long_names_stay_in_their_room(shown: Shown) -> None:
    odd = replace(shown, answer="a_name_of_very_many_words_" * 5)
    figure = figure_parts.figure_6(["m"] * 4, [[odd] * 4])
    figure.canvas.draw()
    for text in figure.texts:
        if text.get_text().startswith("answered"):
            assert text.get_text().endswith("…")
            assert text.get_window_extent().width <= 6.5 / 4 * figure.dpi


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_the_command_writes_the_format_asked_for(
    watched_runs: dict[str, Path], tmp_path: Path, form: str
) -> None:
    config = FiguresConfig(tuple(watched_runs.values()), out=tmp_path, format=form, count=2)
    files = [each["file"] for each in figures(config)["figures"]]
    assert len(files) == 4 and all(file.endswith(f".{form}") for file in files)
    assert all((tmp_path / file).stat().st_size > 2000 for file in files)
    page = (tmp_path / "figures.md").read_text()
    assert ("![figure-3](figure-3.svg)" in page) == (form == "svg")
    assert "[figure-3](figure-3." in page
