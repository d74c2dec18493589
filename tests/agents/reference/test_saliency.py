"""Saliency against a slow form of the paper's formulas, and where its peaks lie."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from agents.policy import REQUIRES, load_policy, required_by
from agents.reference.saliency import MAP_SIDE, by_saliency, peaks, spectral_residual


def slow_residual(grey: np.ndarray) -> np.ndarray:
    """Hou and Zhang (2007), section 2, written with SciPy for one map of the right size."""
    spectrum = np.fft.fft2(grey)
    log_amplitude, phase = np.log(np.abs(spectrum) + 1e-6), np.angle(spectrum)
    residual = log_amplitude - ndimage.uniform_filter(log_amplitude, 3, mode="nearest")
    unusual = np.abs(np.fft.ifft2(np.exp(residual + 1j * phase))) ** 2
    return ndimage.gaussian_filter(unusual, 2.5, mode="constant", radius=8)


def test_it_is_the_paper_s() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, MAP_SIDE, MAP_SIDE, 3), generator=generator)
    found = spectral_residual(pixels.to(torch.uint8)).double().numpy()
    for image, own in zip(pixels.numpy(), found, strict=True):
        grey = image / 255.0 @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(own, slow_residual(grey), rtol=2e-3, atol=1e-6)


def odd_one_out(places: list[tuple[int, int]], sizes: list[int]) -> torch.Tensor:
    """A context of even stripes, with something else at some (row, column)."""
    stripes = 120 + 30 * np.sin(np.arange(96) / 2)[None, :] + np.zeros((96, 1))
    for (row, column), size in zip(places, sizes, strict=True):
        y, x = np.mgrid[:96, :96]
        stripes[(y - row) ** 2 + (x - column) ** 2 < size**2] = 240
    return torch.as_tensor(np.repeat(stripes[..., None], 3, 2).round().astype(np.uint8))[None]


@pytest.mark.parametrize(("row", "column"), [(20, 70), (60, 30), (48, 48)])
def test_what_is_unlike_the_rest_stands_out(row: int, column: int) -> None:
    (place,) = peaks(spectral_residual(odd_one_out([(row, column)], [5])), 1, 0.125)[0]
    expected = torch.tensor([column + 0.5, row + 0.5]) / 48 - 1
    assert (place - expected).abs().max() < 0.15


def test_a_plain_image_has_a_map_too() -> None:
    plain = spectral_residual(torch.full((1, 96, 96, 3), 128, dtype=torch.uint8))
    assert bool(plain.isfinite().all()) and bool((plain >= 0).all())


def test_peaks_descend_and_are_inhibited() -> None:
    maps = torch.zeros(2, 10, 20)
    maps[0, 2, 3], maps[0, 7, 16], maps[0, 3, 3] = 3.0, 1.0, 2.9
    maps[1, 5, 10] = 1.0
    found = peaks(maps, 2, 0.2)
    # The neighbour of the first peak is within its well, so the smaller one far off comes second.
    expected = torch.tensor([[3.5 / 10 - 1, 2.5 / 5 - 1], [16.5 / 10 - 1, 7.5 / 5 - 1]])
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1, 0], torch.tensor([10.5 / 10 - 1, 5.5 / 5 - 1]))


def test_the_context_is_mapped_into_the_image_and_each_glimpse_gets_its_own() -> None:
    """In an image twice as wide as high the context takes the middle half of the width."""
    choose = by_saliency()
    pixels = odd_one_out([(24, 72), (72, 20)], [6, 4]).expand(3, -1, -1, -1)
    frame = torch.tensor([[1.0, 1.0], [0.5, 1.0], [1.0, 0.5]])
    seen = {"context_pixels": pixels, "frame": frame}
    first, second = (choose(torch.full((3,), step), seen, torch.Generator()) for step in range(2))
    places = peaks(spectral_residual(pixels[:1]), 2, 0.125)[0]
    torch.testing.assert_close(first, places[0] * frame)
    torch.testing.assert_close(second, places[1] * frame)
    mixed = choose(torch.tensor([1, 0, 1]), seen, torch.Generator())
    torch.testing.assert_close(mixed, torch.stack((second[0], first[1], second[2])))
    assert (places[0] - places[1]).norm() > 0.5


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="no 'frame': make the environment show"):
        by_saliency()(
            torch.zeros(1).long(), {"context_pixels": odd_one_out([], [])}, torch.Generator()
        )
    with pytest.raises(ValueError, match="inhibition is a distance above 0"):
        by_saliency(0.0)


def test_what_the_registered_ones_ask_for() -> None:
    asked = {name: required_by(load_policy(name)) for name in ("two-deck", "center", "saliency")}
    assert asked == {"two-deck": (), "center": (), "saliency": ("pixels", "frame")}
    assert required_by(load_policy("box-oracle")) == ("box",)

    class Wants:
        requires = ("pixels",)

        @classmethod
        def build(cls, observation_space, action_space):
            return cls()

    assert required_by(Wants) == required_by(Wants.build) == ("pixels",)  # pyright: ignore
    Wants.requires = ("smell",)  # pyright: ignore
    with pytest.raises(ValueError, match=f"out of {', '.join(map(repr, REQUIRES))}; got"):
        required_by(Wants)
