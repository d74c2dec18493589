"""Stages that ask whether everything is there and right: packages, tests, copies in a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from experiments.gpu.plan import ROOT, Setting

NEEDED = {
    "annotated_types": "annotated-types",
    "filelock": "filelock",
    "gymnasium": "gymnasium",
    "hypothesis": "hypothesis",
    "jaxtyping": "jaxtyping",
    "lazy_loader": "lazy-loader",
    "matplotlib": "matplotlib",
    "numba": "numba",
    "PIL": "pillow",
    "platformdirs": "platformdirs",
    "pytest": "pytest",
    "safetensors": "safetensors",
    "sb3_contrib": "sb3-contrib",
    "scipy": "scipy",
    "stable_baselines3": "stable-baselines3",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "tyro": "tyro",
    "xdist": "pytest-xdist",
}
"""Modules that the stages import, and the packages that bring them; `make gpu-wheels` fetches those
that an image with torch usually lacks."""
_ENVS, _QUICK_ENVS = 64, 2


def check(setting: Setting) -> dict[str, Any]:
    """Say what there is: packages, GPU, images, weights."""
    missing = [package for name, package in NEEDED.items() if find_spec(name) is None]
    found: dict[str, Any] = {
        "missing_packages": missing,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "triton": find_spec("triton") is not None,
        "tensorrt": find_spec("torch_tensorrt") is not None,
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
    }
    if not missing:
        found |= {"images": _images(setting), "weights": _weights()}
    usable = bool(found["gpus"]) and found["triton"]
    return found | {"passed": not missing and (setting.quick or usable)}


def _gpu(index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        free, total = torch.cuda.mem_get_info(index)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "gigabytes": round(total / 1e9, 1),
        "free_gigabytes": round(free / 1e9, 1),
        "bf16": bf16,
    }


def _images(setting: Setting) -> dict[str, Any] | str:
    from experiments.data import DataConfig, build_dataset

    data = DataConfig(data_dir=setting.data_dir, allow_missing=setting.allow_missing)
    try:
        splits = {split: build_dataset(data, split) for split in ("train", "val")}
    except (ValueError, OSError, RuntimeError) as error:
        return f"absent: {error}"
    return {split: {"images": len(d), "missing": d.num_missing} for split, d in splits.items()}


def _weights() -> str:
    from encoders.spec import get_spec
    from encoders.weights.files import WeightsNotFoundError, find_weights

    try:
        return find_weights(get_spec("googlenet")).name
    except WeightsNotFoundError as error:
        return f"absent: {error}"


# -- tests ---------------------------------------------------------------------------------------


def cuda_tests(setting: Setting) -> dict[str, Any]:
    """Run the tests marked `cuda`; on a CPU (a quick run) they are collected and skipped."""
    found = run_tests(setting, ["-m", "cuda", "tests"])
    whole = found["counts"].get("failed", 0) == 0 and found["ended"]
    skipped = found["counts"].get("skipped", 0)
    return found | {"passed": whole and (setting.quick or (skipped == 0 and found["total"] > 0))}


def suite(setting: Setting) -> dict[str, Any]:
    """Run the fast tier; the failures are a list to work on."""
    chosen = ["tests/agents/test_losses.py"] if setting.quick else ["-n", "12", "tests"]
    found = run_tests(setting, ["-m", "not slow and not browser", *chosen])
    return found | {"passed": found["ended"]}


def run_tests(setting: Setting, arguments: list[str]) -> dict[str, Any]:
    """Run pytest in a process of its own, and read its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *arguments]
        # A cache of its own: which tests failed last is another run's to know.
        command += ["-o", f"cache_dir={(setting.out / 'pytest').resolve()}"]
        try:
            done = subprocess.run(
                command, cwd=ROOT, check=False, timeout=max(setting.left - 10, 10)
            )
            ended = done.returncode in (0, 1)
        except subprocess.TimeoutExpired:
            ended = False
        found = read_report(report) if report.is_file() else {"counts": {}, "total": 0, "told": {}}
    return found | {"ended": ended, "command": ["pytest", *arguments]}


def read_report(path: Path) -> dict[str, Any]:
    """Count a JUnit report, and name what failed or was skipped, with the reason."""
    counts: Counter[str] = Counter()
    told: dict[str, list[str]] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kind, reason = "passed", ""
        for tag, state in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            part = case.find(tag)
            if part is not None:
                kind, reason = state, (part.get("message") or "")[:300]
        counts[kind] += 1
        if kind != "passed":
            told.setdefault(kind, []).append(f"{name}: {reason}")
    return {"counts": dict(counts), "total": sum(counts.values()), "told": told}


# -- copies --------------------------------------------------------------------------------------


def copies(setting: Setting) -> dict[str, Any]:
    """Count what a step moves between host and device: tensors, a live encoder, device storage.

    What the rules need is some numbers an environment: the action to the host, and to the device
    where each patch comes from. Pixels and features are many thousand.
    """
    from experiments.gpu.measure import device_of
    from experiments.gpu.speed import live_env

    device = device_of(setting)
    envs = _QUICK_ENVS if setting.quick else _ENVS
    env = live_env(setting, device, envs, images=2 * envs)
    action = {
        "fixation": torch.zeros(envs, 2, device=device),
        "label": torch.zeros(envs, dtype=torch.int64, device=device),
    }
    env.reset(seed=0)
    looks = env._dynamics.num_glimpses
    for _ in range(2 * (looks + 1)):  # graphs are captured, images decoded
        env.step(action)
    phases = {}
    for name, steps in (("looks", looks), ("answer and next context", 1)):
        moved = profile_copies(lambda steps=steps: [env.step(action) for _ in range(steps)], device)
        phases[name] = {
            kind: {
                "copies_a_step": count / steps,
                "bytes_a_step_and_environment": size / steps / envs,
            }
            for kind, (count, size) in moved.items()
        }
    most = max(
        (
            part["bytes_a_step_and_environment"]
            for kinds in phases.values()
            for part in kinds.values()
        ),
        default=0.0,
    )
    env.close()
    # A patch is 27,648 bytes, features of a glimpse 12,288.
    return {"environments": envs, "phases": phases, "most_bytes": most, "passed": most < 1024}


def profile_copies(work: Any, device: torch.device) -> dict[str, tuple[int, int]]:
    """Count copies between host and device while some work is done, and their bytes, by kind."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as seen:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        return read_trace(json.loads(path.read_text(encoding="utf-8")))


def read_trace(trace: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Sum the copies of a profiler's trace: kind to count and bytes; those on the device are left.

    Kineto calls them `Memcpy HtoD (Pageable -> Device)` and `Memcpy DtoH (Device -> Pageable)`.
    """
    found: dict[str, np.ndarray] = {}
    for event in trace.get("traceEvents", []):
        if event.get("cat") != "gpu_memcpy":
            continue
        kind = next((k for k in ("HtoD", "DtoH") if k in event.get("name", "")), None)
        if kind is not None:
            size = int(event.get("args", {}).get("bytes", 0))
            found[kind] = found.get(kind, np.zeros(2, np.int64)) + (1, size)
    return {kind: (int(count), int(size)) for kind, (count, size) in found.items()}
