"""Patches a second of GoogLeNet: ours against torchvision, torch.compile, ONNX Runtime, OpenVINO.

On CPU, 96x96 patches in batches of 32. Two networks: torchvision's own (batch norm, 7x7 stem at
stride 1), which is what a user would write, and BVLC's (LRN, resampled stem), which is `googlenet`.
Weights are random: speed does not depend on them. On CUDA, larger batches and no peers but torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.googlenet import GoogLeNetTrunk, LocalResponseNorm
from encoders.inference.engine import build_network, make_encoder
from encoders.inference.int8 import int8_obstacle
from encoders.spec import EncoderSpec, get_spec
from experiments.benchmarks.peak import count_flops, matmul_peak
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    draw_patches,
    interleave,
    machine_record,
    wait,
)

CLAIM = (
    "On CPU at batch 32 the engine encodes in bf16 at least 5 times the patches of torchvision's "
    "eager fp32 module, and more than ONNX Runtime and OpenVINO at the same precision; LRN costs "
    "it at most a quarter."
)
USER = "torchvision, eager fp32"
COMPILED = "torchvision, torch.compile, bf16"
BF16, FP32, INT8 = "ours, bf16", "ours, fp32", "ours, int8"
BN, LRN = "batch norm", "LRN"


def run(*, quick: bool = False) -> Result:
    """Measure both networks beside their contenders.

    Args:
        quick: One patch and short windows, and no peer that must compile; proves nothing.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    batch = 2 if quick else 1024 if cuda else 32
    windows, seconds = (2, 0.0) if quick else (9, 1.0)
    machine = machine_record(("onnxruntime", "openvino", "numba"))
    absent: list[str] = []
    fields: dict[str, list[Contender]] = {}
    flops = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, name in ((BN, "googlenet_torchvision_native"), (LRN, "googlenet")):
            spec = replace(get_spec(name), weights=None, sha256=None)
            fields[kind] = _contenders(spec, kind, device, batch)
            flops[kind] = count_flops(build_network(spec), torch.zeros(1, 3, 96, 96))
            if not quick and not cuda:
                fields[kind] += _peers(spec, kind, batch, Path(folder), absent)
        # All in one round of turns: both networks see the same state of the machine.
        rates = interleave(
            [c for field in fields.values() for c in field], windows=windows, seconds=seconds
        )
    peaks = {
        str(dtype).removeprefix("torch."): matmul_peak(dtype, device, quick=quick)
        for dtype in (torch.bfloat16, torch.float32)
    }
    ratios, verdicts = _verdicts(rates)
    return Result(
        claim=CLAIM,
        holds=not cuda and not absent and all(verdicts.values()),
        header=("patches a second by the clock, median (quartiles)", BN, LRN),
        rows=_rows(rates, fields, flops, peaks),
        notes=_notes(batch, flops, peaks, ratios, absent),
        measured={
            "environment": machine,
            "settings": {"batch": batch, "windows": windows, "seconds": seconds},
            "gigaflops_a_patch": {kind: round(count / 1e9, 4) for kind, count in flops.items()},
            "matmul_gigaflops_a_second": {name: round(p / 1e9, 1) for name, p in peaks.items()},
            "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
            "parts_of_the_claim": verdicts,
            "patches_a_second": {name: rate.record() for name, rate in rates.items()},
        },
    )


def _name(kind: str, contender: str) -> str:
    return f"{contender} ({kind})"


def _input(batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same patches as bytes, which ours takes, and normalised, which the others do."""
    generator = torch.Generator().manual_seed(0)
    pixels = draw_patches(batch, generator)
    floats = ((pixels.float() - 127.5) / 127.5).permute(0, 3, 1, 2).contiguous()
    return pixels.to(device), floats.to(device)


def _synchronised(device: torch.device, work: Callable[[], Any], units: int) -> Callable[[], int]:
    def run_once() -> int:
        with torch.inference_mode():
            work()
        wait(device)
        return units

    return run_once


def _contenders(spec: EncoderSpec, kind: str, device: torch.device, batch: int) -> list[Contender]:
    pixels, floats = _input(batch, device)
    plain = build_network(spec).to(device).requires_grad_(False)
    half = build_network(spec).to(device, torch.bfloat16).requires_grad_(False)
    half = half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    halves = floats.to(torch.bfloat16).to(memory_format=torch.channels_last)
    bf16 = make_encoder(spec, device=device, precision="bf16")
    fp32 = make_encoder(spec, device=device, precision="fp32")
    works: dict[str, Callable[[], Any]] = {
        USER: lambda: plain(floats),
        "torchvision, eager bf16, channels-last": lambda: half(halves),
        BF16: lambda: bf16(pixels),
        FP32: lambda: fp32(pixels),
    }
    if device.type == "cpu" and int8_obstacle() is None:
        int8 = make_encoder(spec, device=device, precision="int8", calibration=pixels)
        works[INT8] = lambda: int8(pixels)
    if batch > 2:  # torch.compile takes a minute, too long for a quick run
        compiled = torch.compile(
            half, dynamic=False, options=None if device.type == "cuda" else {"freezing": True}
        )
        works[COMPILED] = lambda: compiled(halves)
    return [
        Contender(_name(kind, name), _synchronised(device, work, batch))
        for name, work in works.items()
    ]


class _ExportedLRN(torch.autograd.Function):
    """LRN that is exported as ONNX's own operator, the fastest form that the peers have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("LRN", x, alpha_f=1e-4, beta_f=0.75, bias_f=1.0, size_i=5)


class _LRN(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _ExportedLRN.apply(x)  # type: ignore[return-value]


def _export(spec: EncoderSpec, floats: Tensor, path: Path) -> None:
    """Write the network as ONNX, at a fixed batch, batch norm left to the peers to fold."""
    network = build_network(spec).requires_grad_(False)
    assert isinstance(network, GoogLeNetTrunk)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LocalResponseNorm):
                setattr(module, name, _LRN())
    with torch.no_grad():
        torch.onnx.export(
            network, (floats,), str(path), dynamo=False, opset_version=17, input_names=["pixels"]
        )


def _peers(
    spec: EncoderSpec, kind: str, batch: int, folder: Path, absent: list[str]
) -> list[Contender]:
    """ONNX Runtime and OpenVINO, as many threads as torch has; what is not installed is noted."""
    _, floats = _input(batch, torch.device("cpu"))
    threads, found = torch.get_num_threads(), []
    path = folder / f"{kind.replace(' ', '-')}.onnx"
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]

        _export(spec, floats, path)
    except ImportError:
        absent += [name for name in ("onnx",) if name not in absent]
        return []
    array = floats.numpy()
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for precision, model in (("fp32", path), ("int8", _quantise(path, array))):
            session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
            found.append((f"ONNX Runtime, {precision}", _run(session, array)))
    except ImportError:
        absent += [name for name in ("onnxruntime",) if name not in absent]
    try:
        import openvino  # pyright: ignore[reportMissingImports]

        core, model = openvino.Core(), openvino.convert_model(str(path))
        for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
            settings = {
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
            }
            request = core.compile_model(model, "CPU", settings).create_infer_request()
            found.append((f"OpenVINO, {precision}", _infer(request, array)))
    except ImportError:
        absent += [name for name in ("openvino",) if name not in absent]
    cpu = torch.device("cpu")
    return [Contender(_name(kind, name), _synchronised(cpu, work, batch)) for name, work in found]


def _quantise(path: Path, array: np.ndarray) -> Path:
    """The network in int8 by ONNX Runtime's own tool, with its recommended settings for CPUs."""
    from onnxruntime import quantization  # pyright: ignore[reportMissingImports]
    from onnxruntime.quantization import shape_inference  # pyright: ignore[reportMissingImports]

    class Reader(quantization.CalibrationDataReader):
        given: Any = iter([{"pixels": array}])

        def get_next(self) -> Any:
            return next(self.given, None)

    prepared, quantised = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    shape_inference.quant_pre_process(str(path), str(prepared))
    quantization.quantize_static(
        str(prepared),
        str(quantised),
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return quantised


def _run(session: Any, array: np.ndarray) -> Callable[[], Any]:
    return lambda: session.run(None, {"pixels": array})


def _infer(request: Any, array: np.ndarray) -> Callable[[], Any]:
    return lambda: request.infer({0: array})


def _verdicts(rates: dict[str, Rate]) -> tuple[dict[str, float], dict[str, bool]]:
    """Ratios by the clock, and which parts of the claim they bear out."""

    def over(one: str, other: str) -> float | None:
        found = one in rates and other in rates
        return rates[one].over(rates[other])[1] if found else None

    ratios, verdicts = {}, {}
    for kind in (BN, LRN):
        ours, ours32, ours8 = (_name(kind, each) for each in (BF16, FP32, INT8))
        pairs = [
            (ours, USER, 5.0),
            (ours, COMPILED, 1.0),
            (ours, "OpenVINO, bf16", 1.0),
            (ours32, "OpenVINO, fp32", 1.0),
            (ours32, "ONNX Runtime, fp32", 1.0),
            (ours8, USER, 5.0),
            (ours8, "ONNX Runtime, int8", 1.0),
        ]
        for one, other, least in pairs:
            ratio = over(one, _name(kind, other))
            if ratio is not None:
                label = f"{one} / {_name(kind, other)}"
                ratios[label], verdicts[f"{label} >= {least:g}"] = ratio, ratio >= least
    label = f"{_name(LRN, BF16)} / {_name(BN, BF16)}"
    ratios[label] = rates[_name(LRN, BF16)].over(rates[_name(BN, BF16)])[1]
    verdicts[f"{label} >= 0.75"] = ratios[label] >= 0.75
    return ratios, verdicts


def _rows(
    rates: dict[str, Rate],
    fields: dict[str, list[Contender]],
    flops: dict[str, int],
    peaks: dict[str, float],
) -> tuple[tuple[str, ...], ...]:
    names = dict.fromkeys(
        contender.name.rsplit(" (", 1)[0] for field in fields.values() for contender in field
    )
    rows = []
    for name in names:
        cells = []
        for kind in fields:
            rate = rates.get(_name(kind, name))
            if rate is None:
                cells.append("-")
                continue
            median = float(np.median(rate.clock))
            cell = rate.clock_cell(1)
            for arithmetic, dtype in (("bf16", "bfloat16"), ("fp32", "float32")):
                if arithmetic in name:  # the peak in int8 is not measured
                    cell += f", {median * flops[kind] / peaks[dtype]:.0%} of peak"
            cells.append(cell)
        rows.append((name, *cells))
    return tuple(rows)


def _notes(
    batch: int,
    flops: dict[str, int],
    peaks: dict[str, float],
    ratios: dict[str, float],
    absent: list[str],
) -> tuple[str, ...]:
    notes = [
        f"{torch.get_num_threads()} thread(s), batch {batch}. A patch is "
        + ", ".join(f"{count / 1e9:.2f} GFLOP with {kind}" for kind, count in flops.items())
        + f"; torch's own matrix product reaches {peaks['bfloat16'] / 1e9:,.0f} GFLOP/s in bf16 "
        f"and {peaks['float32'] / 1e9:,.0f} in fp32 here. Convolutions may exceed that a little.",
        *(f"{name}: {ratio:.2f}x" for name, ratio in ratios.items()),
        "Ours takes bytes and normalises them; the others are given normalised floats. ONNX "
        "Runtime has no bf16 on CPU; its int8 is of its own static quantisation, by channel. "
        "OpenVINO runs one request at a time, as ours does.",
    ]
    if absent:
        notes.append(
            f"Left out, not installed: {', '.join(absent)} (pip install 'glimpse-env[peers]'). So "
            "the claim is not shown."
        )
    return tuple(notes)
