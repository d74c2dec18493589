"""`glimpse dedup`: ImageNet images that must not be trained on (paper section 2).

Stanford Dogs was drawn from ImageNet, and its images keep their names: nXXXXXXXX_NNNN. A network
pretrained on all of ILSVRC has therefore seen the test images. The paper de-duplicates; it costs
its baseline three points.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from experiments.prepare.config import DedupConfig
from experiments.runtime.runs import write_whole
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.datasets.errors import DatasetNotFoundError
from glimpse_env.datasets.split import stratified_split
from glimpse_env.datasets.stanford_dogs import (
    SPLIT_SEED,
    VALIDATION_FRACTION,
    default_data_dir,
    read_list,
)

_TITLE = "# ImageNet images to leave out of training, written by `glimpse dedup`"
_OLD_TITLE = _TITLE.replace("images", "pictures")
_NAME = re.compile(r"(n\d{8})/(\1_\d+)\.JPEG")
_STEM = re.compile(r"n\d{8}_\d+")


@dataclass(frozen=True)
class LeaveOut:
    """A list of images not to train on."""

    file: str
    """Name of the file it was read from."""
    sha256: str
    """Hash of the file."""
    stems: frozenset[str]
    """Names of the images, without folder and suffix."""

    def keep(self, dataset: ImageDataset) -> np.ndarray:
        """Indices of the images that are not on the list, whatever the layout of the folder.

        Raises:
            ValueError: If none is on it and names are not all ImageNet's: listed images may be
                there under others.
        """
        stems = [PurePosixPath(dataset.name(index)).stem for index in range(len(dataset))]
        kept = np.flatnonzero([stem not in self.stems for stem in stems])
        other = next((stem for stem in stems if _STEM.fullmatch(stem) is None), None)
        if len(kept) == len(stems) and other is not None:
            raise ValueError(
                f"no image is on the list {self.file}, and {other!r} is no name of ImageNet's "
                "(such as n02085620_2650): renamed images cannot be told, so give a copy with "
                "the original names, or leave --leave-out out"
            )
        return kept


def imagenet_name(name: str) -> str:
    """ILSVRC's name of a Stanford Dogs image: its own, in the folder of its WordNet id."""
    stem = PurePosixPath(name).stem
    return f"{stem.split('_')[0]}/{stem}.JPEG"


def split_names(data_dir: Path, split: str) -> list[str]:
    """Names (`folder/file`) of a split, from the official lists alone.

    Raises:
        DatasetNotFoundError: If the list is not there.
        DatasetFormatError: If it is damaged.
    """
    file = f"{'test' if split == 'test' else 'train'}_list.mat"
    path = next((p for p in (data_dir / "lists" / file, data_dir / file) if p.is_file()), None)
    if path is None:
        raise DatasetNotFoundError(
            f"no lists of Stanford Dogs in {data_dir} (lists/{file} is absent): run `glimpse "
            "download`, or give the folder that holds them as --data-dir"
        )
    names, labels = read_list(path)
    if split == "test":
        return names
    kept, held_out = stratified_split(labels, VALIDATION_FRACTION, SPLIT_SEED)
    return [names[index] for index in (kept if split == "train" else held_out)]


def write_list(path: Path, names: Sequence[str], counts: dict[str, int]) -> None:
    """Write a list, with its counts and a hash of its lines, moved into place only when whole."""
    body = "".join(f"{name}\n" for name in names)
    head = [_TITLE, *(f"# {count} of {split}" for split, count in counts.items())]
    head += [f"# count {len(names)}", f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}"]
    write_whole(path, ("\n".join(head) + "\n" + body).encode())


def read_leave_out(path: Path) -> LeaveOut:
    """Read a list that `glimpse dedup` wrote.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is another file, or a damaged one: part of a list would let images in.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no list at {path}: write it with `glimpse dedup`") from error
    lines = content.decode("utf-8", "replace").splitlines()
    head = [line for line in lines if line.startswith("#")]
    names = [line for line in lines if not line.startswith("#")]
    body = "".join(f"{name}\n" for name in names)
    stated = {line.split()[1]: line.split()[2] for line in head if len(line.split()) == 3}
    if (
        head[:1] not in ([_TITLE], [_OLD_TITLE])
        or not names
        or stated.get("count") != str(len(names))
        or stated.get("sha256") != hashlib.sha256(body.encode()).hexdigest()
        or any(_NAME.fullmatch(name) is None for name in names)
    ):
        raise ValueError(
            f"{path} is damaged, or no list of names to leave out: write it again with `glimpse "
            "dedup`"
        )
    return LeaveOut(
        path.name,
        hashlib.sha256(content).hexdigest(),
        frozenset(PurePosixPath(name).stem for name in names),
    )


def dedup(config: DedupConfig) -> Path:
    """Write the list and say how many names are on it.

    Raises:
        DatasetNotFoundError, DatasetFormatError: for lists that are absent or damaged.
    """
    data_dir = (config.data_dir or default_data_dir()).expanduser()
    names, counts = [], {}
    for split in dict.fromkeys(config.include):
        found = [imagenet_name(name) for name in split_names(data_dir, split)]
        names, counts = names + found, counts | {split: len(found)}
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"the lists in {data_dir} share {len(twice)} images between splits, {twice[0]} for "
            "one: they are not the official ones, fetch them again with `glimpse download`"
        )
    write_list(config.out, sorted(names), counts)
    parts = ", ".join(f"{count} of {split}" for split, count in counts.items())
    print(f"{len(names)} images to leave out ({parts}): {config.out}")
    return config.out
