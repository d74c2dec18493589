"""Glimpses a second of three 96x96 patches: ours against ap_gym, grid_sample and a memcpy.

All look at the same images (drawn ones, 384 pixels high, so that anybody can run this), at the
same places, and on CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from encoders.threads import in_parts
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    interleave,
    machine_record,
    turns,
)
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.pyramid import LEVEL_SHORT_SIDE, RESOLUTIONS, Pyramid, build_pyramid
from glimpse_env.retina.batch import cut_from_arena
from glimpse_env.retina.rules import PATCH_SIDE, cut_patches

CLAIM = (
    "At batch 256 the retina cuts at least 100 times the glimpses of ap_gym and 10 times those of "
    "grid_sample, in at most twice the time of a plain memcpy of the same bytes."
)
OURS, FRESH, MIRRORED = "ours", "ours, into fresh memory", "ours, half of them mirrored"
PLAIN, MEMCPY, BOTH = "ours, image by image", "memcpy", "memcpy by all threads"
GRID, PEER = "grid_sample", "ap_gym"
SIZE = (384, 512)
# So many batches, each of other images, that none finds its own in the cache.
_TURNS = 16


def run(*, quick: bool = False) -> Result:
    """Measure at batches of 1, 64 and 256.

    Args:
        quick: Few images and short windows, to see that everything runs; proves nothing.
    """
    batches, windows, seconds, images = (1, 64, 256), 7, 0.4, 768
    if quick:
        batches, windows, seconds, images = (1, 4), 2, 0.0, 4
    machine = machine_record(("ap_gym",))
    pyramids = _pyramids(images)
    arena = PyramidArena.in_memory(images, RESOLUTIONS, sum(p.nbytes for p in pyramids))
    for index, pyramid in enumerate(pyramids):
        arena.add(index, pyramid)
    measured: dict[int, dict[str, Rate]] = {}
    peer = True
    for batch in batches:
        field = _contenders(arena, pyramids, batch)
        try:
            field.append(_ap_gym(pyramids, batch))
        except ImportError as error:
            peer = False
            print(f"ap_gym is left out: {error}", flush=True)
        measured[batch] = interleave(field, windows=windows, seconds=seconds)
        print(f"batch {batch}: measured", flush=True)
    last = measured[batches[-1]]
    ratios = {name: last[OURS].over(last[name])[1] for name in last if name != OURS}
    return Result(
        claim=CLAIM,
        holds=peer and ratios[PEER] >= 100 and ratios[GRID] >= 10 and ratios[MEMCPY] >= 0.5,
        header=(
            "glimpses a second by the clock, median (quartiles)",
            *(f"batch {batch}" for batch in batches),
        ),
        rows=_rows(measured),
        notes=_notes(arena, ratios, peer),
        measured={
            "environment": machine,
            "settings": {"images": images, "size": SIZE, "windows": windows},
            "ours_over": {name: round(ratio, 3) for name, ratio in ratios.items()},
            "glimpses_a_second": {
                str(batch): {name: rate.record() for name, rate in rates.items()}
                for batch, rates in measured.items()
            },
        },
    )


def _pyramids(count: int) -> list[Pyramid]:
    """Different images of noise: what they show makes no difference to anybody's time."""
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(count))
    return [build_pyramid(image) for image in images]


def _contenders(arena: PyramidArena, pyramids: list[Pyramid], batch: int) -> list[Contender]:
    images = len(pyramids)

    def looks(mirrored: float) -> Callable[[], Any]:
        def draw(rng: np.random.Generator) -> Any:
            return (
                rng.integers(0, images, batch),
                rng.uniform(-1, 1, (batch, 2)),
                rng.random(batch) < mirrored,
                rng.integers(0, 2**64, batch, dtype=np.uint64),
            )

        return turns(draw, _TURNS, seed=1)

    straight, mirrored = looks(0.0), looks(0.5)
    out = np.empty((batch, len(RESOLUTIONS), PATCH_SIDE, PATCH_SIDE, 3), np.uint8)
    flat: Any = arena.flat
    room = arena.capacity - out.nbytes
    places = turns(lambda rng: int(rng.integers(0, max(room, 1))), _TURNS, seed=1)

    def by_kernel() -> int:
        cut_from_arena(arena, *straight(), out=out)
        return batch

    def fresh() -> int:
        cut_from_arena(arena, *straight())
        return batch

    def half_mirrored() -> int:
        cut_from_arena(arena, *mirrored(), out=out)
        return batch

    def plain() -> int:
        image, *rest = straight()
        cut_patches([pyramids[index] for index in image.tolist()], *rest, out=out)
        return batch

    def memcpy() -> int:
        at = places()
        np.copyto(out.reshape(-1), flat[at : at + out.nbytes])
        return batch

    def memcpy_by_all() -> int:
        at, target = places(), out.reshape(-1)

        def copy(start: int, stop: int) -> None:
            np.copyto(target[start:stop], flat[at + start : at + stop])

        in_parts(copy, out.nbytes)
        return batch

    return [
        Contender(OURS, by_kernel),
        Contender(FRESH, fresh),
        Contender(MIRRORED, half_mirrored),
        Contender(PLAIN, plain),
        Contender(MEMCPY, memcpy),
        Contender(BOTH, memcpy_by_all),
        _grid_sample(pyramids, batch),
    ]


def _grid_sample(pyramids: list[Pyramid], batch: int) -> Contender:
    """`grid_sample` on the same pyramids, as float32, the batch's images stacked beforehand."""
    chosen = [pyramids[index % len(pyramids)] for index in range(batch)]
    levels = {}
    for name in RESOLUTIONS:
        stacked = torch.from_numpy(np.stack([pyramid.levels[name] for pyramid in chosen]))
        levels[name] = stacked.permute(0, 3, 1, 2).float().div_(255)
    offset = (torch.arange(PATCH_SIDE) + 0.5) - PATCH_SIDE / 2
    fixations = turns(
        lambda rng: torch.from_numpy(rng.uniform(-1, 1, (batch, 1, 1, 2)).astype(np.float32)),
        _TURNS,
        seed=1,
    )

    def work() -> int:
        fixation = fixations()
        for level in levels.values():
            height, width = level.shape[2:]
            y, x = torch.meshgrid(offset * 2 / height, offset * 2 / width, indexing="ij")
            grid = fixation + torch.stack([x, y], dim=-1)
            F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return batch

    return Contender(GRID, work, {"input": "float32 pyramid", "output": "float32"})


def _ap_gym(pyramids: list[Pyramid], batch: int) -> Contender:
    """ap_gym's sensor, once a resolution: its grid of 96x96 points, 1, 2 and 4 pixels apart.

    Raises:
        ImportError: ap_gym, or one of the packages that it needs, is not installed.
    """
    data: Any = import_module("ap_gym.envs.image.image_classification_dataset")
    sensor: Any = import_module("ap_gym.envs.image.image_perception_module")

    class Images(data.ImageClassificationDataset):
        """The same images, as ap_gym wants them: float32 in [0, 1]."""

        def _get_num_classes(self) -> int:
            return 2

        def _get_num_channels(self) -> int:
            return 3

        def _get_length(self) -> int:
            return len(pyramids)

        def _get_data_point(self, idx: int) -> tuple[np.ndarray, int]:
            return pyramids[idx].levels["high"].astype(np.float32) / 255, 0

    modules = []
    for name in RESOLUTIONS:
        config = sensor.ImagePerceptionConfig(
            Images(),
            sensor_size=(PATCH_SIDE, PATCH_SIDE),
            sensor_scale=LEVEL_SHORT_SIDE["high"] / LEVEL_SHORT_SIDE[name],
            prefetch=False,
        )
        module = sensor.ImagePerceptionModule(batch, config)
        module.seed(0)
        module.reset()
        modules.append(module)
    fixations = turns(lambda rng: rng.uniform(-1, 1, (batch, 2)), _TURNS, seed=1)

    def work() -> int:
        fixation = fixations()
        for module in modules:
            module.get_glimpse(fixation)
        return batch

    return Contender(PEER, work, {"input": "float32 image", "output": "float32"})


def _rows(measured: dict[int, dict[str, Rate]]) -> tuple[tuple[str, ...], ...]:
    fields = list(measured.values())
    names = list(fields[0])
    rows = [(name, *(rates[name].clock_cell() for rates in fields)) for name in names]
    for name in names[1:]:
        ratios = [rates[OURS].over(rates[name])[1] for rates in fields]
        rows.append((f"{OURS} / {name}", *(f"{ratio:,.2f}x" for ratio in ratios)))
    return tuple(rows)


def _notes(arena: PyramidArena, ratios: dict[str, float], peer: bool) -> tuple[str, ...]:
    notes = [
        f"{torch.get_num_threads()} thread(s); {len(arena)} images of {SIZE[0]}x{SIZE[1]}, "
        f"{arena.capacity / 2**20:,.0f} MB of pyramids; a glimpse is 3 patches of 96x96, 83 kB.",
        "Looks fall anywhere in the image, so that much of a low patch is noise from outside it. "
        "A memcpy copies as many bytes in one piece, from another place of the same memory each "
        "time; ours reads 288 bytes a row from a new place.",
        "grid_sample and ap_gym give float32 and interpolate; ours gives uint8 at the nearest "
        "pixel of a level. grid_sample has its images stacked beforehand, which costs it "
        "nothing here. ap_gym samples the full image, without smoothing, at every scale.",
    ]
    if not peer:
        notes.append("ap_gym is not installed (pip install 'glimpse-env[peers]'): no comparison.")
    return tuple(notes)
