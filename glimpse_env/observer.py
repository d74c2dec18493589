"""Where observations come from: a retina and a live encoder, or a feature bank.

Both give the same things for the same gaze, so that the rules of an episode (`dynamics.py`) need
not know which it is. Everything due in a step, the contexts of new episodes and the glimpses of
running ones, is asked for at once, so that the encoder is called once a step.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8, UInt64

from encoders.bank import FeatureBank
from encoders.engine import Encoder, make_encoder
from encoders.spec import EncoderSpec, get_spec
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.options import EnvOptions
from glimpse_env.pyramid import Pyramid, PyramidStore
from glimpse_env.retina import PATCH_SIDE, RESOLUTIONS, cut_patches, cut_scaled_patches

if TYPE_CHECKING:
    from torch import Tensor

# One environment among many (a process each, say) must not hoard pictures; a batch may.
_STORE_BYTES_SCALAR = 2**26
_STORE_BYTES_BATCH = 2**31

_live_encoders: weakref.WeakValueDictionary[tuple, Encoder] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Gaze:
    """Where a number of environments look; arrays of the same length.

    Attributes:
        rows: Which environments.
        image: Index of the picture each one sees.
        mirror: Whether it sees the mirrored picture.
        fixation: Centre (x, y) of a glimpse; of a context, its place as a share of the way from the
            centre to where the patch would leave the picture.
        noise_key: Decides the noise outside the picture.
        scale: Zoom; None unless `choose_scale`.
    """

    rows: Int64[np.ndarray, " n"]
    image: Int64[np.ndarray, " n"]
    mirror: Bool[np.ndarray, " n"]
    fixation: Float32[np.ndarray, "n 2"]
    noise_key: UInt64[np.ndarray, " n"]
    scale: Float32[np.ndarray, " n"] | None = None

    def pick(self, chosen: Int64[np.ndarray, " m"]) -> Gaze:
        """Some of them, by index, without their zoom."""
        parts = (self.rows, self.image, self.mirror, self.fixation, self.noise_key)
        return Gaze(*(part[chosen] for part in parts))


@runtime_checkable
class Observer(Protocol):
    """What `dynamics.py` asks of a source of observations.

    Attributes:
        resolutions: The names along axis S.
        shapes: Of each array observed, by its key in the observation: shape for one environment
            and dtype.
        device: Where features come out; `cpu` for a bank and for pixels.
        flips: Whether pictures are mirrored at random.
        wanders: Whether the context's place is random.
    """

    resolutions: tuple[str, ...]
    shapes: dict[str, tuple[tuple[int, ...], str]]
    device: torch.device
    flips: bool
    wanders: bool

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the fixations that will really be looked at."""
        ...

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms that will really be looked at."""
        ...

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Take note that these environments see these pictures from now on."""
        ...

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Return fresh arrays or tensors for the keys of `shapes` that were asked for."""
        ...


def make_observer(options: EnvOptions, dataset: ImageDataset, num_envs: int) -> Observer:
    """Choose and build the source of observations that the options describe.

    Raises:
        ValueError: If a bank does not fit the dataset or the other options.
        FileNotFoundError: If the encoder's weights are not there.
    """
    flips = dataset.training if options.mirror == "auto" else bool(options.mirror)
    wanders = dataset.training if options.context == "auto" else options.context == "random"
    live = LiveObserver(options, dataset, num_envs, flips=flips, wanders=wanders)
    if options.observation != "pixels" and isinstance(options.encoder, FeatureBank):
        return BankObserver(options, dataset, options.encoder, live)
    return live


def shared_encoder(options: EnvOptions) -> Encoder:
    """Return the encoder; environments of one process that name the same one share it."""
    given = options.encoder
    spec = get_spec(given) if isinstance(given, str) else given
    if not isinstance(spec, EncoderSpec):
        return make_encoder(spec, device=options.device, precision=options.precision)  # type: ignore[arg-type]
    key = (spec, options.device, options.precision)
    encoder = _live_encoders.get(key)
    if encoder is None:
        encoder = make_encoder(spec, device=options.device, precision=options.precision)  # type: ignore[arg-type]
        _live_encoders[key] = encoder
    return encoder


class LiveObserver:
    """Cuts patches from pictures and encodes them; see `Observer`."""

    def __init__(
        self,
        options: EnvOptions,
        dataset: ImageDataset,
        num_envs: int,
        *,
        flips: bool,
        wanders: bool,
    ) -> None:
        """Build the encoder, unless a bank takes its place or only pixels are asked for."""
        self.flips, self.wanders = flips, wanders
        self.resolutions = tuple(options.resolutions)
        self.device = torch.device("cpu")
        self.encoder: Encoder | None = None
        self._dataset = dataset
        banked = isinstance(options.encoder, FeatureBank) and options.observation != "pixels"
        # A free zoom is cut from the picture itself; that of a bank is one of the levels.
        self._keep_pictures = options.choose_scale and not banked
        zoomed = options.choose_scale and banked
        wanted = set(RESOLUTIONS) if zoomed else {"low", *self.resolutions}
        levels = [name for name in RESOLUTIONS if name in wanted]
        capacity = _STORE_BYTES_SCALAR if num_envs == 1 else _STORE_BYTES_BATCH
        self._store = PyramidStore(dataset, levels, capacity_bytes=capacity)
        # Held here as well, so that no episode loses its picture to the store's bound.
        self._pyramids: list[Pyramid | None] = [None] * num_envs
        self._pictures: list[np.ndarray | None] = [None] * num_envs

        count = len(self.resolutions)
        patch = (PATCH_SIDE, PATCH_SIDE, 3)
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self._pixel_suffix: str | None = None
        if options.observation != "features":
            self._pixel_suffix = "" if options.observation == "pixels" else "_pixels"
            self.shapes[f"context{self._pixel_suffix}"] = (patch, "uint8")
            self.shapes[f"glimpse{self._pixel_suffix}"] = ((count, *patch), "uint8")
        if options.observation != "pixels" and not banked:
            self.encoder = shared_encoder(options)
            self.device = self.encoder.device
            size = self.encoder.feature_size
            self.shapes["context"] = ((size,), "float32")
            self.shapes["glimpse"] = ((count, size), "float32")

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the fixations as they are: a retina looks anywhere."""
        return fixation

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms as they are: a retina zooms freely."""
        return scale

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Fetch the pictures of new episodes."""
        for row, index in zip(rows.tolist(), image.tolist(), strict=True):
            self._pyramids[row] = self._store[index]
            if self._keep_pictures:
                self._pictures[row] = self._dataset.image(index)

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Cut the patches and encode all of them in one call."""
        cut = {}
        if contexts is not None:
            shapes = [self._pyramids[row].image_shape for row in contexts.rows.tolist()]  # type: ignore[union-attr]
            place = context_fixations(shapes, contexts.fixation)
            cut["context"] = self.cut_contexts(contexts, place, contexts.noise_key)
        if glimpses is not None:
            cut["glimpse"] = self.cut_glimpses(glimpses, glimpses.fixation, glimpses.noise_key)
        found: dict[str, Any] = {}
        if self.encoder is not None:
            found.update(self._encode(cut))
        if self._pixel_suffix is not None:
            found.update({f"{name}{self._pixel_suffix}": value for name, value in cut.items()})
        return found

    def cut_contexts(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
    ) -> UInt8[np.ndarray, "n P P 3"]:
        """Cut one low patch from each picture, at these fixations and with this noise."""
        pyramids: list[Any] = [self._pyramids[row] for row in gaze.rows.tolist()]
        return cut_patches(pyramids, fixation, gaze.mirror, noise_key, ("low",))[:, 0]

    def cut_glimpses(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
        resolutions: tuple[str, ...] | None = None,
    ) -> UInt8[np.ndarray, "n S P P 3"]:
        """Cut a glimpse from each picture, at these fixations and with this noise.

        `resolutions` stand in for the observer's own, for gazes without a zoom.
        """
        if gaze.scale is None:
            pyramids: list[Any] = [self._pyramids[row] for row in gaze.rows.tolist()]
            names = resolutions or self.resolutions
            return cut_patches(pyramids, fixation, gaze.mirror, noise_key, names)
        pictures: list[Any] = [self._pictures[row] for row in gaze.rows.tolist()]
        return cut_scaled_patches(
            pictures, fixation, gaze.scale, gaze.mirror, noise_key, self.resolutions
        )

    def _encode(self, cut: dict[str, UInt8[np.ndarray, "*shape"]]) -> dict[str, Tensor]:
        """Encode patches of several shapes in one call of the encoder."""
        assert self.encoder is not None
        flat = [torch.from_numpy(patches).flatten(0, -4) for patches in cut.values()]
        features = self.encoder(torch.cat(flat) if len(flat) > 1 else flat[0])
        parts = features.split([len(patches) for patches in flat])
        return {
            name: part.unflatten(0, patches.shape[:-3])
            for (name, patches), part in zip(cut.items(), parts, strict=True)
        }


class BankObserver:
    """Reads features from a bank, at its lattice points; see `Observer`.

    A random context place is one of the bank's own, each as likely as another. A zoom is the next
    coarser or finer of the bank's resolutions, with that one's noise. Pixels, if asked for beside
    the features, are cut where the bank looked and with its noise.
    """

    def __init__(
        self, options: EnvOptions, dataset: ImageDataset, bank: FeatureBank, live: LiveObserver
    ) -> None:
        """Check that the bank fits.

        Raises:
            BankMismatchError: If it was made from another dataset, split or set of resolutions.
            ValueError: If it cannot do what the other options ask.
        """
        self.resolutions = tuple(options.resolutions)
        bank.check(split=dataset.split, dataset=dataset.fingerprint, resolutions=self.resolutions)
        self._zooms = bank.zooms(self.resolutions, RESOLUTIONS)
        if options.choose_scale and len(self._zooms) < 2:
            raise ValueError(
                "choose_scale=True asks a bank for the next coarser or finer patch of every "
                f"resolution in use ({', '.join(self.resolutions)}), and this one holds "
                f"{', '.join(bank.resolutions)}: use fewer resolutions, such as ('medium',), with "
                "a bank of all three, or a live encoder"
            )
        if live.flips and not bank.mirrored:
            raise ValueError(
                "the bank holds no mirrored pictures, which mirror="
                f"{options.mirror!r} asks for: pass mirror=False, or make a mirrored bank"
            )
        places = len(bank.context_fixations)
        if live.wanders and places < 2:
            raise ValueError(
                f"context={options.context!r} is random in training and needs a bank with several "
                f"context places, this one has {places}: pass context='center', or make the bank "
                "with more"
            )
        self.flips = live.flips
        self.wanders = live.wanders
        centre = bank.snap_context(np.zeros((1, 2), np.float32))
        if not self.wanders and bank.context_fixations[centre].any():
            raise ValueError(
                "the bank has no context at the centre, which context="
                f"{options.context!r} asks for: make one that has"
            )
        self._bank, self._live = bank, live
        self._centre = int(centre[0])
        self.device = torch.device("cpu")
        self.shapes = {
            **live.shapes,
            "context": ((bank.feature_size,), "float32"),
            "glimpse": ((len(self.resolutions), bank.feature_size), "float32"),
        }
        self._pixels = bool(live.shapes)

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the lattice points nearest to the fixations."""
        return self._bank.fixations[self._bank.snap(fixation)]

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the nearest zooms that the bank holds, all of them whole numbers."""
        # 0.0 is added so that no zoom is -0.0.
        return np.clip(np.rint(scale), min(self._zooms), max(self._zooms)) + np.float32(0.0)

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Fetch the pictures of new episodes, if pixels are asked for."""
        if self._pixels:
            self._live.begin(rows, image)

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Look the features up."""
        found: dict[str, Any] = {}
        bank = self._bank
        if contexts is not None:
            point = self._context_point(contexts)
            found["context"] = bank.contexts(contexts.image, contexts.mirror, point)
            if self._pixels:
                key = bank.context_noise_keys(contexts.image, contexts.mirror, point)
                place = bank.context_fixations[point]
                found["context_pixels"] = self._live.cut_contexts(contexts, place, key)
        if glimpses is not None:
            if glimpses.scale is None:
                return found | self._look(glimpses, self.resolutions)
            parts = {}
            for zoom, names in self._zooms.items():
                chosen = np.flatnonzero(glimpses.scale == zoom)
                if len(chosen):
                    parts[zoom] = chosen, self._look(glimpses.pick(chosen), names)
            order = np.argsort(np.concatenate([chosen for chosen, _ in parts.values()]))
            for key in next(iter(parts.values()))[1]:
                found[key] = np.concatenate([part[key] for _, part in parts.values()])[order]
        return found

    def _look(self, glimpses: Gaze, resolutions: tuple[str, ...]) -> dict[str, Any]:
        """Features (and pixels) of glimpses that all show these resolutions."""
        bank, point = self._bank, self._bank.snap(glimpses.fixation)
        found = {"glimpse": bank.glimpses(glimpses.image, glimpses.mirror, point, resolutions)}
        if self._pixels:
            key = bank.noise_keys(glimpses.image, glimpses.mirror, point)
            place = bank.fixations[point]
            found["glimpse_pixels"] = self._live.cut_glimpses(glimpses, place, key, resolutions)
        return found

    def _context_point(self, contexts: Gaze) -> Int64[np.ndarray, " n"]:
        if not self.wanders:
            return np.full(len(contexts.rows), self._centre)
        # The place along x is uniform in [-1, 1): its share of the range picks the bank's place.
        count = len(self._bank.context_fixations)
        share = (contexts.fixation[:, 0].astype(np.float64) + 1) / 2
        return np.minimum((share * count).astype(np.int64), count - 1)


def context_fixations(
    image_shapes: list[tuple[int, int]], place: Float32[np.ndarray, "n 2"]
) -> Float64[np.ndarray, "n 2"]:
    """Return fixations at which the low patch lies inside its picture.

    Args:
        image_shapes: Height and width of each picture.
        place: Share of the way from the centre (0) to where the patch touches an edge (-1 or 1).
            The patch is as wide as the short side, so it can only slide along the long one.
    """
    shape = np.array(image_shapes, np.float64)
    slack = 1 - shape.min(axis=1, keepdims=True) / shape
    return place * slack[:, ::-1]


def output_device(options: EnvOptions, observer: Observer) -> torch.device:
    """Return where tensors go: to the encoder's device, or for a bank to the option's.

    Raises:
        ValueError: If CUDA is asked for and absent.
    """
    if observer.device.type != "cpu" or options.device == "cpu":
        return observer.device
    if options.device == "auto":
        live = isinstance(observer, LiveObserver) and observer.encoder is not None
        return torch.device("cuda" if torch.cuda.is_available() and not live else "cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"device={options.device!r}, but torch finds no CUDA device: pass device='auto'"
        )
    return torch.device(options.device)
