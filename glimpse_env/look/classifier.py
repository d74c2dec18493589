"""Frozen classifiers as data: a folder with weights, a record, and a hash that ties the two.

The record says on what they were trained: images, encoder, resolutions, folds. A training image is
answered for by the classifier that was trained on the other folds, so that looking is not rewarded
for what a classifier has memorised; any other image by the one that was trained on all of them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from encoders.folders import write_whole
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.look.network import LookNetworks

FORMAT = 1
RECORD, WEIGHTS = "classifier.json", "classifier.safetensors"
SHIPPED = Path(__file__).parent / "data"
"""The classifiers of `SyntheticDogsLook-v0`."""
COMMAND = "glimpse classifier --bank BANK --out FOLDER"
"""What makes classifiers, for errors."""


class ClassifierError(ValueError):
    """Classifiers that are missing, damaged, or of something else; the message says what to do."""


def fold_of(name: str, folds: int) -> int:
    """Fold of an image by its name, so that it is the same in every split and selection."""
    return zlib.crc32(name.encode()) % folds


def answering(
    dataset: ImageDataset, folds: int, trained_on: str | None = None
) -> Int64[np.ndarray, " N"]:
    """Which classifier answers for each image: its fold's for training images, else the last.

    Args:
        dataset: The images.
        folds: k.
        trained_on: Fingerprint of the images that the classifiers were trained on. Those are
            training images whatever their data set says.
    """
    own = trained_on is not None and dataset.fingerprint == trained_on
    if not dataset.training and not own:
        return np.full(len(dataset), folds, np.int64)
    names = (dataset.name(index) for index in range(len(dataset)))
    return np.array([fold_of(name, folds) for name in names], np.int64)


class FrozenClassifiers:
    """The classifiers of a folder: k of k folds, and one of all training images.

    Attributes:
        networks: k + 1 of them, classifier f trained without fold f.
        record: What they were trained on, with the hash of the weights.
    """

    def __init__(self, networks: LookNetworks, record: dict[str, Any]) -> None:
        """Hold networks, which are frozen, and their record."""
        self.networks = networks.eval().requires_grad_(False)
        self.record = record

    @property
    def folds(self) -> int:
        """Number of folds, k."""
        return int(self.record["folds"])

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return str(self.record["sha256"])

    def save(self, folder: str | Path) -> Path:
        """Write weights in 16 bits and record; the record, which tells of both, comes last.

        Each file is written beside its place and moved there. The networks are rounded, so that
        they say what those read again will say.
        """
        folder = Path(folder)
        self.networks.round_to_half()
        tensors = {k: v.half().contiguous() for k, v in self.networks.state_dict().items()}
        content = save(tensors)
        self.record |= {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps(self.record, indent=1, sort_keys=True) + "\n"
        for name, written in ((WEIGHTS, content), (RECORD, text.encode())):
            write_whole(folder / name, written)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> FrozenClassifiers:
        """Read a folder that `save` wrote.

        Raises:
            ClassifierError: There is none, or it is damaged; the message says what to do.
        """
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise ClassifierError(
                f"no classifiers in {folder} (no {RECORD}): make them with `{COMMAND}`"
            )
        again = f"make them again with `{COMMAND}`"
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            content = (folder / WEIGHTS).read_bytes()
            if record["format"] != FORMAT:
                raise ClassifierError(f"the classifiers in {folder} are of another format: {again}")
            if hashlib.sha256(content).hexdigest() != record["sha256"]:
                raise ClassifierError(
                    f"{folder / WEIGHTS} is not what {RECORD} tells of (another hash): {again}"
                )
            tensors = {name: value.float() for name, value in load(content).items()}
            count, hidden, size = tensors["glimpse_weight"].shape
            patches = len(record["resolutions"])
            networks = LookNetworks(
                count, patches, (size - 2) // patches, hidden, len(record["class_names"])
            )
            networks.load_state_dict(tensors)
            if count != record["folds"] + 1:
                raise ValueError(f"{count} networks for {record['folds']} folds")
        except ClassifierError:
            raise
        except (
            OSError,
            LookupError,
            TypeError,
            ValueError,
            RuntimeError,
            SafetensorError,
        ) as error:
            raise ClassifierError(
                f"the classifiers in {folder} are damaged ({error}): {again}"
            ) from error
        return cls(networks, record)

    def check(
        self,
        dataset: ImageDataset,
        resolutions: tuple[str, ...],
        encoder: str | None,
        features: int | None = None,
        patch_side: int | None = None,
    ) -> None:
        """Check that they know what an environment shows.

        Args:
            dataset: Its images.
            resolutions: Its resolutions, in order.
            encoder: Fingerprint of its encoder; None to leave that unchecked.
            features: D, features of a patch; None to leave that unchecked.
            patch_side: P, side of a patch in pixels; None to leave that unchecked.

        Raises:
            ClassifierError: They do not; the message names what differs.
        """
        known = self.record
        side = known.get("patch_side", 96)  # older records are of 96
        wanted = {
            "class_names": (list(known["class_names"]), list(dataset.class_names)),
            "resolutions": (list(known["resolutions"]), list(resolutions)),
            "encoder": (known["encoder"], encoder or known["encoder"]),
            "features a patch": (self.networks.features, features or self.networks.features),
            "pixels a patch": (side, patch_side or side),
        }
        differing = [name for name, (own, other) in wanted.items() if own != other]
        if differing:
            raise ClassifierError(
                f"these classifiers were trained with other {' and '.join(differing)} than the "
                f"environment has (resolutions {', '.join(known['resolutions'])} of encoder "
                f"{known['encoder_name']!r}, patches of {side} pixels): make some with "
                f"`{COMMAND}`, or change the environment's options"
            )

    def bound(self, dataset: ImageDataset) -> BoundClassifier:
        """Return the classifier of one data set's images, for `FixationOnly`."""
        return BoundClassifier(
            self.networks, answering(dataset, self.folds, self.record.get("dataset"))
        )


class BoundClassifier:
    """A `glimpse_env.wrappers.Classifier` that knows which network answers for which image."""

    def __init__(self, networks: LookNetworks, which: Int64[np.ndarray, " N"]) -> None:
        """Hold frozen networks and, for each image, the number of its own."""
        self.networks, self.which = networks, which

    def after_each(self, history: dict[str, Any]) -> Float[Tensor, "T B K"]:
        """Return log-probabilities after each glimpse of a history."""
        glimpse = torch.as_tensor(history["glimpse"]).detach().float().cpu()
        fixation = torch.as_tensor(history["fixation"]).detach().float().cpu()
        which = torch.from_numpy(self.which[np.asarray(history["image"])])
        with torch.no_grad():
            return self.networks(glimpse, fixation, which)

    def __call__(self, history: dict[str, Any]) -> Float[Tensor, "B K"]:
        """Return log-probabilities after all glimpses."""
        return self.after_each(history)[-1]
