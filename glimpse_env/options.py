"""The options of an environment: one checked record for the scalar and the vector face."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from gymnasium.vector import AutoresetMode

from encoders.spec import Backend
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.datasets.registry import available_names, dataset_names, open_dataset
from glimpse_env.pyramids.pyramid import PATCH_SIDE, check_patch_side
from glimpse_env.pyramids.storage import STORAGES
from glimpse_env.retina.rules import RESOLUTIONS

SPLITS = ("train", "val", "trainval", "test")
OBSERVATIONS = ("features", "pixels", "both")
CONTEXTS = ("auto", "random", "center")
PRECISIONS = ("auto", "fp32", "bf16")
BACKENDS: tuple[str, ...] = get_args(Backend)
ARRAYS = ("numpy", "torch")
RENDER_MODES = ("rgb_array", "human")


@dataclass(frozen=True)
class EnvOptions:
    """Options of an environment; every value is checked on construction.

    Raises:
        ValueError: For a value that is not allowed; the message says which are.
        TypeError: For a value of the wrong kind.
    """

    dataset: str | ImageDataset = "stanford_dogs"
    """`stanford_dogs`, `synthetic`, `image_folder`, a name of `register_dataset` or of
    an entry point in `glimpse.datasets`, a `module:function`, or any `ImageDataset`."""
    data_dir: str | os.PathLike[str] | None = None
    """Folder of the data set. Stanford Dogs is in its official layout; None means
    `$GLIMPSE_DATA/stanford_dogs`, or the user cache."""
    split: str | None = None
    """`train`, `val`, `trainval` or `test`; None: `train`, or the split of a dataset object."""
    resolutions: Sequence[str] = RESOLUTIONS
    """Patches of a glimpse, any of `low`, `medium`, `high`; axis S follows the order given."""
    patch_side: int = PATCH_SIDE
    """P, side of a patch in pixels, from 64 to 224. The area that a patch shows does not depend on
    it: more pixels show it more sharply. Decoded images and the encoder's work grow with its
    square; a `FeatureBank` holds the features of patches of one side."""
    num_glimpses: int = 3
    """Looks before the answer, T."""
    encoder: Any = "googlenet"
    """Name of a registered spec, an `EncoderSpec`, a `FeatureBank`, an `Encoder` or a
    `torch.nn.Module`; ignored when `observation="pixels"`."""
    observation: str = "features"
    """`features`, `pixels`, or `both` (pixels under `context_pixels` and `glimpse_pixels`)."""
    context: str = "auto"
    """Place of the context patch: `random`, `center`, or `auto` (random when training)."""
    context_grid: int | Literal["auto"] = "auto"
    """G: the context is the encoder's last feature map averaged to G x G cells of C channels; for 1
    it is the encoder's features. `auto`: 3 where the encoder gives a map that 3 divides, else 1; of
    a `FeatureBank` the grid that it holds. Ignored when `observation="pixels"`."""
    mirror: bool | str = "auto"
    """Whether images are mirrored at random: True, False, or `auto` (when training)."""
    shard: Sequence[int] = (0, 1)
    """`(i, n)`: take every n-th image of the walk, from the i-th on. With n > 1 the walk is
    sharded: its order follows from `order_seed` (0 if not given) and the epoch."""
    order_seed: int | None = None
    """With the epoch, determines the order in which a training split is walked, and seeds never
    move it. None: 0 in the vector environment and with n > 1 in `shard`; elsewhere the order
    follows from the environment's seed."""
    allow_missing: bool = False
    """Leave out listed images that are absent, instead of raising."""
    choose_scale: bool = False
    """The action also sets the zoom (paper section 1, future work)."""
    device: str = "auto"
    """Where the encoder computes: `auto`, `cpu`, `cuda` or `cuda:i`."""
    precision: str = "auto"
    """The encoder's arithmetic: `auto`, `fp32` or `bf16`."""
    backend: str = "torch"
    """Library that computes a GoogLeNet on a CPU: `torch`, with our kernels; `openvino` (extra
    `openvino`); `auto`, the faster of them by a trial of a second, and `torch` for all else.
    Ignored with a `FeatureBank`, an `Encoder` and `observation="pixels"`."""
    storage: str | os.PathLike[str] = "auto"
    """Where decoded images are kept: `device`, `host`, `demand` (nowhere), a folder made by
    `glimpse pyramids`, or `auto`; see `glimpse_env.pyramids.storage`."""

    def __post_init__(self) -> None:
        """Check every field, and give each its canonical form."""
        self._set("resolutions", _resolutions(self.resolutions))
        self._set("patch_side", check_patch_side(self.patch_side))
        self._set("num_glimpses", _integer("num_glimpses", self.num_glimpses, least=1))
        if self.order_seed is not None:
            self._set("order_seed", _integer("order_seed", self.order_seed, least=0))
        self._set("context_grid", _grid(self.context_grid))
        self._set("shard", _shard(self.shard))
        self._set("device", _device(self.device))
        check_choice("observation", self.observation, OBSERVATIONS)
        check_choice("context", self.context, CONTEXTS)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("backend", self.backend, BACKENDS)
        if not isinstance(self.mirror, bool) and self.mirror != "auto":
            raise ValueError(f"mirror is True, False or 'auto', not {self.mirror!r}")
        for name in ("allow_missing", "choose_scale"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is True or False, not {getattr(self, name)!r}")
        if not isinstance(self.storage, (str, os.PathLike)):
            raise TypeError(
                f"storage is one of {', '.join(STORAGES)} or a folder, not {self.storage!r}"
            )
        self._check_dataset()
        if self.encoder is None and self.observation != "pixels":
            raise ValueError(
                f"encoder=None gives no features, which observation={self.observation!r} needs: "
                "name an encoder, or pass observation='pixels'"
            )

    def _check_dataset(self) -> None:
        if isinstance(self.dataset, str):
            # Entry points are read only for a name that is not registered.
            known = ":" in self.dataset or self.dataset in dataset_names()
            if not known and self.dataset not in available_names():
                raise ValueError(
                    f"dataset is {', '.join(map(repr, available_names()))}, 'module:function' or "
                    "an object with the members of glimpse_env.datasets.base.ImageDataset, not "
                    f"{self.dataset!r}"
                )
            self._set("split", "train" if self.split is None else self.split)
            check_choice("split", self.split, SPLITS)
        elif not isinstance(self.dataset, ImageDataset):
            raise TypeError(
                f"{type(self.dataset).__name__} is no dataset: it lacks members of "
                "glimpse_env.datasets.base.ImageDataset"
            )
        elif self.split not in (None, self.dataset.split):
            raise ValueError(
                f"split={self.split!r}, but the dataset given is the {self.dataset.split!r} split: "
                "leave split out, or make the dataset with it"
            )
        else:
            self._set("split", self.dataset.split)
        drawn = not isinstance(self.dataset, str) or self.dataset == "synthetic"
        if self.data_dir is not None and drawn:
            raise ValueError("data_dir is the folder of a data set on disk: leave it out here")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def from_keywords(cls, keywords: dict[str, Any]) -> EnvOptions:
        """Build the record from keyword arguments.

        Raises:
            TypeError: For an unknown name; the message gives the nearest known one.
        """
        known = [field.name for field in fields(cls)]
        for name in keywords:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f": it has {', '.join(known)}"
                # In Python's own words, by which other libraries know that they may do without.
                raise TypeError(
                    f"the environment got an unexpected keyword argument {name!r}{hint}"
                )
        return cls(**keywords)

    @property
    def order_seed_in_use(self) -> int | None:
        """The seed that orders a sharded walk; None where the walk follows the environment's."""
        return 0 if self.order_seed is None and self.shard[1] > 1 else self.order_seed

    def load_dataset(self) -> ImageDataset:
        """Open the dataset that the options name.

        Raises:
            FileNotFoundError: If it is not there; the message says how to get it.
            ValueError: If it holds no image.
        """
        split = str(self.split)
        dataset = self.dataset
        if isinstance(dataset, str):
            dataset = open_dataset(
                dataset, split, data_dir=self.data_dir, allow_missing=self.allow_missing
            )
        if len(dataset) == 0:
            raise ValueError(f"split {self.split!r} of the dataset holds no image: choose another")
        return dataset


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the `choices`.

    Raises:
        ValueError: Naming the option, the choices and the value.
    """
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is one of {known}, not {value!r}")


def check_render_mode(render_mode: str | None) -> None:
    """Refuse an unknown render mode.

    Raises:
        ValueError: Naming the known ones.
    """
    if render_mode is not None:
        check_choice("render_mode", render_mode, RENDER_MODES)


def autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the autoreset mode, given itself, its name (`SAME_STEP`) or its value (`SameStep`).

    Raises:
        ValueError: For anything else.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if mode in (known.name, known.value):
            return known
    names = ", ".join(known.name for known in AutoresetMode)
    raise ValueError(f"autoreset_mode is one of {names}, not {mode!r}")


def _integer(name: str, value: Any, *, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer, not {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} is an integer, not {value!r}")
    if number < least:
        raise ValueError(f"{name} is at least {least}, not {number}")
    return number


def _resolutions(given: Any) -> tuple[str, ...]:
    known = ", ".join(repr(name) for name in RESOLUTIONS)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"resolutions is a tuple of names out of {known}, not {given!r}")
    names = tuple(given)
    if not names:
        raise ValueError(f"resolutions is empty: name at least one of {known}")
    for name in names:
        if name not in RESOLUTIONS:
            near = difflib.get_close_matches(str(name), RESOLUTIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no resolution {name!r}, only {known}{hint}")
    if len(set(names)) < len(names):
        raise ValueError(f"resolutions names one twice: {names!r}")
    return names


def _grid(given: Any) -> int | Literal["auto"]:
    if isinstance(given, str):
        if given == "auto":
            return "auto"
        raise ValueError(f"context_grid is 'auto' or an integer, not {given!r}")
    return _integer("context_grid", given, least=1)


def _shard(given: Any) -> tuple[int, int]:
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise TypeError(f"shard is a pair (i, n) of integers, not {given!r}")
    count = _integer("n of shard=(i, n)", given[1], least=1)
    index = _integer("i of shard=(i, n)", given[0], least=0)
    if index >= count:
        raise ValueError(f"shard=(i, n) needs 0 <= i < n, not ({index}, {count})")
    return index, count


def _device(given: Any) -> str:
    name = str(given)
    kind, _, index = name.partition(":")
    if name in ("auto", "cpu", "cuda") or (kind == "cuda" and index.isdigit()):
        return name
    raise ValueError(f"device is 'auto', 'cpu', 'cuda' or 'cuda:i', not {given!r}")
