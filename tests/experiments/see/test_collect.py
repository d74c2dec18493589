"""What `glimpse view` shows, before any page is made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.metrics import score
from experiments.runtime.runs import RunError
from experiments.see.collect import choose_images, collect, describe
from experiments.see.view import ViewConfig
from tests.experiments.see.players import HOSTILE, collection


def test_images_are_chosen_by_seed_and_in_order() -> None:
    watched, shown = choose_images(50, 8, 3, everything=False)
    assert len(watched) == 8 and (np.diff(watched) > 0).all() and shown.tolist() == list(range(8))
    everything, places = choose_images(50, 8, 3, everything=True)
    assert everything.tolist() == list(range(50)) and places.tolist() == watched.tolist()
    assert choose_images(50, 8, 4, everything=False)[0].tolist() != watched.tolist()
    assert choose_images(5, 8, 3, everything=False)[0].tolist() == list(range(5))


def test_the_record_tells_of_every_image_what_filters_and_order_need() -> None:
    found = collection()
    data = json.loads(json.dumps(describe(found), allow_nan=False))
    assert data["watched"] == 24 and len(data["images"]) == 16
    for player, each in zip(found.players, data["players"], strict=True):
        assert len(each["answers"]) == len(each["sure"]) == 24 == len(data["labels"])
        right = np.array(each["answers"]) == np.array(data["labels"])
        told = score(player.watched.labels, player.answers, 12)
        assert right.mean() * 100 == pytest.approx(told.accuracy)
        assert each["ma"] == [round(value, 1) for value in (told.ma, told.low, told.high)]
        assert len(each["fixations"]) == len(each["in_box"]) == 24 * 2 * each["looks"]
        # Image by image: what a reader finds at the place of an image is that image's.
        at, look = 7, 1
        start = 2 * (each["looks"] * at + look)
        stored = each["fixations"][start : start + 2]
        assert stored == pytest.approx(player.watched.fixations[look, at], abs=6e-4)


def test_an_episode_has_the_five_most_probable_breeds_and_the_truth_after_each_glimpse() -> None:
    found = collection()
    data = describe(found)
    for player, each in zip(found.players, data["players"], strict=True):
        for image, episode in zip(data["images"], each["episodes"], strict=True):
            chances = np.exp(player.watched.log_probs[:, image["at"]])
            assert np.array(episode["best"]).shape == (each["looks"], 5)
            for t in range(each["looks"]):
                told = np.array(episode["probabilities"][t])
                assert (np.diff(told) <= 0).all()
                assert told == pytest.approx(np.sort(chances[t])[::-1][:5], abs=1e-4)
                truth = chances[t, data["labels"][image["at"]]]
                assert episode["truth"][t] == pytest.approx(truth, abs=1e-4)
            shape = np.array(episode["boxes"]).shape
            assert shape == (each["looks"], len(player.resolutions), 4)


def test_fixations_relative_to_a_box_say_whether_they_lie_inside() -> None:
    found = collection()
    data = describe(found)
    each, player = data["players"][0], found.players[0]
    for place, (boxes, size) in enumerate(
        zip(found.scenery.boxes, found.scenery.sizes, strict=True)
    ):
        x, y = (player.watched.fixations[0, place] + 1) / 2 * size
        inside = any(a <= x <= c and b <= y <= d for a, b, c, d in boxes)
        start = 2 * each["looks"] * place
        u, v = each["in_box"][start : start + 2]
        if min(abs(abs(u) - 1), abs(abs(v) - 1)) > 0.01:  # rounding may cross the edge
            assert (abs(u) <= 1 and abs(v) <= 1) == inside


def test_names_are_handed_on_as_they_are() -> None:
    data = describe(collection(HOSTILE))
    assert data["classes"][0] == "<script>window.hurt=1</script>"
    assert data["classes"][8] == "Chihuahua"


def test_runs_are_watched_on_the_same_images(watched_runs: dict[str, Path]) -> None:
    found = collect(list(watched_runs.values()), "val", count=5)
    assert len(found.images) == len(found.dataset) == 12 and len(found.shown) == 5
    assert {player.agent for player in found.players} == {"learned", "center", "random"}
    assert len({player.run for player in found.players}) == 2
    for player in found.players:
        assert player.watched.images.tolist() == list(range(12))
    again = collect([watched_runs["high"]], "val", count=5, over="shown")
    assert again.images.tolist() == found.images[found.shown].tolist()
    learned = [each for each in found.players if each.agent == "learned"][0]
    assert again.players[0].answers.tolist() == learned.answers[found.shown].tolist()


def test_runs_of_other_images_are_refused(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in watched_runs["both"].rglob("*"):
        target = other / path.relative_to(watched_runs["both"])
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    record = json.loads((other / "config.json").read_text())
    record["data"]["num_images"] = 40
    record["bank"] = None
    (other / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="of other images than .*: show runs of one data set"):
        collect([watched_runs["high"], other], "val", count=5)


def test_a_run_without_checkpoint_is_refused(watched_runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((watched_runs["high"] / "config.json").read_bytes())
    with pytest.raises(RunError, match="has no checkpoint yet"):
        collect([tmp_path], "val", count=5)


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    good = ViewConfig((Path("runs/one"),))
    for change, message in (
        ({"runs": ()}, "at least one run"),
        ({"count": 0}, "--count is at least 1"),
        ({"max_mb": 0.0}, "--max-mb is above 0"),
        ({"out": tmp_path}, "is a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(good, **change)
