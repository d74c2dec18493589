"""What can be wrong with a dataset, one exception each, so that callers can tell them apart.

Every message says what to do: nothing falls back in silence.
"""

from __future__ import annotations


class DatasetNotFoundError(FileNotFoundError):
    """The folder of a dataset is absent, or holds none of its lists or images."""


class MissingImagesError(FileNotFoundError):
    """Images that the list of a split names are not on disk."""


class UnreadableImageError(OSError):
    """A file is there, but no image can be decoded from it."""


class DatasetFormatError(ValueError):
    """A list contradicts itself or the layout: labels, names or sizes that cannot be right."""


class AnnotationError(ValueError):
    """The bounding boxes of an image are absent, or do not fit the image."""


class ArchiveError(OSError):
    """An archive is broken, cut short, or holds something it must not."""


class DatasetWarning(UserWarning):
    """Something of a dataset was left out, or read in a way that may not be what was meant."""
