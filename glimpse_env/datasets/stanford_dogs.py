"""Stanford Dogs (Khosla et al. 2011) in its official layout."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from jaxtyping import Float, Int64

from encoders.folders import data_root
from glimpse_env.datasets.base import ImageFiles, image_size
from glimpse_env.datasets.errors import AnnotationError, DatasetFormatError, DatasetNotFoundError
from glimpse_env.datasets.matlab import read_mat
from glimpse_env.datasets.split import stratified_split

SPLITS = ("train", "val", "trainval", "test")
VALIDATION_FRACTION = 0.2
SPLIT_SEED = 0

_MAX_XML_BYTES = 2**20  # a hundred times the longest official annotation

# Two parts, so that a name can neither climb out of the folder nor be absolute.
_NAME = re.compile(
    r"(?P<wnid>n\d{8})-(?P<breed>[^/\\\0]+)/(?P<file>(?P<stem>[^/\\\0:]+)\.[A-Za-z]+)"
)


def default_data_dir() -> Path:
    """Return `$GLIMPSE_DATA/stanford_dogs`, or that folder of the user cache if it is not set.

    Raises:
        NoUserFolderError: If it is not set, and the user has no home.
    """
    return data_root() / "stanford_dogs"


class StanfordDogs(ImageFiles):
    """A split of Stanford Dogs: 120 breeds, 12,000 training and 8,580 test images.

    `train` and `val` are a stratified 80/20 cut of the official training list with a fixed seed,
    made before absent files are dropped, so that an image is on the same side on every machine;
    `trainval` is the whole training list; `test` the official test list (paper section 3).

    Images are the pixels as stored, whatever an orientation tag says: the boxes, and everybody's
    results, are for these.

    Attributes:
        data_dir: Folder with `Images/`, `Annotation/` and `lists/`.
        class_names: Breeds in the order of the official labels, spelt as in the folder names.
        wnids: WordNet id of each class, which gives the ImageNet class.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        split: str = "train",
        allow_missing: bool = False,
    ) -> None:
        """Read the list of a split and look which of its images are there.

        Args:
            data_dir: Folder in the official layout; `default_data_dir()` if None.
            split: `train`, `val`, `trainval` or `test`.
            allow_missing: Leave out listed images that are absent instead of raising.

        Raises:
            ValueError: If there is no such split.
            DatasetNotFoundError: If the folder, its images or the list of the split is absent.
            DatasetFormatError: If the list contradicts itself or leads out of the folder.
            MissingImagesError: If listed images are absent.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
        self.data_dir = (
            default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir))
        )
        names, labels = read_list(find_list(self.data_dir, "test" if split == "test" else "train"))
        self.wnids, class_names = _classes(names, labels)
        if split in ("train", "val"):
            kept, held_out = stratified_split(labels, VALIDATION_FRACTION, SPLIT_SEED)
            chosen = kept if split == "train" else held_out
            names, labels = [names[index] for index in chosen], labels[chosen]
        super().__init__(
            self.data_dir / "Images",
            names,
            labels,
            class_names=class_names,
            split=split,
            training=split in ("train", "trainval"),
            allow_missing=allow_missing,
        )

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return the dogs' boxes (xmin, ymin, xmax, ymax), as edges in pixels of `image(index)`.

        The files give the first and the last pixel inside, counted from 0 in the original image,
        and the size of that image. Images may be stored smaller, so boxes are scaled to the
        image as it is; a box that runs over the edge (two do) is cut there.

        Raises:
            AnnotationError: If the file of the boxes is absent or broken, or if the size in it is
                zero or of another shape than the image, so that the scale cannot be known.
        """
        name = self.name(index)
        path = (self.data_dir / "Annotation" / name).with_suffix("")
        size, corners = _read_annotation(path)
        width, height = image_size(self.path(index))
        scale = np.array([width, height], dtype=np.float64) / size
        # Both sides shrink alike, but for rounding to whole pixels.
        if abs(scale[0] / scale[1] - 1) > 0.03 + 1 / min(width, height):
            raise AnnotationError(
                f"{path} says that {name} is {size[0]:g} x {size[1]:g}, but the image is "
                f"{width} x {height}: one of the two is not the official file; unpack both again"
            )
        corners[:, 2:] += 1
        edges = corners * np.tile(scale, 2)
        limit = np.array([width, height, width, height], dtype=np.float64)
        return np.clip(edges, 0, limit).astype(np.float32)


def find_list(data_dir: Path, which: str) -> Path:
    """Find an official list.

    Args:
        data_dir: Folder in the official layout; lists may also lie in it directly, where the
            official archive unpacks them.
        which: `train`, `test` or `file` (all).

    Raises:
        DatasetNotFoundError: If the folder, `Images/` or the list is absent.
    """
    file = f"{which}_list.mat"
    places = (data_dir / "lists" / file, data_dir / file)
    path = next((place for place in places if place.is_file()), None)
    if path is None or not (data_dir / "Images").is_dir():
        absent = f"lists/{file}" if path is None else "Images/"
        raise DatasetNotFoundError(
            f"no Stanford Dogs in {data_dir} ({absent} is absent): run `glimpse download`, or set "
            "GLIMPSE_DATA or data_dir to the folder that holds it, or use the environment "
            "SyntheticDogsGlimpse-v0, which needs no files"
        )
    return path


def read_list(path: Path) -> tuple[list[str], Int64[np.ndarray, " N"]]:
    """Read an official list: names (`folder/file`, below `Images/`) and classes from 0, in order.

    Raises:
        FileNotFoundError: If there is no such file.
        DatasetFormatError: If it is not what the official ones are.
    """
    try:
        content = read_mat(path, ("file_list", "labels"))
        names, raw = content["file_list"], content["labels"]
        if not isinstance(names, list) or not isinstance(raw, np.ndarray):
            raise ValueError("file_list is no list of strings, or labels are no numbers")
    except (KeyError, ValueError) as error:
        raise DatasetFormatError(
            f"cannot read {path} ({error!r}): fetch the lists again with `glimpse download`"
        ) from error
    # Compared as they are: a label beyond the range of whole numbers must not become one.
    whole = np.isfinite(raw) & (np.abs(raw.astype(np.float64)) < 2**31)
    labels = np.where(whole, raw, 0).astype(np.int64)
    if not names or len(names) != len(labels) or not np.array_equal(labels, raw):
        raise DatasetFormatError(
            f"{path} lists {len(names)} names with {len(labels)} labels: fetch the lists again "
            "with `glimpse download`"
        )
    if labels.min() < 1 or labels.max() > len(names):
        raise DatasetFormatError(
            f"{path} has labels from {labels.min()} to {labels.max()}, which must count the breeds "
            "from 1: fetch the lists again with `glimpse download`"
        )
    for name in names:
        # 255 bytes are what file systems take.
        if (
            _NAME.fullmatch(name) is None
            or not name.isprintable()
            or any(len(os.fsencode(part)) > 255 for part in name.split("/"))
        ):
            raise DatasetFormatError(
                f"{path} lists {name!r}, which is not of the form n01234567-Breed/image.jpg: "
                "fetch the lists again with `glimpse download`"
            )
    if len(set(names)) != len(names):
        raise DatasetFormatError(f"{path} lists an image twice: fetch the lists again")
    return names, labels - 1


def _classes(
    names: list[str], labels: Int64[np.ndarray, " N"]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids and breeds in label order; each folder must have one label, and they are 1..K."""
    folders: dict[int, str] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        folder = name.split("/")[0]
        if folders.setdefault(label, folder) != folder:
            raise DatasetFormatError(
                f"label {label + 1} stands for both {folders[label]} and {folder}: fetch the lists "
                "again with `glimpse download`"
            )
    if sorted(folders) != list(range(len(folders))) or len(set(folders.values())) != len(folders):
        count = len(set(folders.values()))
        raise DatasetFormatError(
            f"the labels of {count} breeds must be 1 to {count}, one each; found "
            f"{len(folders)} from {min(folders) + 1} to {max(folders) + 1}: fetch the lists again "
            "with `glimpse download`"
        )
    wnids, breeds = zip(*(folders[label].split("-", 1) for label in sorted(folders)), strict=True)
    return wnids, breeds


def _read_annotation(
    path: Path,
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, "M 4"]]:
    """Size (width, height) of the original image and corners, as the XML file gives them."""
    try:
        root = _parse_xml(path)
        size = np.array([float(root.findtext(f"size/{key}", "")) for key in ("width", "height")])
        corners = [
            [float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            for box in root.iter("bndbox")
        ]
    except FileNotFoundError as error:
        raise AnnotationError(
            f"no boxes at {path}: fetch the annotations with `glimpse download`"
        ) from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise AnnotationError(
            f"cannot read {path} ({error}): fetch the annotations again with `glimpse download`"
        ) from error
    if not ((size > 0) & np.isfinite(size)).all():
        raise AnnotationError(f"{path} gives no size of the image: the scale cannot be known")
    edges = np.array(corners, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(edges).all() or (edges[:, :2] > edges[:, 2:]).any():
        raise AnnotationError(
            f"{path} gives a box that is none: fetch the annotations again with `glimpse download`"
        )
    return size, edges


def _parse_xml(path: Path) -> Element:
    """Parse a small XML file that declares nothing: no entities, so nothing expands or is fetched.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is too long or has a document type.
        ExpatError, LookupError: If it is not well formed, or of an unknown encoding.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_XML_BYTES + 1)
    if len(content) > _MAX_XML_BYTES:
        raise ValueError(f"more than {_MAX_XML_BYTES:,} bytes")
    parser, builder = expat.ParserCreate(), TreeBuilder()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.buffer_text = True
    parser.Parse(content, True)
    return builder.close()


def _refuse_doctype(*declared: object) -> None:
    raise ValueError("it has a document type, which may define entities")
