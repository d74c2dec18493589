"""Data parallelism by `torchrun`: which process this is, and means over all of them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed import (
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.distributed.rendezvous import rendezvous


@dataclass(frozen=True)
class Ranks:
    """One process among several that train one network together; alone by default."""

    rank: int = 0
    """Number of this process; 0 is the one that writes."""
    count: int = 1
    """Processes, on all machines."""
    local: int = 0
    """Number of this process on its machine: its GPU."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """This process's own device, where each has one."""
        return (
            torch.device("cuda", self.local) if self.count > 1 and device.type == "cuda" else device
        )

    def mean(self, metrics: dict[str, float], device: torch.device) -> dict[str, float]:
        """Average over the processes; each must call it."""
        if self.count == 1:
            return metrics
        values = torch.tensor(list(metrics.values()), dtype=torch.float32, device=device)
        dist.all_reduce(values)
        return dict(zip(metrics, (values / self.count).tolist(), strict=True))

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether it is so in any of the processes; each must call it."""
        if self.count == 1:
            return here
        found = torch.tensor(float(here), device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the mean of all processes' gradients at every step, so that weights stay equal."""
        if self.count == 1:
            return

        def average(optimizer: torch.optim.Optimizer, args: object, options: object) -> None:
            gradients = [
                parameter.grad
                for group in optimizer.param_groups
                for parameter in group["params"]
                if parameter.grad is not None
            ]
            flat = torch.cat([each.flatten() for each in gradients])
            dist.all_reduce(flat)
            flat /= self.count
            start = 0
            for each in gradients:
                each.copy_(flat[start : start + each.numel()].view_as(each))
                start += each.numel()

        optimizer.register_step_pre_hook(average)

    def share_object(self, value: object, device: torch.device) -> object:
        """Give every process the object of the first one."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=device)
        return box[0]


def restarted() -> bool:
    """Whether torchrun has started this process again, after another one died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


_MEETING = 600.0
"""Seconds that processes which torchrun has started wait for the first one."""


def _own_store(store: Store, rank: int, count: int) -> Store:
    """Part of torchrun's store for the processes that live now.

    Started again, processes may find the addresses of the dead in it. So the first one names a part
    after itself, and the others take it once it has seen them.

    Raises:
        TimeoutError: The first one does not answer.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("first", own)
        seen = [store.get(f"{own}/{other}").decode() for other in range(1, count)]
        store.set(f"{own}/seen", " ".join(seen))
        return PrefixStore(own, store)
    deadline = time.monotonic() + _MEETING
    while time.monotonic() < deadline:
        first = store.get("first").decode()
        store.set(f"{first}/{rank}", own)
        if store.check([f"{first}/seen"]) and own in store.get(f"{first}/seen").decode().split():
            return PrefixStore(first, store)
        time.sleep(0.05)
    raise TimeoutError(
        f"process 0 did not answer process {rank} within {_MEETING:g} s: start torchrun again"
    )


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes that torchrun has started, or be alone without it.

    NCCL carries the gradients between GPUs, Gloo between CPUs.

    Raises:
        ValueError: torchrun started more processes on this machine than it has GPUs.
    """
    ranks = Ranks(
        *(
            int(os.environ.get(k, d))
            for k, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    )
    if ranks.count == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        if ranks.local >= torch.cuda.device_count():
            raise ValueError(
                f"process {ranks.local} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}: give torchrun a smaller --nproc-per-node"
            )
        torch.cuda.set_device(ranks.local)
    store, rank, count = next(rendezvous("env://"))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_own_store(store, rank, count),
        rank=rank,
        world_size=count,
    )
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
