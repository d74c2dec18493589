"""Features that are needed next, fetched from the disk while something else is computed."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator

import numpy as np

from encoders.bank.feature_bank import FeatureBank

_MORE = 64
"""Batches that are fetched ahead after the disk has been waited for."""


class Prefetch:
    """Has the system read the features of images ahead of time, where reading waits for the disk.

    Of a bank that lies in memory every page is there, and asking for it costs time. So nothing is
    fetched as long as this process waits for no page: the system counts those waits.

    Example:
        >>> from tempfile import mkdtemp
        >>> from encoders.bank import BankDescription
        >>> description = BankDescription(
        ...     split="train", dataset="1f", encoder="2e", encoder_name="googlenet",
        ...     precision="fp32", num_images=100, feature_size=8, resolutions=("low",),
        ...     mirrored=False, fixations=((0, 0),), context_fixations=((0, 0),), noise_seed=0,
        ... )
        >>> ahead = Prefetch(FeatureBank.create(mkdtemp(), description))
        >>> if ahead.due():
        ...     ahead.fetch(np.array([4, 7]))
    """

    def __init__(self, bank: FeatureBank, *, mirrored: bool = True) -> None:
        """Fetch nothing yet.

        Args:
            bank: Whose features are read.
            mirrored: Whether those of mirrored images are read too.
        """
        self._bank = bank
        self._mirrors = bank.description.num_mirrors if mirrored else 1
        self._waits, self._more = waits_for_disk(), 0

    def due(self) -> bool:
        """Say whether to fetch what comes next: whether the disk has been waited for of late."""
        waits = waits_for_disk()
        if waits != self._waits:
            self._waits, self._more = waits, _MORE
        self._more = max(0, self._more - 1)
        return self._more > 0

    def fetch(self, image: np.ndarray) -> None:
        """Fetch the features of images; returns before they are there.

        Args:
            image: Their indices.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):  # Windows has no such call
            return
        for array in self._arrays():
            pages: mmap.mmap = array._mmap  # type: ignore[attr-defined]
            # Else every page that is missing brings megabytes around it, which nobody asked for.
            pages.madvise(mmap.MADV_RANDOM)
            row = array[0].nbytes
            size = row * self._mirrors // array.shape[1]
            for start in (np.unique(image) * row).tolist():
                first = start - start % mmap.PAGESIZE
                pages.madvise(mmap.MADV_WILLNEED, first, start + size - first)

    def _arrays(self) -> Iterator[np.memmap]:
        bank = self._bank
        for array in (bank.context, bank.context_cells, bank.glimpse, bank.low):
            if isinstance(array, np.memmap):
                yield array


def waits_for_disk() -> int:
    """Pages that this process has waited for until now; 0 where the system does not count them.

    Example:
        >>> waits_for_disk() >= 0
        True
    """
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
