"""Scanpaths as tables, and faces from StanfordExtra's keypoints."""

from __future__ import annotations

import builtins
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.attention.analyse import AttentionConfig, attention
from experiments.attention.keypoints import face_box, read_faces
from experiments.attention.scanpaths import check_scanpath_file, tabulate, write_scanpaths
from experiments.cli import main
from experiments.see.view import ViewConfig, view
from tests.experiments.see.players import HOSTILE, collection


def tables(classes=None):
    found = collection(classes)
    return found, [
        tabulate(
            found.dataset,
            found.scenery.sizes,
            player.watched,
            run=player.run,
            agent=player.agent,
            resolutions=player.resolutions,
        )
        for player in found.players
    ]


def test_a_row_tells_where_a_glimpse_fell_and_what_was_believed_after_it() -> None:
    found, (first, *_) = tables()
    player = found.players[0]
    row, place, look = 2 * 5 + 1, 5, 1
    width, height = found.scenery.sizes[place]
    x, y = player.watched.fixations[look, place]
    assert first["image"][row] == found.images[place] and first["glimpse"][row] == look + 1
    assert first["x"][row] == pytest.approx((x + 1) / 2 * width, abs=0.01)
    assert first["y"][row] == pytest.approx((y + 1) / 2 * height, abs=0.01)
    assert (first["width"][row], first["height"][row]) == (width, height)
    chances = np.exp(player.watched.log_probs[look, place])
    told = [first[f"probability:{name}"][row] for name in found.dataset.class_names]
    assert told == pytest.approx(chances, abs=1e-5) and sum(told) == pytest.approx(1, abs=1e-4)
    assert first["answer"][row] == found.dataset.class_names[int(chances.argmax())]
    assert first["right"][row] == (first["answer"][row] == first["breed"][row])
    assert first["resolution"][row] == "high"
    assert {len(values) for values in first.values()} == {24 * 2}


def test_a_chosen_zoom_is_a_column_of_its_own() -> None:
    found, every = tables()
    assert (every[0]["zoom"] == 0).all()
    assert every[2]["zoom"].tolist() == pytest.approx(
        found.players[2].watched.scales.T.ravel().tolist(), abs=1e-4
    )


@pytest.mark.parametrize("classes", [None, HOSTILE])
def test_csv_comes_back_as_written(tmp_path: Path, classes) -> None:
    _, every = tables(classes)
    path = tmp_path / "scanpaths.csv"
    assert write_scanpaths(path, every) == 24 * (2 + 2 + 3)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 * 7
    assert [float(row["x"]) for row in rows[:48]] == every[0]["x"].tolist()
    assert {row["right"] for row in rows} == {"0", "1"}
    if classes is not None:
        assert "no utf-8: \\udcff" in {row["breed"] for row in rows}


@pytest.mark.parametrize("classes", [None, HOSTILE])
def test_parquet_comes_back_as_written(tmp_path: Path, classes) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra, `see`")
    _, every = tables(classes)
    path = tmp_path / "folder" / "scanpaths.parquet"
    write_scanpaths(path, every)
    table = parquet.read_table(path)
    assert table.num_rows == 24 * 7 and table.column_names == list(every[0])
    assert table["x"].to_pylist()[:48] == every[0]["x"].tolist()
    assert str(table.schema.field("right").type) == "bool"
    assert str(table.schema.field("glimpse").type) == "int64"


def test_a_file_that_could_not_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_scanpath_file(None)
    check_scanpath_file(tmp_path / "new.csv")
    with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet"):
        check_scanpath_file(tmp_path / "scanpaths.xlsx")
    original = builtins.__import__

    def without(name: str, *arguments, **options):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"glimpse-env\[see\].*\.csv"):
        ViewConfig((Path("run"),), scanpaths=Path("scanpaths.parquet"))


def joints(face: dict[int, tuple[float, float]], count: int = 24) -> list[list[float]]:
    """Joints in StanfordExtra's order; all but these are hidden."""
    found = [[0.0, 0.0, 0.0] for _ in range(count)]
    for number, (x, y) in face.items():
        found[number] = [x, y, 1.0]
    return found


def test_a_face_is_the_box_around_its_joints_grown_a_little() -> None:
    eyes_and_nose = {20: (40.0, 50.0), 21: (60.0, 50.0), 16: (50.0, 66.0)}
    box = face_box(np.array(joints(eyes_and_nose)))
    assert box is not None and box.tolist() == [35.0, 45.0, 65.0, 71.0]
    paws = {0: (0.0, 90.0), 3: (90.0, 90.0), 18: (10.0, 10.0)}  # and the tip of an ear
    assert face_box(np.array(joints(eyes_and_nose | paws))).tolist() == box.tolist()
    assert face_box(np.array(joints({20: (40.0, 50.0), 21: (60.0, 50.0)}))) is None
    # The first edition has no eyes.
    old = {14: (40.0, 50.0), 15: (60.0, 50.0), 17: (50.0, 66.0)}
    assert face_box(np.array(joints(old, 20))).tolist() == box.tolist()


def stanford_extra(path: Path, found, places: list[int], zoom: float = 1.0) -> None:
    """A file in its format, with a face in the upper left quarter of some images."""
    entries = []
    for place in places:
        w, h = (zoom * side for side in found.scenery.sizes[place])
        face = {14: (0.1 * w, 0.1 * h), 15: (0.4 * w, 0.1 * h), 17: (0.25 * w, 0.4 * h)}
        entries.append(
            {
                "img_path": found.dataset.name(place),
                "img_width": w,
                "img_height": h,
                "joints": joints(face),
                "img_bbox": [0, 0, w, h],
                "is_multiple_dogs": False,
            }
        )
    path.write_text(json.dumps(entries))


def test_faces_are_found_by_name_and_scaled_to_the_image(tmp_path: Path) -> None:
    found = collection()
    for zoom in (1.0, 2.0):
        stanford_extra(tmp_path / "keypoints.json", found, [1, 3], zoom)
        faces = read_faces(tmp_path / "keypoints.json", found.dataset, found.images)
        assert [len(each) for each in faces[:5]] == [0, 1, 0, 1, 0]
        width, height = found.scenery.sizes[3]
        x0, y0, x1, y1 = faces[3][0]
        assert (x0 + x1) / 2 == pytest.approx(0.25 * width)
        assert (y0 + y1) / 2 == pytest.approx(0.25 * height)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: give --keypoints"),
        ("{", "cannot be read"),
        ("[1]", "is of another form"),
        ('[{"img_path": "a"}]', "no 'img_width'"),
        ('[{"img_path": "", "img_width": 1, "img_height": 1, "joints": [[1]]}]', "joints of shape"),
        ('[{"img_path": "", "img_width": 0, "img_height": 1, "joints": []}]', "of size"),
        ("[]", "has no face in the 24 images"),
    ],
)
def test_a_file_of_another_form_is_told_in_a_sentence(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "keypoints.json"
    if content is not None:
        path.write_text(content)
    found = collection()
    with pytest.raises(ValueError, match=message):
        read_faces(path, found.dataset, found.images)


class Known:
    """Just enough of a collection for `stanford_extra`, of a run's own images."""

    def __init__(self) -> None:
        from experiments.attention.measures import survey
        from glimpse_env.datasets.synthetic import SyntheticDogs

        self.dataset = SyntheticDogs("val", num_images=12)
        self.scenery = survey(self.dataset, np.arange(12))


def test_attention_tells_of_faces_and_writes_scanpaths(
    watched_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stanford_extra(tmp_path / "keypoints.json", Known(), list(range(0, 12, 2)))
    path = tmp_path / "scanpaths.csv"
    config = AttentionConfig(
        (watched_runs["high"],),
        out=tmp_path / "out",
        scanpaths=path,
        keypoints=tmp_path / "keypoints.json",
    )
    face = attention(config)["runs"][0]["face"]
    assert face["images"] == 6 and len(face["glimpses"]) == 2
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 2 * 3  # two glimpses of three agents
    learned = [row for row in rows if row["agent"] == "learned" and row["glimpse"] == "1"]
    assert [row["on_face"] == "" for row in learned] == [False, True] * 6
    share = np.mean([row["on_face"] == "1" for row in learned if row["on_face"]])
    assert share == pytest.approx(face["glimpses"][0]["value"], abs=1e-3)
    for row in learned:
        if row["on_face"]:
            u, v = float(row["x"]) / int(row["width"]), float(row["y"]) / int(row["height"])
            assert (row["on_face"] == "1") == (u < 0.5 and v < 0.5)
    assert "### On the face" in (tmp_path / "out" / "attention.md").read_text()
    assert f"{path}: 72 glimpses" in capsys.readouterr().out


def test_view_writes_the_scanpaths_of_all_images_watched(
    watched_runs: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "scanpaths.csv"
    view(ViewConfig((watched_runs["high"],), out=tmp_path / "v.html", count=3, scanpaths=path))
    with open(path, newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 12 * 2 * 3


def test_a_wrong_suffix_ends_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["attention", "runs/none", "--scanpaths", "x.txt"])
    assert ended.value.code == 2
    assert "--scanpaths takes a file that ends in" in capsys.readouterr().err
