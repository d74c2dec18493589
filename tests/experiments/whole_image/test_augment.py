"""Whole images: where padding goes, and what the random changes do and leave alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.whole_image.augment import (
    AugmentConfig,
    Draws,
    WholeImages,
    augment,
    colour_maps,
    draw,
    load_images,
    pad_square,
)
from glimpse_env.datasets.synthetic import SyntheticDogs

FILL = (123, 117, 104)
STRONG = AugmentConfig(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5, crop=0.3)


def still(batch: int, **changes: torch.Tensor) -> Draws:
    """Draws that change nothing, but for what is given."""
    one, zero = torch.ones(batch), torch.zeros(batch)
    none = Draws(one, one, one, zero, zero, torch.zeros(batch, 2), torch.zeros(batch).bool())
    return replace(none, **changes)


def images(batch: int = 4, side: int = 12, seed: int = 0) -> WholeImages:
    rng = np.random.default_rng(seed)
    shapes = [(20, 31), (31, 20), (16, 16), (9, 40)]
    squares, boxes = zip(
        *(
            pad_square(rng.integers(0, 256, (*shapes[i % 4], 3), np.uint8), side, FILL)
            for i in range(batch)
        ),
        strict=True,
    )
    means = [s[b[1] : b[3], b[0] : b[2]].mean((0, 1)) for s, b in zip(squares, boxes, strict=True)]
    return WholeImages(
        torch.from_numpy(np.stack(squares)),
        torch.tensor(boxes),
        torch.tensor(np.stack(means), dtype=torch.float32),
        torch.zeros(batch, dtype=torch.int64),
        FILL,
    )


def change(given: WholeImages, draws: Draws) -> torch.Tensor:
    return augment(given.pixels, given.boxes, given.means, given.fill, draws)


@pytest.mark.parametrize(
    "shape, side, box",
    [
        ((100, 200), 32, (0, 8, 32, 24)),  # landscape: 16 rows, 8 above and below
        ((200, 100), 32, (8, 0, 24, 32)),
        ((96, 96), 96, (0, 0, 96, 96)),
        ((30, 30), 60, (0, 0, 60, 60)),  # small ones are enlarged
        ((3, 8), 8, (0, 2, 8, 5)),  # an odd rest: one row more below
        ((1, 1000), 16, (0, 7, 16, 8)),  # a sliver keeps one pixel
    ],
)
def test_padding_centres_the_image(
    shape: tuple[int, int], side: int, box: tuple[int, int, int, int]
) -> None:
    image = np.full((*shape, 3), (200, 10, 60), np.uint8)
    square, found = pad_square(image, side, FILL)
    assert found == box
    left, top, right, bottom = box
    expected = np.empty((side, side, 3), np.uint8)
    expected[:] = FILL
    expected[top:bottom, left:right] = (200, 10, 60)
    np.testing.assert_array_equal(square, expected)


def test_shrinking_is_anti_aliased() -> None:
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255  # any sampling without a filter keeps 0 and 255
    square, _ = pad_square(stripes, 24, FILL)
    assert np.abs(square[:, 2:-2].astype(int) - 127).max() <= 2


def test_a_split_is_loaded_in_order_with_its_mean_colours() -> None:
    dataset = SyntheticDogs("train", num_images=5)
    found = load_images(dataset, 24, FILL)
    assert len(found) == 5
    np.testing.assert_array_equal(found.labels.numpy(), dataset.labels)
    for index in range(5):
        square, box = pad_square(dataset.image(index), 24, FILL)
        np.testing.assert_array_equal(found.pixels[index].numpy(), square)
        assert tuple(found.boxes[index].tolist()) == box
        inside = square[box[1] : box[3], box[0] : box[2]].reshape(-1, 3)
        np.testing.assert_allclose(found.means[index].numpy(), inside.mean(0), rtol=1e-5)


def test_no_change_is_none() -> None:
    given = images()
    assert torch.equal(change(given, still(4)), given.pixels)
    nothing = AugmentConfig(False, 0, 0, 0, 0, 0)
    draws = draw(nothing, 4, np.random.default_rng(0))
    assert torch.equal(change(given, draws), given.pixels)


def test_mirroring_mirrors_those_chosen() -> None:
    given = images()
    flip = torch.tensor([True, False, True, False])
    got = change(given, still(4, flip=flip))
    assert torch.equal(got[flip], given.pixels[flip].flip(2))
    assert torch.equal(got[~flip], given.pixels[~flip])


def test_range_dtype_and_padding_are_kept() -> None:
    given = images(batch=64)
    draws = replace(draw(STRONG, 64, np.random.default_rng(0)), cut=torch.zeros(64))
    before = given.pixels.clone()
    got = change(given, draws)
    assert got.dtype == torch.uint8 and got.shape == given.pixels.shape and got.is_contiguous()
    assert torch.equal(given.pixels, before)
    assert not torch.equal(got, before)
    for index in range(64):
        left, top, right, bottom = given.boxes[index].tolist()
        outside = torch.ones(12, 12, dtype=torch.bool)
        outside[top:bottom, left:right] = False
        if draws.flip[index]:
            outside = outside.flip(1)
        assert (got[index][outside] == torch.tensor(FILL, dtype=torch.uint8)).all()


def test_draws_follow_from_the_generator_and_each_other_not_at_all() -> None:
    one, same, other = (draw(STRONG, 9, np.random.default_rng(s)) for s in (3, 3, 4))
    given = images(batch=9)
    assert torch.equal(change(given, one), change(given, same))
    assert not torch.equal(change(given, one), change(given, other))
    plain = draw(replace(STRONG, hue=0.0, crop=0.0, mirror=False), 9, np.random.default_rng(3))
    assert torch.equal(plain.brightness, one.brightness)
    assert torch.equal(plain.place, one.place)
    assert not plain.flip.any() and (plain.hue == 0).all() and (plain.cut == 0).all()


def test_strengths_bound_the_draws() -> None:
    config = AugmentConfig(brightness=0.2, contrast=0.1, saturation=0.4, hue=0.05, crop=0.25)
    draws = draw(config, 4000, np.random.default_rng(0))
    for values, low, high in (
        (draws.brightness, 0.8, 1.2),
        (draws.contrast, 0.9, 1.1),
        (draws.saturation, 0.6, 1.4),
        (draws.hue, -0.05, 0.05),
        (draws.cut, 0.0, 0.25),
    ):
        assert low - 1e-6 <= values.min() <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= values.max() <= high + 1e-6
    assert abs(float(draws.flip.float().mean()) - 0.5) < 0.05


def test_colour_changes_are_what_they_are_called() -> None:
    """Each alone, against its definition; together, one after the other."""
    pixel = torch.tensor([[200.0, 40.0, 90.0]])
    mean = torch.tensor([[100.0, 120.0, 80.0]])
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey, mean_grey = float(pixel @ weights), float(mean @ weights)

    def apply(**changes: float) -> torch.Tensor:
        matrix, offset = colour_maps(
            still(1, **{k: torch.tensor([v]) for k, v in changes.items()}), mean
        )
        return torch.einsum("bij,bj->bi", matrix, pixel) + offset

    close = torch.testing.assert_close
    close(apply(brightness=0.5), 0.5 * pixel)
    close(apply(contrast=0.5), 0.5 * pixel + 0.5 * mean_grey)
    close(apply(saturation=0.5), 0.5 * pixel + 0.5 * grey)
    close(apply(saturation=0.0), torch.full((1, 3), grey))
    # A third of a turn about grey permutes red, green and blue.
    close(apply(hue=1 / 3), pixel[:, [2, 0, 1]])
    contrasted = 0.8 * (1.5 * pixel) + 0.2 * 1.5 * mean_grey
    saturated = 1.2 * contrasted - 0.2 * (contrasted @ weights)[:, None]
    close(apply(brightness=1.5, contrast=0.8, saturation=1.2, hue=-1 / 3), saturated[:, [1, 2, 0]])


def test_a_crop_is_a_part_enlarged() -> None:
    """Half of the side, from the left upper corner: a ramp rises half as fast from its start."""
    ramp = torch.arange(16, dtype=torch.uint8) * 10
    given = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    given[0, :, :, 0], given[0, :, :, 1] = ramp, ramp[:, None]
    whole = torch.tensor([[0, 0, 16, 16]])
    draws = still(1, cut=torch.tensor([0.5]), place=torch.tensor([[-1.0, -1.0]]))
    got = augment(given, whole, torch.zeros(1, 3), FILL, draws)[0].float()
    expected = (torch.arange(16) + 0.5) / 2 * 10 - 5
    torch.testing.assert_close(got[8, 1:, 0], expected[1:].round(), atol=1.0, rtol=0)
    torch.testing.assert_close(got[1:, 8, 1], expected[1:].round(), atol=1.0, rtol=0)


@pytest.mark.parametrize("wrong", [{"brightness": 1.0}, {"crop": -0.1}, {"hue": 0.6}])
def test_impossible_strengths(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))} is at least 0"):
        AugmentConfig(**wrong)  # type: ignore[arg-type]
