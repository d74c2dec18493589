"""Patches a second of GoogLeNet on a CPU: torch with our kernels against OpenVINO, by turns.

Both are what `make_encoder` builds with `backend=`, in batches of 32 patches and of one glimpse.
Weights are random: speed does not depend on them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from encoders.inference.engine import make_encoder
from encoders.inference.openvino_form import openvino_obstacle
from encoders.spec import get_spec
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    draw_patches,
    encoding,
    interleave,
    machine_record,
)

CLAIM = (
    "OpenVINO encodes more patches a second than torch with our kernels at equal precision, in "
    "batches of 32 and of one glimpse."
)
BACKENDS = ("torch", "openvino")


def run(*, quick: bool = False) -> Result:
    """Measure both backends in both precisions.

    Args:
        quick: One patch and short windows; proves nothing.

    Raises:
        ValueError: OpenVINO is absent.
    """
    obstacle = openvino_obstacle(torch.float32)
    if obstacle is not None:
        raise ValueError(f"Benchmark 'backends' measures OpenVINO, and {obstacle}")
    machine = machine_record(("openvino", "numba"))
    spec = replace(get_spec("googlenet"), weights=None, sha256=None)
    precisions = [("fp32", torch.float32), ("bf16", torch.bfloat16)]
    precisions = [name for name, dtype in precisions if openvino_obstacle(dtype) is None]
    batches = (1,) if quick else (3, 32)
    windows, seconds = (2, 0.0) if quick else (7, 0.5)
    made = {
        (backend, precision): make_encoder(
            spec,
            device="cpu",
            precision=precision,  # pyright: ignore[reportArgumentType]
            backend=backend,  # pyright: ignore[reportArgumentType]
        )
        for precision in precisions
        for backend in BACKENDS
    }
    generator = torch.Generator().manual_seed(0)
    pixels = draw_patches(32, generator)
    exact = made["torch", "fp32"](pixels)
    errors = {
        _name(*who): float((encoder(pixels) - exact).norm() / exact.norm())
        for who, encoder in made.items()
    }
    contenders = [
        Contender(_name(*who, batch), encoding(encoder, pixels[:batch]))
        for batch in batches
        for who, encoder in made.items()
    ]
    rates = interleave(contenders, windows=windows, seconds=seconds, warm_up=2)
    ratios = {
        f"{precision}, batch {batch}": rates[_name("openvino", precision, batch)].over(
            rates[_name("torch", precision, batch)]
        )
        for batch in batches
        for precision in precisions
    }
    return Result(
        claim=CLAIM,
        holds=all(clock > 1 for _, clock in ratios.values()),
        header=("patches a second, median (quartiles)", *(f"batch {batch}" for batch in batches)),
        rows=_rows(rates, list(made), batches),
        notes=(
            f"{torch.get_num_threads()} thread(s), by turns: what else the machine does falls on "
            "all alike.",
            *(
                f"OpenVINO over torch, {name}: {clock:.2f} by the clock, {processor:.2f} by "
                "processor time"
                for name, (processor, clock) in ratios.items()
            ),
            *(
                f"Error of {name} against torch in fp32: {each:.1e}"
                for name, each in errors.items()
            ),
        ),
        measured={
            "environment": machine,
            "settings": {"batches": list(batches), "windows": windows, "seconds": seconds},
            "openvino_over_torch": {
                name: {"processor": round(processor, 3), "clock": round(clock, 3)}
                for name, (processor, clock) in ratios.items()
            },
            "relative_error": errors,
            "patches_a_second": {name: rate.record() for name, rate in rates.items()},
        },
    )


def _name(backend: str, precision: str, batch: int | None = None) -> str:
    return f"{backend}, {precision}" + (f", batch {batch}" if batch else "")


def _rows(
    rates: dict[str, Rate], made: list[tuple[str, str]], batches: tuple[int, ...]
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (_name(*who), *(rates[_name(*who, batch)].clock_cell(1) for batch in batches))
        for who in made
    )
