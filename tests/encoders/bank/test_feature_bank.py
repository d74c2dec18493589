"""A bank gives back what was put in, snaps as it says, and refuses what it does not hold."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from encoders.bank.feature_bank import (
    BankDescription,
    BankIncompleteError,
    BankMismatchError,
    FeatureBank,
)
from encoders.bank.points import lattice, noise_keys


def description(**changes) -> BankDescription:
    points = tuple((float(x), float(y)) for x, y in lattice(3, 0.5))
    defaults = dict(
        split="train",
        dataset="d" * 64,
        encoder="e" * 64,
        encoder_name="inception_mini",
        precision="fp32",
        num_images=5,
        feature_size=4,
        resolutions=("low", "high"),
        mirrored=True,
        fixations=points,
        context_fixations=(points[4], (0.9, 0.9)),
        noise_seed=7,
        chunk=2,
    )
    return BankDescription(**(defaults | changes))


def filled(folder: Path, **changes) -> FeatureBank:
    """A finished bank of distinct numbers (exact in fp16)."""
    bank = FeatureBank.create(folder, description(**changes))
    bank.glimpse[:] = np.arange(bank.glimpse.size).reshape(bank.glimpse.shape) % 2048
    bank.context[:] = -(np.arange(bank.context.size).reshape(bank.context.shape) % 2048)
    bank.done[:] = 1
    for array in (bank.glimpse, bank.context, bank.done):
        array.flush()
    return FeatureBank.open(folder)


def test_gives_back_what_was_put_in(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b")
    image, mirror, point = np.array([0, 4, 2]), np.array([False, True, True]), np.array([8, 0, 3])
    got = bank.glimpses(image, mirror, point, ("high", "low"))
    assert got.shape == (3, 2, 4) and got.dtype == np.float32
    for b in range(3):
        for s, scale in enumerate((1, 0)):
            expected = bank.glimpse[image[b], int(mirror[b]), point[b], scale]
            np.testing.assert_array_equal(got[b, s], expected)
    np.testing.assert_array_equal(
        bank.contexts(image, mirror, np.array([1, 0, 1])),
        [bank.context[0, 0, 1], bank.context[4, 1, 0], bank.context[2, 1, 1]],
    )


def test_subset_of_resolutions(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b")
    one = np.array([1])
    both = bank.glimpses(one, one == 0, one, ("low", "high"))
    only = bank.glimpses(one, one == 0, one, ("high",))
    np.testing.assert_array_equal(both[:, 1:], only)


def test_answers_are_fresh_arrays(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b")
    one = np.array([1])
    first = bank.glimpses(one, one == 0, one, ("low",))
    first[:] = -1
    assert (bank.glimpses(one, one == 0, one, ("low",)) >= 0).all()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # machines may be busy
@given(arrays(np.float32, (4, 2), elements=st.floats(-1, 1, width=32)))
def test_snap_is_the_nearest_point(fixation: np.ndarray) -> None:
    bank = object.__new__(FeatureBank)
    bank.fixations = lattice(4)
    chosen = bank.fixations[bank.snap(fixation)]
    distance = np.linalg.norm(fixation[:, None] - bank.fixations[None], axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(fixation - chosen, axis=1), distance.min(axis=1), atol=1e-3
    )


def test_lattice_points() -> None:
    np.testing.assert_allclose(lattice(1), [[0, 0]])
    np.testing.assert_allclose(lattice(2), [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
    nine = lattice(3, 0.5)
    assert nine.min() == -0.5 and nine.max() == 0.5 and (nine[4] == 0).all()
    # A mirrored image's lattice is the lattice mirrored.
    np.testing.assert_allclose(sorted((-nine[:, 0]).tolist()), sorted(nine[:, 0].tolist()))
    for side in range(1, 60, 2):  # exactly: the centre is looked for by comparison
        assert (lattice(side)[side * side // 2] == 0).all()
    for wrong in ((0, None), (3, 0.0), (3, 1.5)):
        with pytest.raises(ValueError):
            lattice(*wrong)


def test_noise_keys_are_distinct() -> None:
    image, mirror, point = np.meshgrid(np.arange(50), np.arange(2), np.arange(81))
    keys = noise_keys(3, image.ravel(), mirror.ravel(), point.ravel())
    assert len(np.unique(keys)) == keys.size
    assert not np.isin(keys, noise_keys(4, image.ravel(), mirror.ravel(), point.ravel())).any()


ORDER = ("low", "medium", "high")


@pytest.mark.parametrize(
    "held, wanted, zooms",
    [
        (ORDER, ("medium",), {-1: ("high",), 0: ("medium",), 1: ("low",)}),
        (ORDER, ("high",), {0: ("high",), 1: ("medium",)}),
        (ORDER, ("low",), {-1: ("medium",), 0: ("low",)}),
        (ORDER, ("high", "medium"), {0: ("high", "medium"), 1: ("medium", "low")}),
        (ORDER, ("high", "low"), {0: ("high", "low")}),
        (ORDER, ORDER, {0: ORDER}),
        (("high", "medium"), ("medium",), {-1: ("high",), 0: ("medium",)}),
        (("low", "high"), ("high",), {0: ("high",)}),
    ],
    ids=str,
)
def test_neighbouring_resolutions_are_zooms(held, wanted, zooms, tmp_path: Path) -> None:
    bank = filled(tmp_path / "b", resolutions=held)
    assert bank.zooms(wanted, ORDER) == zooms


def test_context_shares_the_noise_of_the_lattice_point_it_lies_on(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b")
    assert bank.context_points().tolist() == [4, 10]
    image, mirror = np.array([3]), np.array([True])
    own = bank.context_noise_keys(image, mirror, np.array([0]))
    assert own == bank.noise_keys(image, mirror, np.array([4]))
    assert own != bank.context_noise_keys(image, mirror, np.array([1]))


def test_a_bank_of_the_old_form_opens_and_is_gone_on_with_as_grid_1(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b")
    record = json.loads((tmp_path / "b" / "bank.json").read_text())
    assert not record.keys() & {"context_grid", "context_channels", "low_fixations", "patch_side"}
    assert bank.context_grid == 1 and bank.low_fixations is bank.fixations
    assert bank.description.patch_side == 96
    bank.check(patch_side=96)
    assert FeatureBank.create(tmp_path / "b", description()).complete
    with pytest.raises(BankMismatchError, match="grid of 1, not 3"):
        bank.contexts(*np.zeros((3, 1), int), grid=3)


def test_a_bank_says_of_which_side_its_patches_are(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b", patch_side=128)
    assert json.loads((tmp_path / "b" / "bank.json").read_text())["patch_side"] == 128
    bank.check(patch_side=128)
    with pytest.raises(BankMismatchError, match="patches of 128 pixels, not of 96: pass patch_"):
        bank.check(patch_side=96)
    with pytest.raises(BankMismatchError, match="differs in: patch_side"):
        FeatureBank.create(tmp_path / "b", description())


@pytest.mark.parametrize(
    "wanted, word",
    [
        ({"split": "val"}, "split"),
        ({"dataset": "x" * 64}, "other images"),
        ({"encoder": "x" * 64}, "encoder"),
        ({"resolutions": ("low", "medium")}, "medium"),
    ],
)
def test_what_it_is_not_is_refused(wanted: dict, word: str, tmp_path: Path) -> None:
    bank = filled(tmp_path / "b")
    bank.check(dataset="d" * 64, split="train", encoder="e" * 64, resolutions=("high",))
    with pytest.raises(BankMismatchError, match=word):
        bank.check(**wanted)


def test_mirrored_images_that_are_not_there(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b", mirrored=False)
    one = np.array([1])
    with pytest.raises(BankMismatchError, match=r"mirror=False \(glimpse train: --mirror off\)"):
        bank.glimpses(one, np.array([True]), one, ("low",))


def test_an_unfinished_bank_is_refused_and_gone_on_with(tmp_path: Path) -> None:
    bank = FeatureBank.create(tmp_path / "b", description())
    bank.done[1] = 1
    bank.done.flush()
    with pytest.raises(BankIncompleteError, match="1 of 3"):
        FeatureBank.open(tmp_path / "b")
    again = FeatureBank.create(tmp_path / "b", description())
    assert again.done.tolist() == [0, 1, 0]


def test_another_bank_in_the_folder_is_kept(tmp_path: Path) -> None:
    filled(tmp_path / "b")
    with pytest.raises(BankMismatchError, match="encoder, noise_seed"):
        FeatureBank.create(tmp_path / "b", replace(description(), encoder="x", noise_seed=1))
    assert FeatureBank.open(tmp_path / "b").encoder == "e" * 64


def test_no_bank_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="glimpse bank"):
        FeatureBank.open(tmp_path)


@pytest.mark.parametrize("damage", ["shorten", "description", "format"])
def test_damage_is_recognised(damage: str, tmp_path: Path) -> None:
    filled(tmp_path / "b")
    path = tmp_path / "b" / ("glimpse.f16" if damage == "shorten" else "bank.json")
    if damage == "shorten":
        path.write_bytes(path.read_bytes()[:-2])
    elif damage == "description":
        path.write_text("{")
    else:
        path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(BankMismatchError, match="glimpse bank|make the bank again"):
        FeatureBank.open(tmp_path / "b")


@pytest.mark.parametrize("content", [b"\x80\xff\x00 binary", b"{", b"[1, 2]", b"7", b""], ids=repr)
def test_a_damaged_description_is_named_with_its_remedy(content: bytes, tmp_path: Path) -> None:
    filled(tmp_path / "b")
    path = tmp_path / "b" / "bank.json"
    path.write_bytes(content)
    for use in (FeatureBank.open, lambda folder: FeatureBank.create(folder, description())):
        with pytest.raises(BankMismatchError, match="delete the folder") as caught:
            use(tmp_path / "b")
        assert str(tmp_path / "b") in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "change",
    [
        ("chunk", 0),
        ("num_images", "5"),
        ("feature_size", -1),
        ("context_grid", 0),
        ("context_grid", 3),
        ("context_channels", 4.0),
        ("low_fixations", [[2, 0]]),
    ],
)
def test_a_description_of_impossible_sizes_is_refused(change: tuple, tmp_path: Path) -> None:
    filled(tmp_path / "b")
    path = tmp_path / "b" / "bank.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict([change])))
    with pytest.raises(BankMismatchError, match=f"(?s){change[0]}.*delete the folder"):
        FeatureBank.open(tmp_path / "b")


def test_pickles_by_folder(tmp_path: Path) -> None:
    bank = filled(tmp_path / "b")
    raw = pickle.dumps(bank)
    assert len(raw) < 10_000
    copy = pickle.loads(raw)
    np.testing.assert_array_equal(copy.glimpse, bank.glimpse)
    assert not copy.glimpse.flags.writeable
