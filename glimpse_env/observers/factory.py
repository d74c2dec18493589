"""Choose and build the observer that an environment's options describe."""

from __future__ import annotations

import os
from functools import cache

import torch

from encoders.bank.feature_bank import FeatureBank
from encoders.recurrent import is_recurrent
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.observers.bank import BankObserver
from glimpse_env.observers.base import Observer
from glimpse_env.observers.live import LiveObserver
from glimpse_env.observers.recurrent import RecurrentObserver
from glimpse_env.options import EnvOptions


@cache
def limit_threads_in_forks() -> None:
    """Limit torch to one thread in every process that is forked from this one, from now on.

    Making an environment calls this once, since the limit holds for the whole process; importing
    the package does not.

    GNU's OpenMP does not survive a fork: once the parent has computed with several threads, a child
    that does so too waits for ever for threads that only the parent has. `AsyncVectorEnv` makes an
    environment in the parent before it forks, so its first reset would never return.
    """
    if hasattr(os, "register_at_fork"):  # Windows has none
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def make_observer(options: EnvOptions, dataset: ImageDataset, num_envs: int) -> Observer:
    """Choose and build the source of observations that the options describe.

    Args:
        options: Options of the environment.
        dataset: Images to observe.
        num_envs: B, environments served at once.

    Returns:
        A bank's observer if the encoder is a bank, a recurrent one's if it has a state, else a live
        one.

    Raises:
        ValueError: If a bank does not fit the dataset or the other options.
        FileNotFoundError: If the encoder's weights are not there.
    """
    limit_threads_in_forks()
    flips = dataset.training if options.mirror == "auto" else bool(options.mirror)
    random_context = dataset.training if options.context == "auto" else options.context == "random"
    draws = {"flips": flips, "random_context": random_context}
    if options.observation != "pixels" and isinstance(options.encoder, FeatureBank):
        return BankObserver(options, dataset, num_envs, options.encoder, **draws)
    if options.observation != "pixels" and is_recurrent(options.encoder):
        return RecurrentObserver(options, dataset, num_envs, **draws)
    return LiveObserver(options, dataset, num_envs, **draws)


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
