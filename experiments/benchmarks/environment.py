"""What the environment costs beside its encoder, and glimpses a second from a bank.

Drawn images and, for the bank, drawn features: their content makes no difference to the time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encoders.bank.description import BankDescription
from encoders.bank.feature_bank import FeatureBank
from encoders.bank.points import lattice
from encoders.inference.engine import Encoder, make_encoder
from encoders.spec import get_spec
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    draw_patches,
    interleave,
    machine_record,
    turns,
    wait,
)
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.pyramids.pyramid import RESOLUTIONS
from glimpse_env.vector_env import DogsGlimpseVectorEnv

CLAIM = (
    "The vector environment costs at most 5% over the bare encoder at 64 environments and more; "
    "from a bank it gives at least 200,000 glimpses a second; the scalar environment costs at most "
    "1 ms a step over its encoder."
)
GLIMPSES = 3
FEATURES = 1024
MOST_SHARE, LEAST_RATE, MOST_SCALAR_MS = 0.05, 200_000, 1.0


class Free(nn.Module):
    """An encoder that costs nothing: what is left of a step is the environment's own time."""

    def __init__(self) -> None:
        """Make the features."""
        super().__init__()
        self.features: Tensor
        self.register_buffer("features", torch.zeros(1, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """The same features for every patch, as a view."""
        return self.features.expand(len(x), -1)


def run(*, quick: bool = False) -> Result:
    """Measure live environments with the encoder and without, and environments on a bank.

    Args:
        quick: The embedded encoder, few environments and short windows; proves nothing.
    """
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    live, scales, windows, seconds = (64, 256), (64, 256, 1024), 7, 0.5
    images = 1024
    name = "googlenet"
    if quick:
        live, scales, windows, seconds, images, name = (2,), (4,), 2, 0.0, 12, "inception_mini"
    machine = machine_record()
    spec = replace(get_spec(name), weights=None, sha256=None)
    encoder = make_encoder(spec, device=device)
    dataset = SyntheticDogs("train", num_images=images)
    field: list[Contender] = []
    for num_envs in live:
        field.append(_play(f"free encoder, {num_envs}", dataset, _free(encoder), num_envs))
        if num_envs == live[0]:
            field += [
                _play(f"live, {num_envs}", dataset, encoder, num_envs),
                _bare(f"bare encoder, {num_envs}", encoder, num_envs),
            ]
    field += [_play_alone(dataset, _free(encoder))]
    rates = interleave(field, windows=windows, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        bank = draw_bank(Path(folder), dataset)
        banked = [
            _play(f"bank, {num_envs}, {array}", dataset, bank, num_envs, array=array)
            for num_envs in scales
            for array in ("numpy", "torch")
        ]
        rates |= interleave(banked, windows=windows, seconds=seconds)
    found = _found(rates, live, encoder)
    return Result(
        claim=CLAIM,
        holds=found["share"] <= MOST_SHARE
        and found["bank"] >= LEAST_RATE
        and found["scalar_ms"] <= MOST_SCALAR_MS,
        header=("glimpses a second", "median (quartiles) by processor time, and by the clock"),
        rows=tuple((label, rate.cell()) for label, rate in rates.items()),
        notes=_notes(found, live[0], name, device),
        measured={
            "environment": machine,
            "settings": {"encoder": name, "num_glimpses": GLIMPSES, "images": images},
            "found": {key: round(value, 4) for key, value in found.items()},
            "glimpses_a_second": {label: rate.record() for label, rate in rates.items()},
        },
    )


def _free(encoder: Encoder) -> Encoder:
    return make_encoder(Free(), device=encoder.device)


def _actions(num_envs: int) -> Callable[[], dict[str, np.ndarray]]:
    """Actions drawn beforehand, in turn."""
    return turns(
        lambda rng: {
            "fixation": rng.uniform(-1, 1, (num_envs, 2)).astype(np.float32),
            "label": np.zeros(num_envs, np.int64),
        },
        count=8,
        seed=0,
    )


def _play(
    label: str, dataset: SyntheticDogs, encoder: Any, num_envs: int, *, array: str = "torch"
) -> Contender:
    """Whole episodes of all environments: three looks and an answer, with which the next begin."""
    banked = isinstance(encoder, FeatureBank)
    env = DogsGlimpseVectorEnv(
        num_envs,
        dataset=dataset,
        encoder=encoder,
        num_glimpses=GLIMPSES,
        array=array,
        device="auto",
        mirror=not banked,
        context="center",
    )
    if not banked:
        _decode_all(env, dataset)
    env.reset(seed=0)
    action = _actions(num_envs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def work() -> int:
        for _ in range(GLIMPSES + 1):
            env.step(action())
        wait(device)
        return num_envs * GLIMPSES

    return Contender(label, work)


def _decode_all(env: DogsGlimpseVectorEnv | DogsGlimpseEnv, dataset: SyntheticDogs) -> None:
    """Fill the arena beforehand: images are decoded once, in the first epoch."""
    rules = env._dynamics
    for start in range(0, len(dataset), rules.num_envs):
        images = np.arange(start, min(start + rules.num_envs, len(dataset)))
        rules.observer.begin(np.arange(len(images)), images)


def _bare(label: str, encoder: Encoder, num_envs: int) -> Contender:
    """The encoder alone on as many patches as the episodes of `_play` show, in the same calls."""
    generator = torch.Generator().manual_seed(0)
    patches = draw_patches(num_envs * len(RESOLUTIONS), generator).to(encoder.device)

    def work() -> int:
        for _ in range(GLIMPSES):
            encoder(patches)
        encoder(patches[:num_envs])
        wait(encoder.device)
        return num_envs * GLIMPSES

    return Contender(label, work)


def _play_alone(dataset: SyntheticDogs, encoder: Encoder) -> Contender:
    """Episodes of the scalar environment, on images that it has decoded before."""
    env = DogsGlimpseEnv(dataset=dataset, encoder=encoder, num_glimpses=GLIMPSES, mirror=True)
    for image in range(8):
        env.reset(seed=0, options={"image": image})
    rng = np.random.default_rng(0)
    looks = rng.uniform(-1, 1, (16, 2)).astype(np.float32)
    number = 0

    def work() -> int:
        nonlocal number
        env.reset(options={"image": number % 8})
        for step in range(GLIMPSES + 1):
            env.step({"fixation": looks[(number + step) % 16], "label": 0})
        number += 1
        return GLIMPSES

    return Contender("free encoder, scalar", work)


def draw_bank(folder: Path, dataset: SyntheticDogs) -> FeatureBank:
    """A bank of drawn features: nine places, three resolutions."""
    description = BankDescription(
        split=dataset.split,
        dataset=dataset.fingerprint,
        encoder="drawn",
        encoder_name="drawn",
        precision="fp32",
        num_images=len(dataset),
        feature_size=FEATURES,
        resolutions=RESOLUTIONS,
        mirrored=False,
        fixations=tuple((float(x), float(y)) for x, y in lattice(3)),
        context_fixations=((0.0, 0.0),),
        noise_seed=0,
        chunk=64,
    )
    bank = FeatureBank.create(folder / "bank", description)
    rng = np.random.default_rng(0)
    for array in (bank.glimpse, bank.context):
        for image in array:
            image[...] = rng.random(image.shape, np.float32)
    bank.done[:] = 1
    bank.done.flush()
    return FeatureBank.open(folder / "bank")


def _found(rates: dict[str, Rate], live: tuple[int, ...], encoder: Encoder) -> dict[str, float]:
    """Compute what the claim is about, by the clock."""

    def median(label: str) -> float:
        return float(np.median(rates[label].clock))

    first = live[0]
    bare = median(f"bare encoder, {first}")
    shares = {n: bare / median(f"free encoder, {n}") for n in live}
    found = {
        # Time of a step beside the encoder over time of the encoder: both a glimpse.
        "share": max(shares.values()),
        **{f"share_{n}": share for n, share in shares.items()},
        "share_by_difference": bare / median(f"live, {first}") - 1,
        "scalar_ms": 1e3 * GLIMPSES / (GLIMPSES + 2) / median("free encoder, scalar"),
        "bank": max(median(label) for label in rates if label.startswith("bank")),
    }
    return found


def _notes(found: dict[str, float], first: int, name: str, device: str) -> tuple[str, ...]:
    shares = ", ".join(
        f"{share:.1%} at {key.removeprefix('share_')}"
        for key, share in found.items()
        if key.startswith("share_") and key != "share_by_difference"
    )
    return (
        f"{torch.get_num_threads()} thread(s), encoder {name} on {device}; episodes of {GLIMPSES} "
        "looks at three resolutions, an answer, and the next episode's context.",
        f"The environment's own time, measured with an encoder that costs nothing, over the bare "
        f"encoder's: {shares}. By the difference of two long times, which the machine's unrest "
        f"drowns: {found['share_by_difference']:+.1%} at {first}.",
        f"The scalar environment's own time: {found['scalar_ms']:.2f} ms a step (resets counted).",
        f"Bank: {found['bank']:,.0f} glimpses a second at best, every observation in fresh memory; "
        "a glimpse is 3 x 1,024 numbers, 12 kB. One step in four answers and shows no glimpse.",
    )
