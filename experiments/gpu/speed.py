"""Stages that measure: encoder, retina, environment, agent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import cycle
from typing import Any

import numpy as np
import torch

from encoders.inference.engine import build_network, make_encoder
from encoders.spec import get_spec
from experiments.benchmarks.peak import copy_bandwidth, count_flops, matmul_peak
from experiments.benchmarks.timing import wait
from experiments.gpu.measure import AbsentError, Part, device_of, rate, run_parts
from experiments.gpu.plan import Setting
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.pyramid import PATCH_BYTES, PATCH_SIDE, RESOLUTIONS, build_pyramid
from glimpse_env.retina import kernel_torch
from glimpse_env.retina.batch import cut_from_arena, plan_patches
from glimpse_env.retina.rules import cut_patches
from glimpse_env.vector_env import DogsGlimpseVectorEnv

LEAST_PATCHES, LEAST_SHARE, LEAST_COPY, MOST_EPOCH = 100_000, 0.4, 0.6, 10.0
"""Aims: patches a second, their share of the matrix peak, share of copying, seconds an epoch."""
EPOCH_IMAGES = 12_000
_KINDS = {"LRN": "googlenet", "batch norm": "googlenet_torchvision_native"}


# -- encoder -------------------------------------------------------------------------------------


def encoder(setting: Setting) -> dict[str, Any]:
    """Patches a second of every form of GoogLeNet, in batches of 1,024."""
    device, batch = device_of(setting), 2 if setting.quick else 1024
    peaks = (torch.bfloat16, torch.float32)
    parts: dict[str, Part] = {
        f"peak {str(dtype).removeprefix('torch.')}": partial(_peak, dtype, device, setting.quick)
        for dtype in peaks
    }
    for kind, name in _KINDS.items():
        forms = ENCODER_FORMS if kind == "LRN" or not setting.quick else {}
        for form, build in forms.items():
            parts[f"{kind}, {form}"] = partial(_patches, build, name, device, batch, setting.quick)
    found = run_parts(setting, "encoder", parts)
    peak = found["peak bfloat16"].get("flops_a_second", float("inf"))
    rates = {
        name: part["median"]
        for name, part in found.items()
        if name != "passed" and "median" in part
    }
    shares = {name: found[name]["flops_a_patch"] * each / peak for name, each in rates.items()}
    best = max(rates, key=lambda name: rates[name], default=None)
    return found | {
        "batch": batch,
        "share_of_bf16_peak": shares,
        "best": best,
        "holds": best is not None
        and rates[best] >= LEAST_PATCHES
        and max(shares.values()) >= LEAST_SHARE,
    }


def _peak(dtype: torch.dtype, device: torch.device, quick: bool) -> dict[str, Any]:
    return {"flops_a_second": matmul_peak(dtype, device, quick=quick)}


Run = Callable[[], Any]
Build = Callable[[Any, torch.device, list[torch.Tensor], bool], Callable[[torch.Tensor], Any]]


def _ours(
    spec: Any, device: torch.device, pixels: list[torch.Tensor], quick: bool, **options: Any
) -> Callable[[torch.Tensor], Any]:
    if options.get("compile") and quick:
        raise AbsentError("a quick run compiles nothing")
    return make_encoder(spec, device=device, **options)


def _eager(
    spec: Any, device: torch.device, pixels: list[torch.Tensor], quick: bool
) -> Callable[[torch.Tensor], Any]:
    """The plain module in bf16, channels-last, kernel by kernel, with our scale of the pixels."""
    from encoders.inference.forms import PixelScale, PlainForm

    scale = PixelScale(spec.normalisation, torch.bfloat16, device)
    own = PlainForm(scale, build_network(spec)).to(device, torch.bfloat16)
    return own.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def _compiled(
    spec: Any, device: torch.device, pixels: list[torch.Tensor], quick: bool, mode: str
) -> Callable[[torch.Tensor], Any]:
    if quick:
        raise AbsentError("a quick run compiles nothing")
    return torch.compile(_eager(spec, device, pixels, quick), dynamic=False, mode=mode)


def _tensorrt(
    spec: Any, device: torch.device, pixels: list[torch.Tensor], quick: bool
) -> Callable[[torch.Tensor], Any]:
    """TensorRT through torch, on normalised halves: its engine takes no bytes."""
    try:
        compiler: Any = import_module("torch_tensorrt")
    except ImportError as error:
        raise AbsentError(f"torch_tensorrt is not installed ({error})") from error
    network = build_network(spec).to(device, torch.float16).eval().requires_grad_(False)
    given = torch.zeros(len(pixels[0]), 3, PATCH_SIDE, PATCH_SIDE, device=device).half()
    engine = compiler.compile(
        network, ir="dynamo", inputs=[given], enabled_precisions={torch.float16}
    )
    return lambda pixels: engine(given)


ENCODER_FORMS: dict[str, Build] = {
    "ours, bf16, graphs": partial(_ours, precision="bf16"),
    "ours, fp32, graphs": partial(_ours, precision="fp32"),
    "ours, bf16, compiled and frozen": partial(_ours, precision="bf16", compile=True),
    "eager bf16, channels-last": _eager,
    "torch.compile": partial(_compiled, mode="default"),
    "torch.compile, max-autotune": partial(_compiled, mode="max-autotune"),
    "TensorRT, fp16": _tensorrt,
}
"""Forms by name; each is built from a spec and takes raw pixels on the device."""


def _patches(
    build: Build, name: str, device: torch.device, batch: int, quick: bool
) -> dict[str, Any]:
    spec = replace(get_spec(name), weights=None, sha256=None)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, PATCH_SIDE, PATCH_SIDE, 3)
    pixels = [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
        for _ in range(4)
    ]
    with torch.inference_mode():
        forward, turn = build(spec, device, pixels, quick), cycle(pixels).__next__
        found = rate(lambda: forward(turn()), device, batch, quick=quick)
    flops = count_flops(build_network(spec), torch.zeros(1, 3, PATCH_SIDE, PATCH_SIDE))
    return found | {"flops_a_patch": flops, **_memory(device)}


def _memory(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    return {"gigabytes_reserved": round(torch.cuda.memory_reserved(device) / 1e9, 2)}


# -- retina --------------------------------------------------------------------------------------


def retina(setting: Setting) -> dict[str, Any]:
    """Bytes a second of the kernel, against a plain copy; and the sizes that it might have."""
    device = device_of(setting)
    images, batches = (4, (2,)) if setting.quick else (768, (256, 4096))
    arena = _arena(images, device)
    parts: dict[str, Part] = {
        "copy": lambda: {"bytes_a_second": copy_bandwidth(device, quick=setting.quick)},
        "exact": partial(_exact, arena, device, setting.quick),
    }
    for batch in batches:
        parts[f"kernel, batch {batch}"] = partial(_kernel, arena, batch, setting.quick)
        parts[f"whole call, batch {batch}"] = partial(_call, arena, batch, setting.quick)
    if device.type == "cuda":
        for block in (256, 512, 1024):
            for warps in (1, 2, 4, 8):
                name = f"block {block}, {warps} warps"
                parts[name] = partial(_kernel, arena, batches[-1], setting.quick, block, warps)
    found = run_parts(setting, "retina", parts)
    copy = found["copy"].get("bytes_a_second", float("inf"))
    shares = {
        name: part["median"] / copy
        for name, part in found.items()
        if name not in ("passed", "copy", "exact") and "median" in part
    }
    kernels = [share for name, share in shares.items() if name.startswith("kernel")]
    return found | {
        "share_of_copy": shares,
        "holds": max(kernels, default=0.0) >= LEAST_COPY and bool(found["exact"].get("equal")),
    }


def _arena(images: int, device: torch.device) -> PyramidArena:
    """Images of noise; what they show makes no difference to the time."""
    rng = np.random.default_rng(0)
    shapes = [(384, 512), (400, 384)]
    # A few are built, and kept many times over: building takes longer than measuring.
    built = [
        build_pyramid(rng.integers(0, 256, (*shapes[n % 2], 3), dtype=np.uint8)) for n in range(8)
    ]
    size = sum(built[n % 8].nbytes for n in range(images))
    flat = torch.empty(size, dtype=torch.uint8, device=device)
    arena = PyramidArena(images, RESOLUTIONS, flat)
    for index in range(images):
        assert arena.add(index, built[index % 8])
    return arena


def _looks(arena: PyramidArena, batch: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, len(arena), batch),
        rng.uniform(-1, 1, (batch, 2)),
        rng.random(batch) < 0.5,
        rng.integers(0, 2**64, batch, dtype=np.uint64),
    ]


def _exact(arena: PyramidArena, device: torch.device, quick: bool) -> dict[str, Any]:
    """Compare the kernel, torch's own indexing and the plain path on the host, bit for bit.

    Raises:
        ValueError: They differ.
    """
    image, *rest = _looks(arena, 4 if quick else 512, seed=1)
    plan = plan_patches(arena, image, *rest, resolutions=RESOLUTIONS)
    found = kernel_torch.cut(arena.flat, plan)  # type: ignore[arg-type]
    packed = kernel_torch.pack(plan, found.device)
    table = kernel_torch.device_noise(found.device)
    by_torch = kernel_torch.cut_by_torch(arena.flat, table, packed)  # type: ignore[arg-type]
    plain = cut_patches(
        [arena.pyramid(index) for index in image.tolist()], *rest, resolutions=RESOLUTIONS
    )
    same = {
        "torch": torch.equal(found, by_torch),
        "plain": np.array_equal(found.cpu().numpy(), plain.reshape(found.shape)),
    }
    if not all(same.values()):
        raise ValueError(f"the kernel's patches are not those of {same}")
    return {"equal": True, "patches": len(found), "kernel": kernel_torch.kernel_name(device)}


def _kernel(
    arena: PyramidArena,
    batch: int,
    quick: bool,
    block: int | None = None,
    warps: int | None = None,
) -> dict[str, Any]:
    """The kernel alone: read and written bytes a second, plans on the device beforehand."""
    flat: Any = arena.flat
    table = kernel_torch.device_noise(flat.device)
    turn = cycle(
        [
            kernel_torch.pack(
                plan_patches(arena, *_looks(arena, batch, seed), resolutions=RESOLUTIONS),
                flat.device,
            )
            for seed in range(4)
        ]
    ).__next__
    patches = batch * len(RESOLUTIONS)
    cut: Callable[..., Any] = kernel_torch.cut_by_torch
    if kernel_torch.kernel_name(flat.device) == "triton":
        sizes = {} if block is None else {"block": block, "num_warps": warps}
        cut = partial(kernel_torch.cut_by_triton, **sizes)
    work = lambda: cut(flat, table, turn())  # noqa: E731
    return rate(work, flat.device, 2 * PATCH_BYTES * patches, quick=quick)


def _call(arena: PyramidArena, batch: int, quick: bool) -> dict[str, Any]:
    """The whole call, with its plan on the host and the plan's copy."""
    flat: Any = arena.flat
    turn = cycle([_looks(arena, batch, seed) for seed in range(4)]).__next__
    work = lambda: cut_from_arena(arena, *turn(), resolutions=RESOLUTIONS)  # noqa: E731
    return rate(work, flat.device, 2 * PATCH_BYTES * batch * len(RESOLUTIONS), quick=quick)


# -- environment ---------------------------------------------------------------------------------


def live_env(
    setting: Setting, device: torch.device, envs: int, images: int, **options: Any
) -> DogsGlimpseVectorEnv:
    """Return the environment with a live encoder, tensors, and images on the device if it is CUDA.

    Args:
        setting: Whether it is a quick run.
        device: Of the encoder.
        envs: B.
        images: Drawn dogs in the split.
        options: Of the environment besides.
    """
    name = "inception_mini" if setting.quick else "googlenet"
    spec = replace(get_spec(name), weights=None, sha256=None)
    return DogsGlimpseVectorEnv(
        envs,
        dataset=SyntheticDogs("train", num_images=images),
        encoder=spec,
        num_glimpses=3,
        array="torch",
        device=str(device),
        storage="device" if device.type == "cuda" else "host",
        **options,
    )


def environment(setting: Setting) -> dict[str, Any]:
    """Glimpses a second with a live encoder, and an epoch, played and learned from."""
    device = device_of(setting)
    sizes = (2,) if setting.quick else (64, 256, 1024)
    parts: dict[str, Part] = {
        f"{envs} environments": partial(_steps, setting, device, envs) for envs in sizes
    }
    parts["epoch"] = partial(_epoch, setting, device, False)
    parts["epoch with the agent"] = partial(_epoch, setting, device, True)
    found = run_parts(setting, "environment", parts)
    seconds = found["epoch"].get("second_epoch")
    return found | {"holds": seconds is not None and seconds < MOST_EPOCH and not setting.quick}


def _steps(setting: Setting, device: torch.device, envs: int) -> dict[str, Any]:
    """Whole episodes: three looks at three resolutions, an answer, the next episode's context."""
    env = live_env(setting, device, envs, images=2 * envs)
    action = {
        "fixation": torch.rand(envs, 2, device=device) * 2 - 1,
        "label": torch.zeros(envs, dtype=torch.int64, device=device),
    }
    env.reset(seed=0)
    for _ in range(12):  # every image is decoded, every graph captured
        env.step(action)
    found = rate(
        lambda: [env.step(action) for _ in range(4)], device, 3 * envs, quick=setting.quick
    )
    env.close()
    return {f"glimpses_a_second_{name}": value for name, value in found.items()}


def _epoch(setting: Setting, device: torch.device, learning: bool) -> dict[str, Any]:
    """Two epochs: in the first images are decoded, in the second they are there.

    With the agent (4,096 units a deck) an epoch collects its episodes and learns from them.
    """
    images, envs = (8, 4) if setting.quick else (EPOCH_IMAGES, 256)
    images -= images % envs
    mode = "DISABLED" if learning else "SAME_STEP"
    env = live_env(setting, device, envs, images=images, autoreset_mode=mode)
    play = _learn(setting, env, device) if learning else _look_about(env, device)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        for _ in range(images // envs):
            play()
        wait(device)
        seconds.append(round(time.perf_counter() - began, 3))
    env.close()
    return {
        "images": images,
        "environments": envs,
        "first_epoch": seconds[0],
        "second_epoch": seconds[1],
        **_memory(device),
    }


def _look_about(env: DogsGlimpseVectorEnv, device: torch.device) -> Run:
    env.reset(seed=0)
    label = torch.zeros(env.num_envs, dtype=torch.int64, device=device)

    def play() -> None:
        for _ in range(4):
            fixation = torch.rand(env.num_envs, 2, device=device) * 2 - 1
            env.step({"fixation": fixation, "label": label})

    return play


def _learn(setting: Setting, env: DogsGlimpseVectorEnv, device: torch.device) -> Run:
    from agents.configs import ReinforceConfig, TwoDeckConfig
    from agents.reinforce import ReinforceAgent
    from agents.rollout import collect

    units = 16 if setting.quick else 4096
    network = TwoDeckConfig(num_glimpses=3, hidden_size=units)
    agent = ReinforceAgent.from_spaces(
        env.single_observation_space,  # type: ignore[arg-type]
        env.single_action_space,  # type: ignore[arg-type]
        network=network,
        learning=ReinforceConfig(),
        device=str(device),
        seed=0,
    )
    return lambda: agent.update(collect(env, agent, grad=True))


# -- agent ---------------------------------------------------------------------------------------


def agent(setting: Setting) -> dict[str, Any]:
    """`glimpse benchmark agent`, whose largest width is 4,096 units a deck."""
    device_of(setting)

    def measured() -> dict[str, Any]:
        from experiments.benchmarks import agent as own

        return own.run(quick=setting.quick).record()

    return run_parts(setting, "agent", {"training step": measured})
