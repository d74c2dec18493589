"""Whole images, padded square, and the changes made to them in training (paper section 3).

Shape key: B batch, N images, S side of the square, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from experiments.whole_image.config import AugmentConfig
from glimpse_env.datasets.base import ImageDataset

# Weights of red, green and blue in grey (ITU-R BT.601), as torchvision and Pillow have them.
GREY = (0.299, 0.587, 0.114)


def pad_square(
    image: UInt8[np.ndarray, "H W 3"], side: int, fill: Sequence[int]
) -> tuple[UInt8[np.ndarray, "S S 3"], tuple[int, int, int, int]]:
    """Shrink an image until its long side is `side`, and centre it on a square of one colour.

    The paper says "padding that centers it" and leaves the colour open. With the mean colour that
    the network subtracts, padding is zero to it, as it is inside its convolutions.

    Args:
        image: RGB image of any size.
        side: S, in pixels.
        fill: Colour of the padding.

    Returns:
        The square, and the image's box on it: left, top, right, bottom.
    """
    height, width = image.shape[:2]
    longest = max(height, width)
    # Round half up in integers, so that every machine agrees; a sliver keeps one pixel.
    h, w = (max(1, (2 * side * length + longest) // (2 * longest)) for length in (height, width))
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (w, h), Image.Resampling.BILINEAR
    )  # Pillow's filter grows with the reduction: anti-aliased
    left, top = (side - w) // 2, (side - h) // 2
    square = np.empty((side, side, 3), np.uint8)
    square[:] = fill
    square[top : top + h, left : left + w] = np.asarray(resized)
    return square, (left, top, left + w, top + h)


@dataclass(frozen=True)
class WholeImages:
    """A split's images, decoded and padded once, in memory."""

    pixels: UInt8[Tensor, "N S S 3"]
    """Images padded square, RGB."""
    boxes: Int64[Tensor, "N 4"]
    """Where the image is on its square: left, top, right, bottom."""
    means: Float[Tensor, "N 3"]
    """Mean colour of each image, padding aside."""
    labels: Int64[Tensor, " N"]
    """Class of each image."""
    fill: tuple[int, int, int]
    """Colour of the padding."""

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)


def _prepare(
    index: int, dataset: ImageDataset, side: int, fill: Sequence[int]
) -> tuple[np.ndarray, tuple[int, int, int, int], np.ndarray]:
    square, box = pad_square(dataset.image(index), side, fill)
    left, top, right, bottom = box
    return square, box, square[top:bottom, left:right].mean((0, 1), dtype=np.float64)


def load_images(dataset: ImageDataset, side: int, fill: tuple[int, int, int]) -> WholeImages:
    """Decode, shrink and pad all images of a split, on every core.

    At side 224 an image takes 150 KB: 1.4 GB for the 9,521 that a network usually trains on here.

    Raises:
        UnreadableImageError: an image does not decode.
    """
    count = len(dataset)
    pixels = np.empty((count, side, side, 3), np.uint8)
    boxes, means = np.empty((count, 4), np.int64), np.empty((count, 3), np.float32)
    prepare = partial(_prepare, dataset=dataset, side=side, fill=fill)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # In portions: a pool takes all its work at once, and results would pile up.
        with tqdm(total=count, unit="image", desc=f"images of {dataset.split}") as bar:
            for start in range(0, count, 256):
                portion = range(start, min(start + 256, count))
                for index, found in zip(portion, pool.map(prepare, portion), strict=True):
                    pixels[index], boxes[index], means[index] = found
                bar.update(len(portion))
    return WholeImages(
        torch.from_numpy(pixels),
        torch.from_numpy(boxes),
        torch.from_numpy(means),
        torch.as_tensor(np.asarray(dataset.labels), dtype=torch.int64),
        fill,
    )


@dataclass(frozen=True)
class Draws:
    """Random changes of each image of a batch."""

    brightness: Float[Tensor, " B"]
    """Factor on the brightness."""
    contrast: Float[Tensor, " B"]
    """Factor on the contrast."""
    saturation: Float[Tensor, " B"]
    """Factor on the saturation."""
    hue: Float[Tensor, " B"]
    """Share of a turn."""
    cut: Float[Tensor, " B"]
    """Share of the side that is cut away."""
    place: Float[Tensor, "B 2"]
    """Where the rest is taken from (x, y): -1 left or top edge, +1 right or bottom edge."""
    flip: Bool[Tensor, " B"]
    """Whether to mirror."""


def draw(config: AugmentConfig, batch: int, rng: np.random.Generator) -> Draws:
    """Draw the changes of a batch; switching one off leaves the other draws as they are."""
    unit = rng.random((batch, 8), dtype=np.float32)
    signed = 2 * unit - 1
    return Draws(
        brightness=torch.from_numpy(1 + config.brightness * signed[:, 0]),
        contrast=torch.from_numpy(1 + config.contrast * signed[:, 1]),
        saturation=torch.from_numpy(1 + config.saturation * signed[:, 2]),
        hue=torch.from_numpy(config.hue * signed[:, 3]),
        cut=torch.from_numpy(config.crop * unit[:, 4]),
        place=torch.from_numpy(signed[:, 5:7].copy()),
        flip=torch.from_numpy((unit[:, 7] < 0.5) & config.mirror),
    )


def colour_maps(
    draws: Draws, means: Float[Tensor, "B 3"]
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 3"]]:
    """All colour changes of an image as one affine map: pixel -> matrix @ pixel + offset.

    In order: brightness, contrast about the mean grey, saturation, hue. None is clipped before the
    next, unlike torchvision's `ColorJitter`, whose hue goes through HSV and costs far more.
    """
    device = means.device
    b, c, s, h = (
        value.to(device)
        for value in (draws.brightness, draws.contrast, draws.saturation, draws.hue)
    )
    one, weights = torch.ones(3, device=device), torch.tensor(GREY, device=device)
    eye = torch.eye(3, device=device)
    grey = one[:, None] * weights
    turn = 2 * torch.pi * h[:, None, None]
    # Rodrigues' rotation about the unit vector along grey.
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / 3**0.5
    hue = torch.cos(turn) * eye + (1 - torch.cos(turn)) * torch.outer(one, one) / 3
    hue = hue + torch.sin(turn) * cross
    saturation = s[:, None, None] * eye + (1 - s[:, None, None]) * grey
    # The offset is a grey, which neither saturation nor hue changes.
    offset = ((1 - c) * b * (means @ weights))[:, None] * one
    return (c * b)[:, None, None] * (hue @ saturation), offset


def augment(
    pixels: UInt8[Tensor, "B S S 3"],
    boxes: Int64[Tensor, "B 4"],
    means: Float[Tensor, "B 3"],
    fill: tuple[int, int, int],
    draws: Draws,
) -> UInt8[Tensor, "B S S 3"]:
    """Change colours inside the boxes, then crop and mirror; on the device of `pixels`."""
    device, side = pixels.device, pixels.shape[1]
    matrix, offset = (value[..., None, None] for value in colour_maps(draws, means))
    # Plane by plane and in place: a batched product with three columns is slow.
    source = pixels.permute(0, 3, 1, 2).float().contiguous()
    planes = torch.empty_like(source)
    for row in range(3):
        plane = planes[:, row]
        torch.addcmul(offset[:, row], matrix[:, row, 0], source[:, 0], out=plane)
        plane.addcmul_(matrix[:, row, 1], source[:, 1]).addcmul_(matrix[:, row, 2], source[:, 2])
    at = torch.arange(side, device=device)
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(1))
    rows, columns = (at >= top) & (at < bottom), (at >= left) & (at < right)
    outside = ~(rows[:, :, None] & columns[:, None, :])
    for channel, colour in enumerate(fill):
        planes[:, channel].masked_fill_(outside, float(colour))
    if bool((draws.cut > 0).any()):
        planes = _crop(planes, draws)
    changed = planes.clamp_(0, 255).round_().to(torch.uint8)
    flip = draws.flip.to(device)[:, None, None, None]
    return torch.where(flip, changed.flip(3), changed).permute(0, 2, 3, 1).contiguous()


def _crop(planes: Float[Tensor, "B 3 S S"], draws: Draws) -> Float[Tensor, "B 3 S S"]:
    """Enlarge a part of each square to the whole, bilinearly."""
    cut, place = draws.cut.to(planes.device), draws.place.to(planes.device)
    theta = planes.new_zeros(len(planes), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 - cut
    theta[:, :, 2] = place * cut[:, None]
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
