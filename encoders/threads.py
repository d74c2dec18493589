"""Loops over rows, split among threads: for kernels and numpy calls that release the GIL."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

Work = Callable[[int, int], object]

_HOME = os.getpid()
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_pool: ThreadPoolExecutor | None = None
_pool_key: tuple[int, int] | None = None


def in_parts(work: Work, count: int, *, least: int = 1, amid_torch: bool = False) -> None:
    """Call `work(start, stop)` for consecutive parts of `range(count)`, one a thread.

    As many threads as torch computes with (`torch.set_num_threads`), the calling one among them, so
    that a worker process limited to one thread starts none. Safe after a fork: a child process
    makes threads of its own.

    Args:
        work: Must release the GIL to gain anything, and write nothing that another part writes.
        count: Rows in all.
        least: Fewest rows worth a thread.
        amid_torch: Whether this comes right after and before operations of torch's; then its own
            threads do it, where they can be reached.

    Raises:
        BaseException: What `work` raises, once every part has ended.
    """
    parts = max(1, min(torch.get_num_threads(), count // max(least, 1)))
    if parts == 1:
        work(0, count)
        return
    edges = [count * part // parts for part in range(parts + 1)]
    errors: list[BaseException] = []

    def run(part: int) -> None:
        try:
            work(edges[part], edges[part + 1])
        except BaseException as error:
            errors.append(error)

    # OpenMP's threads do not survive a fork.
    reached = amid_torch and os.getpid() == _HOME and _openmp() is not None
    (_by_openmp if reached else _by_pool)(run, parts)
    if errors:
        raise errors[0]


def _by_openmp(run: Callable[[int], None], parts: int) -> None:
    """Run the parts on the threads that torch computes with.

    After an operation of torch's these wait for the next one for a while, at full speed; threads of
    our own would share the cores with them and take twice as long.
    """
    waiting, interrupts = list(range(parts)), []

    def one(_: Any) -> None:
        # Nothing may be raised into C, and no part may get lost.
        part = None
        try:
            part = waiting.pop()
            run(part)
        except BaseException as error:
            interrupts.append(error)
            if part is not None:
                waiting.append(part)

    callback = _CALLBACK(one)
    _openmp()(callback, None, parts, 0)  # type: ignore[misc]
    # The library may give fewer threads than asked for.
    while waiting:
        run(waiting.pop())
    if interrupts:
        raise interrupts[0]


@cache
def _openmp() -> Callable[..., None] | None:
    """GOMP_parallel of the OpenMP library that torch has loaded; None where there is none such.

    LLVM's and Intel's libraries have it too, for programs compiled by GCC. Which library torch
    computes with is not documented; it was tested with torch 2 only, so for other versions there is
    none and a pool of threads does the work.
    """
    if torch.__version__.partition(".")[0] != "2":
        return None
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return None
    paths = {line.split()[-1] for line in maps.splitlines() if "/" in line}
    found = [path for path in paths if Path(path).name.startswith(("libgomp", "libiomp", "libomp"))]
    own = [path for path in found if "torch" in path]
    if len(own or found) != 1:  # whose threads torch uses cannot be told
        return None
    try:
        parallel = ctypes.CDLL((own or found)[0]).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


def _by_pool(run: Callable[[int], None], parts: int) -> None:
    """Run the parts on threads of our own and on the calling one."""
    global _pool, _pool_key
    key = (os.getpid(), torch.get_num_threads())
    if _pool is None or _pool_key != key:
        _pool, _pool_key = ThreadPoolExecutor(key[1] - 1, thread_name_prefix="glimpse"), key
    others = [_pool.submit(run, part) for part in range(1, parts)]
    interrupt: BaseException | None = None
    run(0)
    while others:
        try:
            others[-1].result()
            others.pop()
        except KeyboardInterrupt as error:  # waiting goes on: parts still write
            interrupt = error
    if interrupt is not None:
        raise interrupt
