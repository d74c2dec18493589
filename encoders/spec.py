"""What an encoder is, on record: architecture, weights, stride, depth, input, feature size."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

_SHA256 = re.compile(r"[0-9a-f]{64}")

Precision = Literal["auto", "fp32", "bf16", "int8"]
"""Arithmetic of an encoder; `auto` is the fastest exact enough for the device."""

Backend = Literal["auto", "torch", "openvino"]
"""Library that computes an encoder; `auto` is the faster one by a short trial."""

Architecture = Literal["googlenet_bvlc", "googlenet_torchvision", "inception_mini", "module"]


@dataclass(frozen=True)
class Normalisation:
    """Input scale: a network sees `(pixel - mean) / std`, pixels in 0..255, RGB."""

    mean: tuple[float, float, float]
    """Subtracted from each channel."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Each channel is divided by it."""


UNIT_NORMALISATION = Normalisation(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
"""Pixels in 0..1, as a module of somebody's own takes them unless its builder says otherwise."""
BVLC_NORMALISATION = Normalisation(mean=(123.0, 117.0, 104.0))
# torchvision's GoogLeNet was ported from TensorFlow: loading its weights switches
# `transform_input` on, which undoes the ImageNet normalisation in favour of (x - 0.5) / 0.5.
# On 0..255 pixels the two together are this.
TENSORFLOW_NORMALISATION = Normalisation(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))


UNKNOWN_IMAGES = "not on record: ask who trained the weights"


@dataclass(frozen=True)
class EncoderSpec:
    """A frozen encoder, fully determined: the same spec gives the same features anywhere.

    Args are checked on construction.

    Raises:
        ValueError: for a stride, stem or depth that the architecture does not have.
    """

    name: str
    """How configurations and messages call it."""
    architecture: Architecture
    """Which network; see `encoders.googlenet` and `encoders.inception_mini`. A `module` is made by
    a function that somebody has brought; see `encoders.registry`."""
    weights: str | None
    """Weight file: a path, or a bare name looked up by `encoders.weights.files.find_weights`.
    `None` means randomly initialised (tests and speed measurements only). Of a `module` where they
    are from, if that is known."""
    sha256: str | None
    """Hash of the weight file in hex, or the first digits of it; `None`: unchecked. Of a `module`
    the hash of what it computes."""
    normalisation: Normalisation
    """Scale and offset of the input's channels."""
    feature_size: int
    """D, features a patch."""
    stride: Literal[1, 2] = 1
    """Stride of conv1 (GoogLeNet only). The paper's final core uses 1, its first attempt 2."""
    stem: Literal["native", "resampled"] = "native"
    """What becomes of conv1's kernel when its stride is halved. `native` leaves the 7x7 kernel as
    it is (paper section 2; meant to be fine-tuned). `resampled` folds a 2x bilinear enlargement of
    the patch into it, so that the layers above see what they were trained on."""
    depth: Literal["full", "truncated"] = "full"
    """`truncated` cuts off the last two inception blocks (the paper's first attempt)."""
    seen: str = UNKNOWN_IMAGES
    """Images the weights were trained on, as a sentence for reports. No part of the fingerprint:
    it changes no feature."""
    module: str | None = None
    """What makes an architecture `module`: a registered name, or `module:function`. No part of the
    fingerprint."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.architecture not in get_args(Architecture):
            raise ValueError(
                f"architecture is one of {', '.join(get_args(Architecture))}, not "
                f"{self.architecture!r}"
            )
        if (self.architecture == "module") != (self.module is not None):
            raise ValueError("an encoder of architecture 'module' names what makes it, as module=")
        if self.stride not in (1, 2):
            raise ValueError(f"stride of conv1 is 1 or 2, not {self.stride!r}")
        if self.stem not in ("native", "resampled"):
            raise ValueError(f"stem is 'native' or 'resampled', not {self.stem!r}")
        if self.depth not in ("full", "truncated"):
            raise ValueError(f"depth is 'full' or 'truncated', not {self.depth!r}")
        if self.stem == "resampled" and self.stride != 1:
            raise ValueError("stem='resampled' replaces a stride of 2 by 1: it needs stride=1")
        if self.feature_size < 1:
            raise ValueError(f"feature_size is at least 1, not {self.feature_size}")

    def map_shape(self, patch_side: int = 96) -> tuple[int, int, int]:
        """Height, width and channels of the last feature map for square patches of a side."""
        if self.architecture == "module":
            raise ValueError("the map of a module is known once it is made: see Encoder.map_shape")
        if self.architecture == "inception_mini":
            halvings, channels = 3, 32
        else:
            halvings, channels = 3, self.feature_size
            halvings += (self.stride == 2) + (self.depth == "full")
        side = patch_side
        for _ in range(halvings):  # every layer of stride 2 rounds up
            side = -(-side // 2)
        return side, side, channels

    @property
    def fingerprint(self) -> str:
        """Hash (hex) of all that determines the features; name, file's place and `seen` do not."""
        record = asdict(self)
        del record["name"], record["seen"], record["module"]
        if self.sha256 is not None:
            del record["weights"]
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


BVLC_FILE = "bvlc_googlenet_fp16.safetensors"
BVLC_SHA256 = "62d6602ebcf3727608a73fcc78aabb60cd63bb85ce17bf1b215b072d4a8dc504"
TORCHVISION_FILE = "googlenet-1378be20.pth"
TORCHVISION_SHA256 = "1378be20"  # torchvision publishes the first eight digits, in the file's name

SEEN_IMAGENET = (
    "trained on all of ILSVRC 2012, so the weights have seen images of Stanford Dogs, validation "
    "and test images included, with their ImageNet labels (not de-duplicated)"
)

_SPECS: dict[str, EncoderSpec] = {}


def register_spec(spec: EncoderSpec) -> EncoderSpec:
    """Make `spec` available by its name.

    Raises:
        ValueError: if another spec already has that name.
    """
    if _SPECS.get(spec.name, spec) != spec:
        raise ValueError(f"an encoder named {spec.name!r} is already registered and differs")
    _SPECS[spec.name] = spec
    return spec


def get_spec(name: str) -> EncoderSpec:
    """Return the spec called `name`, or the one that a record describes.

    Args:
        name: Of a registered spec; of an encoder that somebody has brought, registered, installed
            or `module:function` (see `encoders.registry`); of a model of timm, `timm:NAME` (see
            `encoders.timm_models`); or the path of a `.json` file of `glimpse pretrain`.

    Raises:
        ValueError: if there is none, or it cannot be made; the message lists the names.
        FileNotFoundError: if there is no such record.
    """
    if name in _SPECS:
        return _SPECS[name]
    if name.endswith(".json"):
        return spec_from_record(name)
    from encoders.registry import brought_names, find_spec

    spec = find_spec(name)
    if spec is not None:
        return spec
    raise ValueError(
        f"no encoder named {name!r}; there are: {', '.join((*spec_names(), *brought_names()))}, or "
        "give timm:NAME, the path of a .json file that `glimpse pretrain` wrote, or module:function"
    )


def spec_from_record(path: str | Path) -> EncoderSpec:
    """Read the spec of an encoder that `glimpse pretrain` wrote.

    The weights are the file of the same name beside the record, and must have the hash in it.

    Args:
        path: The record, `NAME.json`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such record, or a damaged one.
    """
    path = Path(path).expanduser()
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record["sha256"], str) or not _SHA256.fullmatch(record["sha256"]):
            raise ValueError("its sha256 is not one")
        for key, kind in (("name", str), ("feature_size", int), ("seen", str), ("stride", int)):
            if key in record and type(record[key]) is not kind:
                raise TypeError(f"{key} is not of type {kind.__name__}")
        return EncoderSpec(
            name=record["name"],
            architecture=record["architecture"],
            # Absolute: a bare name would be looked up among the weights that are shipped.
            weights=str(path.resolve().with_suffix(".safetensors")),
            sha256=record["sha256"],
            normalisation=_normalisation(record["normalisation"]),
            feature_size=record["feature_size"],
            **{key: record[key] for key in ("stride", "stem", "depth", "seen") if key in record},
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no record of an encoder at {path}: make one with `glimpse pretrain`, or name a "
            f"registered encoder ({', '.join(spec_names())})"
        ) from error
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} is no record of an encoder, or damaged ({error!r}): give the .json file that "
            "`glimpse pretrain` wrote"
        ) from error


def _normalisation(record: dict[str, list[float]]) -> Normalisation:
    mean, std = _triple(record["mean"]), _triple(record["std"])
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError("its normalisation is not finite, or divides by zero")
    return Normalisation(mean, std)


def _triple(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def spec_names() -> tuple[str, ...]:
    """Names of the registered specs, sorted."""
    return tuple(sorted(_SPECS))


_BVLC = EncoderSpec(
    name="googlenet_native",
    architecture="googlenet_bvlc",
    weights=BVLC_FILE,
    sha256=BVLC_SHA256,
    normalisation=BVLC_NORMALISATION,
    feature_size=1024,
    seen=SEEN_IMAGENET,
)
_TORCHVISION = EncoderSpec(
    name="googlenet_torchvision_native",
    architecture="googlenet_torchvision",
    weights=TORCHVISION_FILE,
    sha256=TORCHVISION_SHA256,
    normalisation=TENSORFLOW_NORMALISATION,
    feature_size=1024,
    seen=SEEN_IMAGENET,
)

# The paper's architecture is BVLC's (no batch norm), so it is the one called "googlenet".
register_spec(replace(_BVLC, name="googlenet", stem="resampled"))
register_spec(_BVLC)
register_spec(replace(_BVLC, name="googlenet_224", stride=2))
register_spec(
    replace(_BVLC, name="googlenet_truncated", stride=2, depth="truncated", feature_size=832)
)
register_spec(replace(_TORCHVISION, name="googlenet_torchvision", stem="resampled"))
register_spec(_TORCHVISION)
register_spec(replace(_TORCHVISION, name="googlenet_torchvision_224", stride=2))
register_spec(
    EncoderSpec(
        name="inception_mini",
        architecture="inception_mini",
        weights="inception_mini.safetensors",
        sha256="c647185e602a93e636295fdac38331677fdc47b511e9fba62d63c367f2a3d963",
        normalisation=Normalisation(mean=(127.5, 127.5, 127.5), std=(64.0, 64.0, 64.0)),
        feature_size=128,
        seen=(
            "trained on the `pretrain` split of the synthetic dogs, which shares no image with "
            "the other splits"
        ),
    )
)
