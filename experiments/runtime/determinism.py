"""Two switches of torch: results that repeat to the last bit, and faster matrix products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from experiments.data import Matmul


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Have torch compute with deterministic algorithms only, or raise where it has none.

    On CPU, with the same number of threads, everything here is exact without it. On CUDA several
    algorithms add in whatever order threads arrive; with the switch they are replaced by slower
    ones. It does not make different machines, versions of torch or numbers of threads agree.

    Args:
        on: Whether to; False changes nothing.
    """
    if not on:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    # cuBLAS reads it when it starts; it asks for a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]


@contextmanager
def matmul_precision(how: Matmul) -> Iterator[None]:
    """Multiply float32 matrices at the given precision, and as before afterwards.

    `medium` rounds the factors to bf16 and adds in float32 where the processor has instructions for
    it (AMX, AVX512-BF16); elsewhere a CPU computes as with `highest`. On CUDA `high` is TF32.

    Args:
        how: Precision, as `torch.set_float32_matmul_precision` takes it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(how)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
