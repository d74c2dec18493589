"""Images made smaller first: what their resolution is worth to an agent."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from glimpse_env.datasets.base import ImageDataset, size_of


class Degraded:
    """A dataset whose images have at most a given short side; smaller ones stay as they are.

    A high patch is a quarter of the short side, shown at 96 x 96: images below 384 pixels have
    less in it than it can show. Making them smaller still measures what is missing.
    """

    def __init__(self, dataset: ImageDataset, short_side: int) -> None:
        """Wrap a dataset.

        Args:
            dataset: Whose images.
            short_side: In pixels, at least 8.

        Raises:
            ValueError: For a shorter side.
        """
        if short_side < 8:
            raise ValueError(f"the short side of an image is at least 8 pixels, not {short_side}")
        self.dataset, self.short_side = dataset, short_side
        self.split = dataset.split
        self.training = dataset.training
        self.class_names = dataset.class_names
        self.labels: Int64[np.ndarray, " N"] = dataset.labels
        self.num_missing = dataset.num_missing
        self.concurrent: bool = getattr(dataset, "concurrent", False)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.dataset.name(index)

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image, RGB, reduced with an anti-aliased filter."""
        image = self.dataset.image(index)
        height, width = self._shape(image.shape[0], image.shape[1])
        if (height, width) == image.shape[:2]:
            return image
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return np.array(resized)

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of the reduced image."""
        width, height = size_of(self.dataset, index)
        height, width = self._shape(height, width)
        return width, height

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the boxes, in pixels of the reduced image."""
        scale = np.array(self.size(index)) / size_of(self.dataset, index)
        return self.dataset.boxes(index) * np.tile(scale, 2).astype(np.float32)

    @property
    def fingerprint(self) -> str:
        """A sha256 over the dataset's own and the short side."""
        text = f"{self.dataset.fingerprint} at most {self.short_side}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        ratio = min(1.0, self.short_side / min(height, width))
        return max(1, round(height * ratio)), max(1, round(width * ratio))
