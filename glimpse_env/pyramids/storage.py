"""Where decoded images are kept while an environment plays: chosen by the room there is.

- `device`: as tensors on the encoder's CUDA device, so that no pixel crosses the bus again.
- `host`: in this process's memory.
- a folder: a file made by `glimpse pyramids`, memory-mapped; the system keeps of it what it can.
- `demand`: nothing is kept; every episode decodes its image.

Memory of `device` and `host` fills as images come, so that an environment is there at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.mapped import open_mapped
from glimpse_env.pyramids.pyramid import PATCH_SIDE, short_side

STORAGES = ("auto", "device", "host", "demand")
# One environment among many (a process each, say) must not hoard images; a batch may take half
# of what is free.
_SCALAR_BYTES = 2**26
_SHARE = 0.5
# Addresses that are left to others under a limit.
_SPARE = 2**29
# Of an image's long side over its short one, to guess how much room a split takes.
_USUAL_ASPECT = 1.4


@dataclass(frozen=True)
class StorageChoice:
    """Place where decoded images are kept, and the reason for it."""

    kind: Literal["device", "host", "mapped", "demand"]
    """What it is."""
    capacity: int
    """Bytes that may be taken."""
    reason: str
    """One sentence for the user."""


def choose_storage(
    asked: str | os.PathLike[str],
    *,
    count: int,
    resolutions: Sequence[str],
    num_envs: int,
    device: torch.device,
    patch_side: int = PATCH_SIDE,
) -> StorageChoice:
    """Choose among device, host and demand, or take the user at their word.

    Args:
        asked: One of `STORAGES`, or a folder.
        count: Images of the split.
        resolutions: Levels to keep.
        num_envs: Environments that share the store.
        device: Of the encoder.
        patch_side: P, with whose square the room grows.

    Returns:
        The place, its capacity and the reason.

    Raises:
        ValueError: If `device` is asked for and the encoder is not on CUDA.
    """
    if asked not in STORAGES:
        return StorageChoice("mapped", 0, f"images are mapped from {os.fspath(asked)}")
    needed = usual_bytes(count, resolutions, patch_side)
    size = f"{count:,} images need about {_amount(needed)}"
    if asked == "demand":
        return StorageChoice("demand", 0, f"{size}, none are kept: each is decoded when it comes")
    if asked == "device" and device.type != "cuda":
        raise ValueError(
            f"storage='device' keeps images on a CUDA device, and the encoder is on {device}: "
            "pass storage='host' or 'auto'"
        )
    if asked == "auto" and num_envs == 1:
        capacity = min(needed, _SCALAR_BYTES)
        kind = "device" if device.type == "cuda" else "host"
        return StorageChoice(kind, capacity, f"{size}, one environment keeps {_amount(capacity)}")
    if device.type == "cuda" and asked in ("device", "auto"):
        free = int(torch.cuda.mem_get_info(device)[0] * _SHARE)
        if asked == "device" or needed <= free:
            return StorageChoice("device", min(needed, free), _fitting(size, needed, free, device))
    capacity = int(max(0, available_memory() - PyramidArena.promised()) * _SHARE)
    return StorageChoice("host", min(needed, capacity), _fitting(size, needed, capacity, "memory"))


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _fitting(size: str, needed: int, capacity: int, where: object) -> str:
    if needed <= capacity:
        return f"{size}, {where} has room for {_amount(capacity)}: they are kept as they come"
    return (
        f"{size}, {where} has room for {_amount(capacity)}: that many are kept, the others are "
        "decoded whenever they come (`glimpse pyramids` makes a file that is mapped instead)"
    )


def make_arena(
    choice: StorageChoice,
    asked: str | os.PathLike[str],
    dataset: ImageDataset,
    resolutions: Sequence[str],
    device: torch.device,
    patch_side: int = PATCH_SIDE,
) -> PyramidArena:
    """Make the arena of a choice.

    Raises:
        FileNotFoundError, PyramidsMismatchError, PyramidsIncompleteError: see `open_mapped`.
    """
    if choice.kind == "mapped":
        return open_mapped(Path(asked), dataset, resolutions, patch_side)
    target = device if choice.kind == "device" else None
    return PyramidArena.in_memory(len(dataset), resolutions, choice.capacity, target, patch_side)


def usual_bytes(count: int, resolutions: Sequence[str], patch_side: int = PATCH_SIDE) -> int:
    """Bytes that the pyramids of images of usual aspect take, and some more."""
    pixels = sum(short_side(name, patch_side) ** 2 for name in resolutions) * _USUAL_ASPECT
    return int(1.05 * 3 * pixels * count) + 2**20


def available_memory() -> int:
    """Bytes of memory that may be taken without pushing others out: of the machine or container."""
    amounts = [_from_meminfo(), _from_cgroup(), _from_limits()]
    known = [amount for amount in amounts if amount is not None]
    if known:
        return min(known)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**32


def _from_limits(own: str = "/proc/self/statm") -> int | None:
    """Return what `ulimit -v` or `-d` (job systems set them) allow; None without a limit.

    Of that a part stays free: threads, libraries and what an agent computes take addresses too.
    """
    if resource is None:
        return None
    try:
        pages = [int(number) for number in Path(own).read_text(encoding="ascii").split()]
        page = os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not Linux
        return None
    used = {"RLIMIT_AS": pages[0] * page, "RLIMIT_DATA": pages[5] * page}
    left = []
    for name, taken in used.items():
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            left.append(max(0, limit - taken - _SPARE))
    return min(left) if left else None


def _from_meminfo(path: str = "/proc/meminfo") -> int | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _from_cgroup(own: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int | None:
    """Return what the control groups (a container's, say) may still take; None without a limit.

    Version 2 has one hierarchy, version 1 one for memory; a limit may stand at any level of it.
    """
    try:
        lines = Path(own).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used = Path(root), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base = Path(root) / "memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # In a container the path may be the host's; its own group is then the root.
        inside = base / path.lstrip("/")
        for folder in (inside, *inside.parents):
            try:
                left.append(
                    int((folder / limit).read_text(encoding="utf-8"))
                    - int((folder / used).read_text(encoding="utf-8"))
                )
            except (OSError, ValueError):  # not here, or "max"
                pass
            if folder == base:
                break
    return max(0, min(left)) if left else None
