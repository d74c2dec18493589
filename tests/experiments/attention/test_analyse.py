"""`glimpse attention`: the measures on scenes worked out by hand, and the command on small runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.bank.feature_bank import FeatureBank
from experiments.attention.analyse import (
    AttentionConfig,
    Ground,
    attention,
    judge_places,
    pixel_budget,
    score_answers,
)
from experiments.attention.measures import (
    Scenery,
    expect_uniform,
    follows,
    in_dogs_frame,
    lattice_shares,
    measure,
    survey,
)
from experiments.attention.report import format_attention
from experiments.runtime.runs import RunError
from experiments.train.evaluate import play
from experiments.train.playback import Playback, open_run, play_back, run_titles
from glimpse_env.datasets.synthetic import SyntheticDogs

# Two dogs, apart, in an image 200 wide and 100 high.
PAIR = np.array([[20.0, 40.0, 60.0, 80.0], [140.0, 40.0, 180.0, 80.0]])
SIZE = (200, 100)


def watched_at(fixations: np.ndarray, classes: int = 3) -> Playback:
    """An agent that looked there and is always right."""
    looks, count = fixations.shape[:2]
    labels = np.arange(count) % classes
    log_probs = np.log(np.eye(classes)[labels] + 1e-6)
    return Playback(
        np.arange(count),
        labels,
        np.broadcast_to(log_probs, (looks, count, classes)),
        fixations,
        fixations,
    )


def test_measures_of_an_image_with_two_dogs() -> None:
    points = np.array(
        [
            [40.0, 60.0],  # the middle of one
            [100.0, 60.0],  # halfway between
            [100.0, 78.0],  # in the hull, 0.18 short sides from the line
            [100.0, 90.0],  # below the hull
            [10.0, 60.0],  # outside, left of both, off the segment by 0.3
        ]
    )
    found = measure(points, PAIR, SIZE)
    assert found["one"].tolist() == [1, 0, 0, 0, 0]
    assert found["none"].tolist() == [0, 1, 1, 1, 1]
    assert found["hull"].tolist() == [0, 1, 1, 0, 0]
    assert found["line"].tolist() == [0, 1, 0, 0, 0]
    np.testing.assert_allclose(found["distance"][[0, 1, 3, 4]], [0, 0.4, 0.4123, 0.1], atol=1e-4)
    np.testing.assert_allclose(found["middle_distance"][[0, 1, 4]], [0, 0.6, 0.3])


def test_an_overlap_is_in_both_and_between_neither() -> None:
    nested = np.array([[0.0, 0.0, 100.0, 100.0], [50.0, 0.0, 150.0, 100.0]])
    found = measure(np.array([[75.0, 50.0], [25.0, 50.0]]), nested, SIZE)
    assert found["overlap"].tolist() == [1, 0] and found["one"].tolist() == [0, 1]
    assert not found["hull"].any() and not found["line"].any()


def test_an_even_fixation_in_expectation() -> None:
    expected = expect_uniform(PAIR, SIZE)
    assert expected["inside"] == pytest.approx(2 * 40 * 40 / 20_000)
    assert expected["none"] + expected["one"] + expected["overlap"] == pytest.approx(1)
    # The hull is 160 x 40, less the two boxes.
    assert expected["hull"] == pytest.approx((160 - 80) * 40 / 20_000, abs=0.02)
    whole = expect_uniform(np.array([[0.0, 0.0, 200.0, 100.0]]), SIZE)
    assert whole["inside"] == 1 and whole["distance"] == 0
    # E|x| + ... of an even point to the middle of a square: 0.3826 of its side.
    square = expect_uniform(np.array([[0.0, 0.0, 100.0, 100.0]]), (100, 100))
    assert square["middle_distance"] == pytest.approx(0.3826, abs=1e-3)


def test_shares_of_a_lattice_are_its_cells() -> None:
    axis = np.array([-0.5, 0.0, 0.5])
    points = np.stack([p.ravel() for p in np.meshgrid(axis, axis)], 1)

    def snap(fixation: np.ndarray) -> np.ndarray:
        return np.linalg.norm(fixation[:, None] - points[None], axis=-1).argmin(axis=1)

    side = np.array([0.375, 0.25, 0.375])
    np.testing.assert_allclose(lattice_shares(snap, 9), np.outer(side, side).ravel(), atol=1e-9)


def scenery_of(boxes: list[np.ndarray]) -> Scenery:
    return Scenery(np.arange(len(boxes)), [SIZE] * len(boxes), boxes)


def test_one_who_always_looks_at_the_dog() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (140, 40), (60, 2))
    boxes = [np.array([[x, y, x + 60, y + 60]]) for x, y in corners]
    scenery = scenery_of(boxes)
    middles = np.array([(x + 30, y + 30) for x, y in corners]) / SIZE * 2 - 1
    record = judge_places(watched_at(np.stack([middles, -middles])), Ground.of(scenery), None)
    first, second = record["glimpses"]
    assert first["inside"]["value"] == 1 and first["distance"]["value"] == 0
    assert first["follows"] == [1.0, 1.0] and second["follows"] == [-1.0, -1.0]
    assert record["others"]["random"]["inside"]["value"] == pytest.approx(0.18)
    assert first["inside_minus_random"]["value"] == pytest.approx(0.82)
    assert first["inside_minus_random"]["low"] > 0
    assert record["several_dogs"] == {}
    misses = np.abs(corners + 30 - np.array(SIZE) / 2).max(axis=1) > 30
    assert record["off_centre"]["images"] == misses.sum()
    assert record["off_centre"]["learned"][0]["value"] == 1
    assert record["off_centre"]["others"]["centre"]["value"] == 0
    assert record["answers"]["one_dog"] == {"images": 60} | record["answers"]["first_inside"] | {
        "images": 60
    }
    np.testing.assert_allclose(in_dogs_frame(scenery, middles), 0, atol=1e-9)


def test_one_who_never_moves_follows_nothing() -> None:
    boxes = [np.array([[x, 0.0, x + 10.0, 50.0]]) for x in (0.0, 50.0, 100.0)]
    assert follows(scenery_of(boxes), np.zeros((3, 2))) == (None, None)
    assert follows(scenery_of(boxes[:2]), np.eye(2)) == (None, None)


def test_two_dogs_are_told_apart_from_one_and_from_none() -> None:
    overlapping = np.array([[0.0, 0.0, 100.0, 100.0], [50.0, 0.0, 150.0, 100.0]])
    scenery = scenery_of([PAIR, PAIR, overlapping, PAIR[:1], np.zeros((0, 4))])
    assert scenery.apart.tolist() == [True, True, False, False, False]
    between, on_one = [0.0, 0.2], [-0.6, 0.2]
    looked = np.array([[between, on_one, between, on_one, between]])
    record = judge_places(watched_at(looked), Ground.of(scenery), None)
    assert record["images"] == 4
    apart = record["several_dogs"]["apart"]
    assert apart["images"] == 2
    assert apart["learned"][0]["hull"]["value"] == 0.5
    assert apart["learned"][0]["one"]["value"] == 0.5
    assert apart["others"]["centre"]["hull"]["value"] == 1.0
    assert apart["learned"][0]["hull_minus_centre"]["value"] == -0.5
    every = record["several_dogs"]["all"]
    assert every["images"] == 3 and every["learned"][0]["overlap"]["value"] == pytest.approx(
        1 / 3, abs=1e-4
    )


def test_pixels_as_the_paper_counts_them() -> None:
    assert pixel_budget(1, 3) == 36_864 and round(100 * pixel_budget(1, 3) / 224**2) == 73
    assert pixel_budget(1, 2) == 27_648 and round(100 * pixel_budget(1, 2) / 224**2) == 55
    assert pixel_budget(3, 2) == 64_512
    assert pixel_budget(3, 2, context=False) == 6 * 96**2


def test_answers_glimpse_by_glimpse() -> None:
    """Wrong after one glimpse in half the images, right after two."""
    looked = watched_at(np.zeros((2, 40, 2)), classes=4)
    first = np.array(looked.log_probs)
    first[0, ::8] = np.roll(first[0, ::8], 1, axis=1)
    first[0, 1::8] = np.roll(first[0, 1::8], 1, axis=1)
    learned = replace(looked, log_probs=first)
    rows = score_answers({"learned": learned, "center": looked}, 4, 1)
    assert [row["glimpses"] for row in rows] == [1, 2]
    assert rows[0]["learned"]["value"] == 0.75 and rows[1]["learned"]["value"] == 1.0
    assert rows[1]["learned_gain"]["value"] == 0.25 and rows[1]["learned_gain"]["low"] > 0
    assert rows[0]["learned_minus_center"]["value"] == -0.25
    assert rows[1]["center_gain"]["value"] == 0.0


def test_watching_sees_what_evaluation_sees(watched_runs: dict[str, Path]) -> None:
    run = open_run(watched_runs["high"], "val")
    assert set(run.agents) == {"learned", "center", "random"}
    answers = play(run.agents["learned"], run.env, seed=3)
    seen = play_back(run.agents["learned"], run.env, seed=3)
    np.testing.assert_array_equal(seen.fixations, answers.fixations)
    np.testing.assert_allclose(seen.log_probs[-1], answers.log_probs, atol=1e-6)
    assert isinstance(run.source, FeatureBank)
    snapped = run.source.fixations[run.source.snap(seen.intended.reshape(-1, 2))]
    np.testing.assert_allclose(seen.fixations.reshape(-1, 2), snapped)
    # The first glimpse alone says what the lower deck makes of it.
    agent = run.agents["learned"]
    observation, _ = run.env.reset(seed=3, options={"image": np.arange(8)})
    action, state = agent.act(observation, agent.initial_state(8), deterministic=True)
    observation, *_ = run.env.step(action)
    assert state.location is not None
    one = agent.score(observation["glimpse"][None], state.location[None]).detach()
    np.testing.assert_allclose(seen.log_probs[0, :8], one, atol=1e-5)
    part = play_back(agent, run.env, images=np.array([5, 3]))
    np.testing.assert_allclose(part.log_probs, seen.log_probs[:, [5, 3]], atol=1e-4)


def test_attention_of_two_runs(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    folders = (watched_runs["high"], watched_runs["both"])
    record = attention(AttentionConfig(runs=folders, out=tmp_path))
    assert json.loads((tmp_path / "attention.json").read_text()) == record
    with Image.open(tmp_path / "attention.png") as image:
        assert image.width > 1000 and image.height > 1200
    page = (tmp_path / "attention.md").read_text()
    high, both = record["runs"]
    assert high["title"] == "high only, 2 glimpses" and both["title"] == "high + medium, 1 glimpse"
    assert f"## {high['title']}" in page and "128" not in high["title"]
    assert "learned_minus_center" in high["answers"][-1]
    assert "learned_minus_center" not in both["answers"][-1]
    assert "random on the lattice" in high["boxes"]["others"]
    # The run's own network at the centre, which needs no reference.
    assert "learned_minus_own_center" in both["answers"][-1] and "**Does it move?**" in page
    assert len(high["moved"]) == 2 and set(high["moved"][1]) == {"from_centre", "from_previous"}
    assert high["mirrored"] is None, "these banks hold no mirrored images"
    frame = high["boxes"]["frame"][0]
    assert sum(map(sum, frame["share"])) + frame["beyond"] == pytest.approx(1, abs=1e-3)
    # By hand, from the boxes themselves.
    run = open_run(folders[0], "val")
    seen, dataset = play_back(run.agents["learned"], run.env), run.dataset
    hits = []
    for i in range(len(dataset)):
        height, width = dataset.image(i).shape[:2]
        x, y = (seen.fixations[0, i] + 1) / 2 * (width, height)
        hits.append(any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in dataset.boxes(i)))
    assert high["boxes"]["glimpses"][0]["inside"]["value"] == round(float(np.mean(hits)), 4)


def test_images_without_boxes(
    watched_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyntheticDogs, "boxes", lambda self, index: np.zeros((0, 4), np.float32))
    record = attention(AttentionConfig(runs=(watched_runs["high"],), out=tmp_path, count=7))
    (run,) = record["runs"]
    assert run["boxes"] is None and run["images"] == 7
    page = (tmp_path / "attention.md").read_text()
    assert "come without boxes" in page and "Two dogs" not in page
    assert (tmp_path / "attention.png").is_file()


def test_two_dogs_on_request(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    config = AttentionConfig(
        runs=(watched_runs["both"],), out=tmp_path, count=8, two_dogs=True, seed=1
    )
    record = attention(config)
    part = record["runs"][0]["boxes"]["several_dogs"]["all"]
    assert part["images"] == 8 and record["runs"][0]["lattice"] is None
    mirrored = record["runs"][0]["mirrored"]
    assert mirrored is None or 0 < mirrored["images"] <= 8
    row = part["learned"][0]
    assert sum(row[key]["value"] for key in ("none", "one", "overlap")) == pytest.approx(1)
    page = format_attention(record)
    assert "several dogs" in page and "follow the dog" not in page
    again = attention(replace(config, out=tmp_path / "again"))
    assert again == record
    two = SyntheticDogs("val", num_images=12, creatures=2)
    assert (survey(two, np.arange(4)).counts == 2).all()


def test_two_dogs_as_small_as_the_runs_own(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(watched_runs["both"], tmp_path / "small")
    record = json.loads((folder / "config.json").read_text())
    record["data"]["short_side"] = 60
    (folder / "config.json").write_text(json.dumps(record))
    one, two = (open_run(folder, "val", live=True, two_dogs=both) for both in (False, True))
    assert len(one.dataset) == len(two.dataset)
    assert [len(run.dataset.boxes(0)) for run in (one, two)] == [1, 2]
    assert [min(run.dataset.image(0).shape[:2]) for run in (one, two)] == [60, 60]
    (folder / "config.json").write_text(
        json.dumps(record | {"data": record["data"] | {"dataset": "image_folder"}})
    )
    with pytest.raises(RunError, match="leave --two-dogs out"):
        open_run(folder, "val", two_dogs=True)


def test_runs_of_one_title_are_told_apart(watched_runs: dict[str, Path]) -> None:
    run = watched_runs["high"]
    titles = run_titles([run, run, watched_runs["both"]])
    assert titles[0] == f"high only, 2 glimpses ({run.parent.name}/high)"
    assert titles[2] == "high + medium, 1 glimpse"


def test_what_cannot_be_asked(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--count is at least 1"):
        AttentionConfig(runs=(watched_runs["high"],), count=0)
    with pytest.raises(ValueError, match="at least one run"):
        AttentionConfig(runs=())
    with pytest.raises(RunError, match="no run in"):
        attention(AttentionConfig(runs=(tmp_path,), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
