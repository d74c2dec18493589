"""Measurements behind the project's claims: one module a claim, each with one function `run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from agents.checked import Whole
from experiments.data import Options

BENCHMARKS: dict[str, str] = {
    "scaling": "Cost by environments, resolutions, glimpses and images, stage by stage.",
    "pyramids": "Building pyramids: under 3 times the decoding of the same files.",
    "encoder": (
        "Patches a second: at least 5 times torchvision in eager fp32, ahead of ONNX Runtime and "
        "OpenVINO."
    ),
    "encoders": (
        "A glimpse by several encoders, each at its patch side: patches a second and "
        "multiply-adds; no claim."
    ),
    "backends": "OpenVINO encodes more patches a second than torch with our kernels.",
    "environment": (
        "What the environment costs: at most 5% over its encoder, 1 ms alone; 200,000 glimpses a "
        "second from a bank."
    ),
    "retina": (
        "Glimpses a second: at least 100 times ap_gym, 10 times grid_sample, and half of a memcpy."
    ),
    "recurrent": (
        "Training steps a second of recurrent agents on a free environment: ours at least ten "
        "times sb3-contrib's RecurrentPPO."
    ),
    "reading": (
        "A bank on the disk, fetched ahead: trained from at nine tenths or more of the rate of one "
        "in memory."
    ),
    "workers": "Two workers on two cores: at least nine tenths of twice the work of one.",
    "agent": "A training step of the full-size agent: at least half of the matrix peak.",
}
"""Module in this package, and what it claims (which its result may refute)."""


DRAWINGS: dict[str, str] = {"scaling": "experiments.benchmarks.scaling:draw_scaling"}
"""`module:function` that draws a benchmark's record as a PNG file, for those that have a figure."""


@dataclass(frozen=True)
class BenchmarkConfig(Options):
    """Run benchmarks by name; without a name, list them."""

    names: Positional[tuple[str, ...]] = ()
    """Benchmarks to run; `all` for every one."""
    out: Path = Path("benchmarks")
    """Folder for one benchmark-NAME.json each."""
    quick: bool = False
    """Tiny shapes and few windows: shows that it runs, measures nothing worth telling."""
    encoders: tuple[str, ...] = ()
    """Names of encoders for the benchmark `encoders`, each with @P at its end for patches of P
    pixels (96 without): `googlenet runs/core/core.json efficientnet_lite2@128`. By default some
    that are registered."""
    threads: Whole = 0
    """Threads that torch computes with (0: as many as it chooses)."""

    def __post_init__(self) -> None:
        """Check before anything is measured.

        Raises:
            ValueError: a name that is none, or threads below 0.
        """
        super().__post_init__()
        unknown = [name for name in self.names if name not in (*BENCHMARKS, "all")]
        if unknown:
            raise ValueError(
                f"There is no benchmark {', '.join(unknown)}: choose from "
                f"{', '.join(BENCHMARKS)}, or all."
            )
        if self.encoders and not {"encoders", "all"} & set(self.names):
            raise ValueError("--encoders is of the benchmark encoders: name that one too")
