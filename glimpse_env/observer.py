"""Where observations come from: a retina and a live encoder, or a feature bank.

Both give the same things for the same gaze, so that the rules of an episode (`dynamics.py`) need
not know which it is. Everything due in a step, the contexts of new episodes and the glimpses of
running ones, is asked for at once, so that the encoder is called once a step.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64

from encoders.bank import FeatureBank
from glimpse_env.bank_observer import BankObserver
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.gaze import Gaze
from glimpse_env.live_observer import LiveObserver
from glimpse_env.options import EnvOptions


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
