"""Synthetic dogs: a fine-grained data set drawn on demand, with nothing to download.

A model of the real task (paper section 3): images of varying size with one dog among clutter and
decoys, whose breed shows only in the fine patterns of fur and muzzle on its head. The context patch
(the whole short side in 96 pixels) shows where heads are but not what is on them; a high-resolution
patch on the head does.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from glimpse_env.datasets.synthetic_draw import (
    FURS,
    MUZZLES,
    Figure,
    Pattern,
    Scene,
    body_boxes,
    draw_colour,
    head_boxes,
    paint_scene,
)

_DRAWING = (
    1  # raise whenever the same (seed, index) would give another image: it enters fingerprints
)
_NUM_IMAGES = {"train": 2400, "val": 600, "trainval": 3000, "test": 1200, "pretrain": 12000}
_STREAM = {"train": 0, "val": 1, "test": 2, "pretrain": 3}
_ADJECTIVE = {"bars": "barred", "pinstripes": "pinstriped", "rings": "ringed", "spots": "spotted"}
_NOUN = {"bars": "terrier", "pinstripes": "whippet", "spots": "hound"}
_BREEDS = tuple(f"{_ADJECTIVE[fur]}_{_NOUN[muzzle]}" for fur in FURS for muzzle in MUZZLES)
_NO_DOG = "no_dog"
_NO_DOGS = 4  # images without a dog for every twelve with one, in the pretrain split


@dataclass(frozen=True)
class SyntheticStyle:
    """Settings of the drawing; the defaults make the embedded data set."""

    short_side: tuple[int, int] = (288, 384)
    """Smallest and largest short side, in pixels."""
    max_aspect: float = 1.25
    """Largest ratio of the long to the short side, in landscape or portrait."""
    head: tuple[float, float] = (0.17, 0.2)
    """Smallest and largest diameter of a head, in short sides (a high patch is 0.25 wide)."""
    cycles: tuple[float, float] = (14.5, 16.0)
    """Fewest and most periods of a fur pattern across a head."""
    decoys: tuple[int, int] = (2, 3)
    """Fewest and most decoys in an image."""


class SyntheticDogs:
    """Cartoon dogs of twelve breeds, drawn from (seed, split, index) alone.

    A breed is a pattern of the fur together with a pattern of the muzzle. Classes are balanced: of
    twelve consecutive images from a multiple of twelve on, each shows another breed, in random
    order. `trainval` is `train` followed by `val` (four fifths and one fifth of `num_images`),
    image for image.

    The `pretrain` split is for encoders and shares no image with the other splits. It is drawn by
    the same rules with heads of 0.17 to 0.9 short sides, so that patches at random places often
    show one, and a quarter of its images have decoys only: class `no_dog`, its thirteenth (of
    sixteen images each breed has one and `no_dog` four). Telling those apart takes features that
    know a small head when they see one, which is what a context is looked at for.

    Args:
        split: `train`, `val`, `trainval`, `test` or `pretrain`.
        num_images: Number of images; by default 2,400, 600, 3,000, 1,200 or 12,000.
        seed: Another seed gives another data set by the same rules.
        creatures: Dogs in an image, 1 or 2; two are of the same breed.
        style: How to draw; by default `SyntheticStyle()`, with larger heads in `pretrain`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        split: str = "train",
        num_images: int | None = None,
        seed: int = 0,
        creatures: int = 1,
        style: SyntheticStyle | None = None,
    ) -> None:
        """Settle the labels; images are drawn when they are asked for."""
        if split not in _NUM_IMAGES:
            raise ValueError(f"split must be one of {', '.join(_NUM_IMAGES)}, not {split!r}")
        num_images = _NUM_IMAGES[split] if num_images is None else num_images
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, not {num_images}")
        if creatures not in (1, 2):
            raise ValueError(f"creatures must be 1 or 2, not {creatures}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, but is {seed}")
        if style is None:
            widest = 0.9 if creatures == 1 else 0.3
            style = SyntheticStyle(head=(0.17, widest if split == "pretrain" else 0.2))
        if not 0 < style.head[0] <= style.head[1] <= (0.9 if creatures == 1 else 0.3):
            raise ValueError(
                f"head diameters must be positive, ascending and at most 0.9 short sides (0.3 with "
                f"two creatures), not {style.head}"
            )
        self.split = split
        self.seed = seed
        self.creatures = creatures
        self.style = style
        self.training = split in ("train", "trainval", "pretrain")
        self.num_missing = 0
        self.class_names = (*_BREEDS, _NO_DOG) if split == "pretrain" else _BREEDS
        self._num_images = num_images
        self._num_train = num_images - num_images // 5 if split == "trainval" else num_images
        self.labels: Int64[np.ndarray, " N"] = np.array(
            [self._label(*self._source(index)) for index in range(num_images)], dtype=np.int64
        )
        described = {
            "drawing": _DRAWING,
            "split": split,
            "num_images": num_images,
            "seed": seed,
            "creatures": creatures,
            "style": asdict(style),
            "class_names": self.class_names,
        }
        self.fingerprint = hashlib.sha256(
            json.dumps(described, sort_keys=True).encode()
        ).hexdigest()

    def __len__(self) -> int:
        """Return the number of images."""
        return self._num_images

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Draw an image as RGB bytes."""
        return paint_scene(self.scene(index))

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of an image, without drawing it."""
        scene = self.scene(index)
        return scene.width, scene.height

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the boxes (xmin, ymin, xmax, ymax), in pixels, around each dog with its head."""
        return body_boxes(self.scene(index))

    def head_boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the boxes (xmin, ymin, xmax, ymax), in pixels, around each dog's head."""
        return head_boxes(self.scene(index))

    def head_box(self, index: int) -> Float[np.ndarray, " 4"]:
        """Return the box around the first dog's head.

        Raises:
            ValueError: If the image has no dog.
        """
        boxes = self.head_boxes(index)
        if not len(boxes):
            raise ValueError(f"there is no dog in {self.name(index)}")
        return boxes[0]

    def name(self, index: int) -> str:
        """Return a name that tells the image's seed, split and number."""
        split, number = self._source(index)
        return f"synthetic/{self.seed}/{split}/{number:06d}"

    def scene(self, index: int) -> Scene:
        """Return the record an image is painted from."""
        split, number = self._source(index)
        rng = np.random.default_rng([self.seed, _STREAM[split], self.creatures, 1, number])
        label = self._label(split, number)
        creatures = self.creatures if label < len(_BREEDS) else 0
        return draw_scene(rng, label, creatures, self.style)

    def _source(self, index: int) -> tuple[str, int]:
        """Split and number an image is drawn from."""
        if not 0 <= index < self._num_images:
            raise IndexError(f"image {index} of {self._num_images}")
        if self.split != "trainval":
            return self.split, int(index)
        if index < self._num_train:
            return "train", int(index)
        return "val", int(index) - self._num_train

    def _label(self, split: str, number: int) -> int:
        """Class of an image: its place in the shuffled block that it belongs to."""
        size = len(_BREEDS) + (_NO_DOGS if split == "pretrain" else 0)
        block, place = divmod(number, size)
        return min(_shuffled(self.seed, _STREAM[split], block, size)[place], len(_BREEDS))


@lru_cache(maxsize=16)
def _shuffled(seed: int, stream: int, block: int, size: int) -> tuple[int, ...]:
    """Order of the classes in one block of images."""
    order = np.random.default_rng([seed, stream, 0, 0, block]).permutation(size)
    return tuple(order.tolist())


def _place_heads(
    rng: np.random.Generator,
    width: float,
    height: float,
    radii: list[float],
    margin: float,
) -> list[tuple[float, float]]:
    """Places of heads: apart, in the image's middle square, and seldom in its centre.

    The middle square is what a centred context sees, and photographers seldom centre a head: a look
    at the centre must not be worth much.
    """
    centre = (width / 2, height / 2)
    places: list[tuple[float, float]] = []
    while len(places) < len(radii):
        radius = radii[len(places)]
        reach = max(0.5 - margin * radius, 0.02)
        dx, dy = rng.uniform(-reach, reach, 2)
        place = (float(centre[0] + dx), float(centre[1] + dy))
        central = max(abs(dx), abs(dy)) < 0.2 and rng.random() < 0.8
        apart = all(
            math.dist(place, other) > 1.35 * (radius + taken)
            for other, taken in zip(places, radii, strict=False)
        )
        if apart and not central:
            places.append(place)
    return places


def draw_scene(
    rng: np.random.Generator, breed: int, creatures: int, style: SyntheticStyle
) -> Scene:
    """Settle what an image shows.

    Args:
        rng: Source of every draw.
        breed: Class number; `divmod(breed, len(MUZZLES))` gives the fur's and the muzzle's pattern.
        creatures: Number of dogs, all of this breed; without any, `breed` is of no account.
        style: Ranges of sizes and numbers.
    """
    short = int(rng.integers(style.short_side[0], style.short_side[1] + 1))
    long = round(short * math.exp(rng.uniform(0, math.log(style.max_aspect))))
    width, height = (long, short) if rng.random() < 0.5 else (short, long)
    wide, high = width / short, height / short
    fur, muzzle = divmod(breed, len(MUZZLES))

    def log_uniform(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    def pattern(kind: str) -> Pattern:
        return Pattern(kind, rng.uniform(*style.cycles), tuple(rng.uniform(0, 2 * math.pi, 2)))

    def figure(place: tuple[float, float], radius: float, real: bool) -> Figure:
        # The body turns to where there is room for it.
        toward = 1 if rng.random() < (0.9 if place[0] < wide / 2 else 0.1) else -1
        poses = ("standing", "sitting", "lying") if place[1] < 0.7 * high else ("standing", "lying")
        common: dict[str, Any] = dict(
            head=place,
            radius=radius,
            roll=float(np.clip(rng.normal(0, 0.12), -0.3, 0.3)),
            pose=str(rng.choice(poses)),
            side=toward,
            stretch=rng.uniform(0.85, 1.25),
        )
        if real:
            return Figure(
                **common,
                coat=draw_colour(rng, (0.06, 0.11), (0.62, 0.78)),
                body=draw_colour(rng, (0.03, 0.13), (0.35, 0.95)),
                ears=draw_colour(rng, (0.01, 0.07), (0.22, 0.34)),
                fur=pattern(FURS[fur]),
                muzzle=pattern(MUZZLES[muzzle]),
            )
        # A hedge, a statue, a plush toy: cool colours, head and all.
        hue = rng.uniform(0.25, 0.85)
        return Figure(
            **common,
            coat=draw_colour(rng, (hue, hue + 0.03), (0.45, 0.8)),
            body=draw_colour(rng, (hue, hue + 0.03), (0.4, 0.75)),
            ears=draw_colour(rng, (hue, hue + 0.03), (0.25, 0.45)),
        )

    radii = [log_uniform(*style.head) / 2 for _ in range(creatures)]
    places = _place_heads(rng, wide, high, radii, margin=1.1)
    dogs = tuple(figure(place, radius, True) for place, radius in zip(places, radii, strict=True))
    lookalikes = []
    for _ in range(int(rng.integers(style.decoys[0], style.decoys[1] + 1))):
        radius = log_uniform(max(style.head[0], 0.15), min(style.head[1], 0.3)) / 2
        for _attempt in range(20):
            place = (rng.uniform(0.05, wide - 0.05), rng.uniform(0.05, high - 0.05))
            if all(math.dist(place, dog.head) > 1.3 * (radius + dog.radius) for dog in dogs):
                lookalikes.append(figure(place, radius, False))
                break
    return Scene(width, height, dogs, tuple(lookalikes), int(rng.integers(2**63)))
