"""Classifiers as data: what they compute, which of them answers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.look.classifier import (
    RECORD,
    SHIPPED,
    WEIGHTS,
    ClassifierError,
    FrozenClassifiers,
    answering,
    fold_of,
)
from tests.glimpse_env.helpers import FEATURES, dogs
from tests.glimpse_env.look.helpers import classifiers


def a_history(batch: int = 4, looks: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    glimpse = torch.rand(looks, batch, 1, FEATURES, generator=drawn)
    return glimpse, torch.rand(looks, batch, 2, generator=drawn) * 2 - 1


def test_the_formula_written_out():
    networks = classifiers().networks
    glimpse, fixation = a_history()
    networks.temperature.fill_(1.7)
    found = networks(glimpse, fixation, torch.tensor([0, 1, 1, 3]))
    for row, which in enumerate((0, 1, 1, 3)):
        units = []
        for look in range(3):
            root = glimpse[look, row, 0].double().sqrt()
            scaled = (root - root.mean()) / (root.var(correction=0) + 1e-5).sqrt()
            seen = torch.cat([scaled, fixation[look, row].double()])
            weight, bias = networks.glimpse_weight[which], networks.glimpse_bias[which]
            units.append((weight.double() @ seen + bias.double()).clamp(min=0))
            taken = torch.stack(units)
            pooled = torch.cat([taken.mean(0), taken.max(0).values])
            logits = networks.answer_weight[which].double() @ pooled
            logits = (logits + networks.answer_bias[which].double()) / 1.7
            expected = logits - logits.logsumexp(0)
            torch.testing.assert_close(found[look, row].double(), expected, rtol=1e-4, atol=1e-4)


def test_a_glimpse_taken_twice_is_worth_no_more_and_the_order_is_nothing():
    networks = classifiers().networks
    glimpse, fixation = a_history()
    which = torch.zeros(4, dtype=torch.long)
    twice = networks(glimpse[[0, 0]], fixation[[0, 0]], which)
    torch.testing.assert_close(twice[0], twice[1])
    there, back = (
        networks(glimpse, fixation, which),
        networks(glimpse[[2, 0, 1]], fixation[[2, 0, 1]], which),
    )
    torch.testing.assert_close(there[-1], back[-1])


def test_an_image_has_one_fold_whatever_split_or_selection_shows_it():
    whole, few = SyntheticDogs("train", num_images=40), SyntheticDogs("train", num_images=10)
    folds = answering(whole, 4)
    np.testing.assert_array_equal(folds[:10], answering(few, 4))
    both = SyntheticDogs("trainval", num_images=50)  # 40 of train, then 10 of val
    np.testing.assert_array_equal(answering(both, 4)[:40], folds)
    assert set(folds) == {0, 1, 2, 3}
    assert folds[3] == fold_of(whole.name(3), 4)
    assert (answering(SyntheticDogs("val", num_images=10), 4) == 4).all()


def test_images_trained_on_are_answered_for_out_of_fold_under_any_flag():
    data = SyntheticDogs("val", num_images=20)
    assert set(classifiers().bound(data).which) == {3}
    known = classifiers(dataset=data.fingerprint).bound(data).which
    assert known.tolist() == [fold_of(data.name(index), 3) for index in range(20)]


def test_each_image_is_answered_for_by_the_classifier_of_its_fold():
    frozen, data = classifiers(), dogs("train", 30)
    bound = frozen.bound(data)
    glimpse, fixation = a_history(batch=30)
    history = {"glimpse": glimpse, "fixation": fixation, "image": np.arange(30)}
    found = bound(history)
    for index in range(30):
        which = torch.tensor([fold_of(data.name(index), 3)])
        one = frozen.networks(glimpse[:, [index]], fixation[:, [index]], which)
        torch.testing.assert_close(found[[index]], one[-1])


def test_saved_and_loaded_they_say_the_same(tmp_path: Path):
    frozen = classifiers()
    again = FrozenClassifiers.load(frozen.save(tmp_path))
    assert sorted(each.name for each in tmp_path.iterdir()) == [RECORD, WEIGHTS]
    glimpse, fixation = a_history()
    which = torch.tensor([0, 1, 2, 3])
    expected = frozen.networks(glimpse, fixation, which)
    torch.testing.assert_close(again.networks(glimpse, fixation, which), expected)
    assert again.record == frozen.record and len(again.digest) == 64
    assert not any(each.requires_grad for each in again.networks.parameters())


def test_what_is_missing_damaged_or_exchanged_is_refused(tmp_path: Path):
    with pytest.raises(ClassifierError, match="glimpse classifier"):
        FrozenClassifiers.load(tmp_path / "nothing")
    folder = classifiers().save(tmp_path / "one")
    other = classifiers(seed=1).save(tmp_path / "two")
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(ClassifierError, match="another hash"):
        FrozenClassifiers.load(folder)
    record = json.loads((other / RECORD).read_text(encoding="utf-8"))
    for change in ({"folds": 7}, {"format": 2}, {"class_names": None}):
        (other / RECORD).write_text(json.dumps(record | change), encoding="utf-8")
        with pytest.raises(ClassifierError, match="make them again"):
            FrozenClassifiers.load(other)
    (other / RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(ClassifierError, match="damaged"):
        FrozenClassifiers.load(other)


@pytest.mark.parametrize(
    ("resolutions", "encoder", "named"),
    [(("medium",), None, "resolutions"), (("high",), "another", "encoder")],
)
def test_classifiers_of_something_else_are_refused(resolutions, encoder, named):
    with pytest.raises(ClassifierError, match=f"other {named}"):
        classifiers().check(dogs(), resolutions, encoder)
    classifiers().check(dogs(), ("high",), None)


def test_those_that_come_along_are_small_and_know_more_than_chance():
    files = [SHIPPED / RECORD, SHIPPED / WEIGHTS]
    assert sum(each.stat().st_size for each in files) < 1_000_000
    record = FrozenClassifiers.load(SHIPPED).record
    # One glimpse at a random place; seldom is the head there.
    assert record["accuracy_after_one"]["out_of_fold"] > 100 / 12
    assert record["accuracy_after_one"]["val"] > 100 / 12
