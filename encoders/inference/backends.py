"""Which library computes a GoogLeNet on a CPU: torch with our kernels, or OpenVINO.

`auto` tries both for a second, at equal precision, and keeps what it found in the user's cache, by
processor.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from encoders.folders import user_cache, write_whole
from encoders.googlenet import GoogLeNetTrunk
from encoders.inference.devices import resolve_device
from encoders.inference.openvino_form import OpenVinoTrunk, openvino_obstacle
from encoders.spec import Backend, Normalisation

_FILE = "backends.json"
_SECONDS = 1.0
_BATCH = 16


def check_backend(backend: str, device: str | torch.device, precision: str, compile: bool) -> None:
    """Refuse a backend that cannot do what else is asked for.

    Args:
        backend: As asked for.
        device: As asked for.
        precision: As asked for.
        compile: Whether torch compiles it.

    Raises:
        ValueError: No such backend, or one that does not go with the rest.
    """
    known = get_args(Backend)
    if backend not in known:
        raise ValueError(f"backend is one of {', '.join(map(repr, known))}, not {backend!r}")
    if backend == "openvino" and precision == "int8":
        raise ValueError(
            "int8 is computed by torch, since OpenVINO's is less exact: give backend='torch', or "
            "precision 'bf16' or 'fp32'"
        )
    if backend == "openvino" and (compile or resolve_device(device).type != "cpu"):
        raise ValueError(
            "backend 'openvino' computes on the CPU, not compiled by torch: give device='cpu'"
        )


def refuse_others(backend: str, what: str) -> None:
    """Refuse OpenVINO for an encoder that is no GoogLeNet.

    Raises:
        ValueError: It was asked for.
    """
    if backend == "openvino":
        raise ValueError(
            f"backend 'openvino' is for GoogLeNets, and {what} is none: give backend='torch'"
        )


def choose_form(
    backend: str,
    own: nn.Module,
    fused: GoogLeNetTrunk,
    normalisation: Normalisation,
    dtype: torch.dtype,
) -> nn.Module:
    """Choose the form in which a GoogLeNet computes on a CPU.

    Args:
        backend: `torch`, `openvino`, or `auto` for the faster one.
        own: Torch's form.
        fused: The result of `fuse_googlenet`, in fp32.
        normalisation: Its input's scale.
        dtype: In which arithmetic.

    Returns:
        A module of raw pixels.

    Raises:
        DeviceNotAvailableError: `openvino` is asked for, and cannot compute so here.
    """
    if backend == "torch" or (backend == "auto" and openvino_obstacle(dtype) is not None):
        return own
    other = OpenVinoTrunk(fused, normalisation, dtype)
    if backend == "openvino":
        return other
    path, key = _place(), _key(fused, dtype)
    found = _recall(path, key)
    if found is None:
        # Torch's form as the engine will cast it; `own` is left to the engine.
        cast = copy.deepcopy(own).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rates = trial({"torch": cast.eval(), "openvino": other})
        found = max(rates, key=rates.__getitem__)
        _keep(path, key, {"backend": found, "patches_a_second": rates})
        told = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        logging.getLogger(__name__).info("backend %s: %s patches a second", found, told)
    return other if found == "openvino" else own


@torch.inference_mode()
def trial(forms: Mapping[str, nn.Module]) -> dict[str, float]:
    """Patches a second of each form, the best of their turns within about a second.

    Args:
        forms: By name; each takes raw pixels.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (_BATCH, 96, 96, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    best = dict.fromkeys(forms, float("inf"))
    for form in forms.values():
        form(pixels)  # compile, pack and allocate
    until = time.perf_counter() + _SECONDS
    while True:
        for name, form in forms.items():
            begun = time.perf_counter()
            form(pixels)
            best[name] = min(best[name], time.perf_counter() - begun)
        if time.perf_counter() >= until:
            return {name: round(_BATCH / seconds, 1) for name, seconds in best.items()}


def _place() -> Path | None:
    folder = user_cache()
    return None if folder is None else folder / _FILE


def _key(fused: GoogLeNetTrunk, dtype: torch.dtype) -> str:
    """Name all that a trial's result depends on."""
    spec = fused.spec
    network = f"{spec.architecture} {spec.stem} stride {spec.stride} {spec.depth}"
    parts = (_processor(), network, str(dtype), f"{torch.get_num_threads()} threads")
    return ", ".join((*parts, *(f"{name} {_version(name)}" for name in ("torch", "openvino"))))


def _processor() -> str:
    """Name of the processor, and a hash of what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return f"{platform.processor()} {platform.machine()}"
    named = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    able = hashlib.sha256(named.get("flags", "").encode()).hexdigest()[:8]
    return f"{named.get('model name', platform.machine())} {able}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _read(path: Path | None) -> dict[str, object]:
    """Everything that is kept; nothing where the file is absent or broken."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _recall(path: Path | None, key: str) -> str | None:
    entry = _read(path).get(key)
    found = entry.get("backend") if isinstance(entry, dict) else None
    return found if found in ("torch", "openvino") else None


def _keep(path: Path | None, key: str, entry: dict[str, object]) -> None:
    if path is None:
        return
    text = json.dumps(_read(path) | {key: entry}, indent=2, sort_keys=True) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError:  # read-only, or several processes at once: the next one tries again
        pass
