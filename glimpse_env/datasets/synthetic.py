"""Synthetic dogs: a fine-grained data set drawn on demand, with nothing to download.

A model of the real task (paper section 3): pictures of varying size with one dog among clutter and
decoys, whose breed shows only in the fine patterns of fur and muzzle on its head. The context patch
(the whole short side in 96 pixels) shows where heads are but not what is on them; a high-resolution
patch on the head does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from glimpse_env.datasets.synthetic_draw import (
    FURS,
    MUZZLES,
    Scene,
    body_boxes,
    draw_scene,
    head_boxes,
    paint_scene,
)

_DRAWING = (
    1  # raise whenever the same (seed, index) would give another picture: it enters fingerprints
)
_NUM_IMAGES = {"train": 2400, "val": 600, "trainval": 3000, "test": 1200, "pretrain": 12000}
_STREAM = {"train": 0, "val": 1, "test": 2, "pretrain": 3}
_ADJECTIVE = {"bars": "barred", "pinstripes": "pinstriped", "rings": "ringed", "spots": "spotted"}
_NOUN = {"bars": "terrier", "pinstripes": "whippet", "spots": "hound"}
_BREEDS = tuple(f"{_ADJECTIVE[fur]}_{_NOUN[muzzle]}" for fur in FURS for muzzle in MUZZLES)
_NO_DOG = "no_dog"
_NO_DOGS = 4  # pictures without a dog for every twelve with one, in the pretrain split


@dataclass(frozen=True)
class SyntheticStyle:
    """How the pictures are drawn. The defaults make the embedded data set."""

    short_side: tuple[int, int] = (288, 384)
    """Smallest and largest short side, in pixels."""
    max_aspect: float = 1.25
    """Largest ratio of the long to the short side, in landscape or portrait."""
    head: tuple[float, float] = (0.17, 0.2)
    """Smallest and largest diameter of a head, in short sides (a high patch is 0.25 wide)."""
    cycles: tuple[float, float] = (14.5, 16.0)
    """Fewest and most periods of a fur pattern across a head."""
    decoys: tuple[int, int] = (2, 3)
    """Fewest and most decoys in a picture."""


class SyntheticDogs:
    """Cartoon dogs of twelve breeds, drawn from (seed, split, index) alone.

    A breed is a pattern of the fur together with a pattern of the muzzle. Classes are balanced: of
    twelve consecutive pictures from a multiple of twelve on, each shows another breed, in random
    order. `trainval` is `train` followed by `val` (four fifths and one fifth of `num_images`),
    picture for picture.

    The `pretrain` split is for encoders and shares no picture with the other splits. It is drawn by
    the same rules with heads of 0.17 to 0.9 short sides, so that patches at random places often
    show one, and a quarter of its pictures have decoys only: class `no_dog`, its thirteenth (of
    sixteen pictures each breed has one and `no_dog` four). Telling those apart takes features that
    know a small head when they see one, which is what a context is looked at for.

    Args:
        split: `train`, `val`, `trainval`, `test` or `pretrain`.
        num_images: Number of pictures; by default 2,400, 600, 3,000, 1,200 or 12,000.
        seed: Another seed gives another data set by the same rules.
        creatures: Dogs in a picture, 1 or 2; two are of the same breed.
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
        """Settle the labels; pictures are drawn when they are asked for."""
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
        """Return the number of pictures."""
        return len(self.labels)

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Draw a picture as RGB bytes."""
        return paint_scene(self.scene(index))

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the boxes (xmin, ymin, xmax, ymax), in pixels, around each dog with its head."""
        return body_boxes(self.scene(index))

    def head_boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the boxes (xmin, ymin, xmax, ymax), in pixels, around each dog's head."""
        return head_boxes(self.scene(index))

    def head_box(self, index: int) -> Float[np.ndarray, " 4"]:
        """Return the box around the first dog's head.

        Raises:
            ValueError: If the picture has no dog.
        """
        boxes = self.head_boxes(index)
        if not len(boxes):
            raise ValueError(f"there is no dog in {self.name(index)}")
        return boxes[0]

    def name(self, index: int) -> str:
        """Return a name that tells the picture's seed, split and number."""
        split, number = self._source(index)
        return f"synthetic/{self.seed}/{split}/{number:06d}"

    def scene(self, index: int) -> Scene:
        """Return the record a picture is painted from."""
        split, number = self._source(index)
        rng = np.random.default_rng([self.seed, _STREAM[split], self.creatures, 1, number])
        style, label = self.style, self._label(split, number)
        return draw_scene(
            rng,
            label,
            creatures=self.creatures if label < len(_BREEDS) else 0,
            decoys=style.decoys,
            head=style.head,
            short_side=style.short_side,
            max_aspect=style.max_aspect,
            cycles=style.cycles,
        )

    def _source(self, index: int) -> tuple[str, int]:
        """Split and number a picture is drawn from."""
        length = len(self.labels) if hasattr(self, "labels") else index + 1
        if not 0 <= index < length:
            raise IndexError(f"picture {index} of {length}")
        if self.split != "trainval":
            return self.split, int(index)
        if index < self._num_train:
            return "train", int(index)
        return "val", int(index) - self._num_train

    def _label(self, split: str, number: int) -> int:
        """Class of a picture: its place in the shuffled block that it belongs to."""
        size = len(_BREEDS) + (_NO_DOGS if split == "pretrain" else 0)
        block, place = divmod(number, size)
        order = np.random.default_rng([self.seed, _STREAM[split], 0, 0, block]).permutation(size)
        return min(int(order[place]), len(_BREEDS))
