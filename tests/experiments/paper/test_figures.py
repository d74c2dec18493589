"""`glimpse figures`: what is on the figures, from arrays, and the command on small runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.data import breed
from experiments.paper.figure_parts import (
    Sheet,
    Shown,
    box_diagram,
    figure_3,
    figure_5,
    figure_6,
)
from experiments.paper.figures import FiguresConfig, best_example, choose_images, figures, travel
from experiments.runtime.runs import RunError
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.rendering.scanpath import GLIMPSE_COLORS, RIGHT_COLOR, WRONG_COLOR


def pixels(figure: Figure) -> np.ndarray:
    """A figure as the PNG has it, at half its resolution."""
    figure.set_dpi(128)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]


def counted(figure: Figure, color: tuple[int, int, int]) -> int:
    near = np.abs(pixels(figure).astype(int) - np.array(color)) <= 1
    return int(near.all(axis=-1).sum())


@pytest.fixture(scope="module")
def shown() -> Shown:
    image = SyntheticDogs("val", num_images=2).image(0)
    fixations = np.array([[-0.9, -0.9], [0.1, 0.2], [0.9, 0.8]])
    return Shown(image, fixations, ("low", "medium", "high"), "ringed_hound", "ringed_hound")


def test_a_frame_says_whether_the_answer_is_right(shown: Shown) -> None:
    wrong = replace(shown, answer="barred_terrier")
    for draw in (
        lambda *each: figure_5("model", each),
        lambda *each: figure_6(["model"], [[one] for one in each]),
    ):
        good, bad, mixed = draw(shown), draw(wrong), draw(shown, wrong)
        assert counted(good, RIGHT_COLOR) > 400 and counted(good, WRONG_COLOR) == 0
        assert counted(bad, WRONG_COLOR) > 400 and counted(bad, RIGHT_COLOR) == 0
        assert counted(mixed, RIGHT_COLOR) > 400 and counted(mixed, WRONG_COLOR) > 400


@pytest.mark.parametrize("models", [1, 2, 4])
@pytest.mark.parametrize("looks", [1, 3])
def test_figures_are_as_wide_as_print_and_white_around(
    shown: Shown, models: int, looks: int
) -> None:
    one = replace(shown, fixations=shown.fixations[:looks])
    high = replace(one, resolutions=("high",))
    several = ([one, high] * 2)[:models]
    titles = [f"a model of a rather long name, number {n}" for n in range(models)]
    for sheet in (
        figure_3(list(zip(titles, several, strict=True))),
        figure_5(titles[0], several),
        figure_6(titles, [several, several]),
    ):
        drawn = pixels(sheet)
        assert drawn.shape[1] == 832
        for edge in (drawn[:2], drawn[-1:], drawn[:, :1], drawn[:, -1:]):
            assert (edge == 255).all()


def test_images_of_any_shape_fit(shown: Shown) -> None:
    for shape in ((40, 400), (500, 60), (97, 97)):
        image = np.full((*shape, 3), 90, np.uint8)
        odd = replace(shown, image=image)
        for sheet in (figure_3([("m", odd)]), figure_5("m", [odd]), figure_6(["m"], [[odd]])):
            assert pixels(sheet).shape[1] == 832


def test_the_box_diagram_shows_boxes_that_leave_the_image(shown: Shown) -> None:
    """The low patch at a corner is as long as the short side, half of it outside."""
    flat = replace(shown, image=np.full((300, 400, 3), (90, 120, 150), np.uint8))
    corner = replace(flat, fixations=np.array([[-1.0, -1.0]]), resolutions=("low",))
    sheet = Sheet(5, 5)
    box_diagram(sheet, corner, 0, (0, 0, 5, 5))
    (axes,) = sheet.figure.axes
    # 150 of 450 rows, and 150 of 550 columns, lie above and to the left of the image.
    assert axes.get_xlim() == (-150, 400) and axes.get_ylim() == (300, -150)
    place = axes.get_position()
    assert place.width == pytest.approx(1) and place.height == pytest.approx(450 / 550)
    second = Sheet(4, 4)
    box_diagram(second, replace(flat, fixations=np.zeros((2, 2))), 1, (0, 0, 4, 4))
    assert counted(second.figure, GLIMPSE_COLORS[1]) > 50
    assert counted(second.figure, GLIMPSE_COLORS[0]) == 0


def test_names_are_readable() -> None:
    assert breed("n02085620-Chihuahua") == "Chihuahua"
    assert breed("n02097474-Tibetan_terrier") == "Tibetan terrier"
    assert breed("black-and-tan_coonhound") == "black-and-tan coonhound"
    assert breed("ringed_hound") == "ringed hound"


def test_travel_is_the_mean_distance_between_fixations() -> None:
    line = np.array([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]])[:, None]
    np.testing.assert_allclose(travel(line), [(0.5 + 0.5 + 1.0) / 3])
    assert travel(line[:1]).tolist() == [0.0]


def test_the_best_example_is_right_first_and_far_second() -> None:
    right = np.array([[True, True, False, True], [True, False, False, True]])
    far = np.array([[0.1, 0.9, 2.0, 0.4], [0.1, 0.9, 2.0, 0.2]])
    assert best_example(right, far) == 3
    assert best_example(np.zeros_like(right), far) == 2
    assert best_example(right[:, :1], np.zeros((2, 1))) == 0


def test_images_are_chosen_by_the_seed_alone() -> None:
    config = FiguresConfig(run=(Path("a"),), count=4)
    one = choose_images(config, 100)
    assert {k: len(v) for k, v in one.items()} == {5: 4, 6: 4, 3: 48}
    np.testing.assert_array_equal(one[5], one[6])
    again = choose_images(replace(config, run=(Path("b"), Path("c"))), 100)
    for number in (3, 5, 6):
        np.testing.assert_array_equal(one[number], again[number])
    assert not np.array_equal(one[5], choose_images(replace(config, seed=1), 100)[5])
    by_hand = choose_images(replace(config, image=17, which=(3,)), 100)
    assert by_hand.keys() == {3} and by_hand[3].tolist() == [17]
    with pytest.raises(ValueError, match="give one of 0 to 99"):
        choose_images(replace(config, image=100), 100)


@pytest.mark.slow
def test_figures_of_two_runs(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    runs = (watched_runs["high"], watched_runs["both"])
    config = FiguresConfig(run=runs, out=tmp_path / "one", count=3, seed=2)
    record = figures(config)
    files = [
        "figure-3.png",
        "figure-5-1-high-only-2-glimpses.png",
        "figure-5-2-high-medium-1-glimpse.png",
        "figure-6.png",
    ]
    assert [each["file"] for each in record["figures"]] == files
    assert json.loads((config.out / "figures.json").read_text()) == record
    page = (config.out / "figures.md").read_text()
    for name in files:
        assert f"]({name})" in page
        with Image.open(config.out / name) as image:
            assert image.width >= 1500
    assert all(model["checkpoint"] in page for model in record["models"])
    six = record["figures"][-1]["images"]
    dataset = SyntheticDogs("val", num_images=12)
    for row in six:
        assert row["label"] == dataset.class_names[dataset.labels[row["image"]]]
        assert [len(a["fixations"]) for a in row["answers"]] == [2, 1]
        for answer in row["answers"]:
            assert answer["right"] == (answer["answer"] == row["label"])
    # From its own record, a figure can be drawn again to the byte.
    again = replace(
        config, out=tmp_path / "two", which=(3,), image=record["figures"][0]["images"][0]["image"]
    )
    figures(again)
    assert [p.name for p in sorted(again.out.glob("*.png"))] == ["figure-3.png"]
    assert (again.out / "figure-3.png").read_bytes() == (config.out / files[0]).read_bytes()


def test_what_cannot_be_drawn(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    run = watched_runs["both"]
    with pytest.raises(ValueError, match="one to 4 run folders, not 5"):
        FiguresConfig(run=(run,) * 5)
    with pytest.raises(ValueError, match="--count is at least 1"):
        FiguresConfig(run=(run,), count=0)
    with pytest.raises(ValueError, match="--which names at least one"):
        FiguresConfig(run=(run,), which=())
    with pytest.raises(RunError, match="no run in"):
        figures(FiguresConfig(run=(tmp_path,), out=tmp_path / "out"))
    other = tmp_path / "other"
    shutil.copytree(run, other)
    record = json.loads((other / "config.json").read_text())
    record["data"]["num_images"], record["bank"] = 32, None
    (other / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="other images"):
        figures(FiguresConfig(run=(run, other), out=tmp_path / "out", which=(6,), count=2))
    assert not (tmp_path / "out").exists()
