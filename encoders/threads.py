"""Loops over rows, split among threads: for kernels and numpy calls that release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None
_pool_key: tuple[int, int] | None = None


def in_parts(work: Callable[[int, int], object], count: int, *, least: int = 1) -> None:
    """Call `work(start, stop)` for consecutive parts of `range(count)`, one a thread.

    As many threads as torch computes with (`torch.set_num_threads`), the calling one among them, so
    that a worker process limited to one thread starts none. Safe after a fork: a child process
    makes threads of its own.

    Args:
        work: Must release the GIL to gain anything, and write nothing that another part writes.
        count: Rows in all.
        least: Fewest rows worth a thread.

    Raises:
        Exception: What `work` raises, once every part has ended.
    """
    parts = max(1, min(torch.get_num_threads(), count // max(least, 1)))
    if parts == 1:
        work(0, count)
        return
    edges = [count * part // parts for part in range(parts + 1)]
    pool = _threads(parts - 1)
    others = [pool.submit(work, *edges[part : part + 2]) for part in range(1, parts)]
    try:
        work(edges[0], edges[1])
    finally:
        errors = [other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error


def _threads(count: int) -> ThreadPoolExecutor:
    global _pool, _pool_key
    key = (os.getpid(), count)
    if _pool is None or _pool_key != key:
        _pool, _pool_key = ThreadPoolExecutor(count, thread_name_prefix="glimpse"), key
    return _pool
