"""The CPU kernels against torch's own operations, and their threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from encoders.googlenet import LocalResponseNorm
from encoders.inference import fused
from encoders.inference.engine import keep_freed_memory
from encoders.threads import _openmp, in_parts
from tests.children import ended_pid

kernels = pytest.importorskip("encoders.inference.kernels", reason="numba is not installed")

few = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


def activations(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rectified noise, channels-last: half of it zeros, of both signs."""
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 50
    rectified = noise.clamp_min(0) * torch.where(noise < 0, -1.0, 1.0)
    return rectified.to(dtype).contiguous(memory_format=torch.channels_last)


@few
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(3, 14), st.integers(3, 14)),
    window=st.sampled_from([2, 3]),
    stride=st.sampled_from([1, 2]),
    pad=st.sampled_from([0, 1]),
    ceil=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]),
)
def test_pooling_is_torchs(shape, window, stride, pad, ceil, dtype) -> None:
    pool = nn.MaxPool2d(window, stride=stride, padding=pad, ceil_mode=ceil)
    x = activations(sum(shape), *shape, dtype=dtype)
    # torch pools bytes in tiny images only; as floats they are the same.
    expected = pool(x.float()).to(dtype)
    torch.testing.assert_close(kernels.KernelMaxPool(pool)(x), expected, rtol=0, atol=0)


def test_pooling_passes_infinity_and_nan_on() -> None:
    pool = nn.MaxPool2d(3, stride=2)
    for value in (float("inf"), float("nan")):
        x = activations(0, 1, 8, 9, 9, dtype=torch.bfloat16)
        x[0, 3, 4, 4] = value
        torch.testing.assert_close(kernels.KernelMaxPool(pool)(x), pool(x), equal_nan=True)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(5), nn.MaxPool2d(3, dilation=2)])
def test_other_windows_are_refused(pool) -> None:
    with pytest.raises(ValueError, match="3x3"):
        kernels.KernelMaxPool(pool)


@few
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 5), st.integers(1, 5)),
    size=st.floats(0, 1e4),
    dtype=dtypes,
)
def test_response_norm_is_torchs(shape, size, dtype) -> None:
    x = (activations(sum(shape), *shape) * size).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    got = kernels.KernelResponseNorm(1e-4 / 5, 1.0)(x)
    expected = F.local_response_norm(x.double(), 5, alpha=1e-4, beta=0.75, k=1.0)
    # One rounding of the result to the dtype: half an ulp of bfloat16 is at most 2 ** -8 of it.
    tolerance = 2**-8 * 1.01 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=1e-30)
    plain = LocalResponseNorm()(x.float())
    torch.testing.assert_close(got.float(), plain, rtol=2 * tolerance, atol=1e-30)


@few
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 5), st.integers(1, 5)),
    normed=st.booleans(),
    dtype=dtypes,
)
def test_levels_are_the_nearest_multiples_of_their_channels_step(shape, normed, dtype) -> None:
    x = activations(sum(shape), *shape, dtype=dtype)
    # A quarter of the channels saturates.
    step = torch.rand(shape[1], generator=torch.Generator().manual_seed(1)) * 0.8 + 0.2
    if normed:
        exact = F.local_response_norm(x.double(), 5, alpha=1e-4, beta=0.75, k=1.0)
        got = kernels.KernelResponseNorm(1e-4 / 5, 1.0, step)(x)
    else:
        exact, got = x.double(), kernels.Quantise(step)(x)
    levels = exact / step[:, None, None]
    assert got.dtype == torch.uint8 and got.is_contiguous(memory_format=torch.channels_last)
    # To the nearest, but for what float32 cannot tell.
    assert bool(((got - levels.clamp(max=255)).abs() <= 0.5 + 1e-4).all())


@few
@given(
    count=st.integers(1, 3),
    side=st.tuples(st.integers(7, 30), st.integers(7, 30)),
    taps=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_the_unfolded_stem_is_the_convolution_of_normalised_pixels(
    count, side, taps, stride, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(3, 6, taps, stride=stride, padding=taps // 2)
    mean, std = (100.0, 110.0, 120.0), (2.0, 57.0, 1.0)
    pixels = torch.randint(0, 256, (count, *side, 3), generator=generator, dtype=torch.uint8)
    scaled = (pixels - torch.tensor(mean)) / torch.tensor(std)
    with torch.inference_mode():
        expected = conv(scaled.permute(0, 3, 1, 2)).relu()
        got = kernels.UnfoldedStem(conv, mean, std, fused.ConvReLU2d)(pixels)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_pixels_of_any_layout_are_unfolded() -> None:
    conv = nn.Conv2d(3, 4, 5, padding=2)
    stem = kernels.UnfoldedStem(conv, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), fused.ConvReLU2d)
    pixels = torch.randint(0, 256, (2, 12, 24, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(stem(pixels[:, :, ::2]), stem(pixels[:, :, ::2].contiguous()))


def test_every_finite_half_is_widened_exactly() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    table = halves[np.isfinite(halves)].reshape(-1, 32)
    index = np.random.default_rng(0).permutation(len(table))
    widened = kernels.widen_rows(table, index)
    np.testing.assert_array_equal(widened, table[index].astype(np.float32))
    assert np.array_equal(np.signbit(widened), np.signbit(table[index]))
    assert kernels.widen_rows(table, index[:0]).shape == (0, 32)


def test_without_numba_torch_computes_and_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    fused.kernels_available.cache_clear()
    try:
        assert not fused.kernels_available() and not fused.kernels_available()
        assert [record.message for record in caplog.records] == [
            "numba is not installed, so GoogLeNet computes by torch alone: right, but slower on CPU"
        ]
    finally:
        monkeypatch.undo()
        fused.kernels_available.cache_clear()


# --- Threads ---


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("amid_torch", [False, True])
def test_every_row_is_worked_on_once(count, number, amid_torch, threads) -> None:
    threads(number)
    seen = np.zeros(count, int)
    names = set()

    def work(start, stop):
        seen[start:stop] += 1
        names.add(threading.get_ident())

    in_parts(work, count, amid_torch=amid_torch)
    assert (seen == 1).all()
    assert len(names) <= number


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch's threads are found there")
def test_torchs_own_threads_are_reached(threads) -> None:
    """Two parts that wait for one another can only end on two threads."""
    threads(2)
    assert _openmp() is not None
    meeting = threading.Barrier(2, timeout=20)
    in_parts(lambda start, stop: meeting.wait(), 2, amid_torch=True)


def test_they_are_left_alone_by_a_torch_that_was_not_tested(monkeypatch) -> None:
    monkeypatch.setattr("torch.__version__", "3.0.0")
    assert _openmp.__wrapped__() is None


def test_where_they_are_not_reached_others_do_it(monkeypatch, threads) -> None:
    threads(2)
    monkeypatch.setattr("encoders.threads._openmp", lambda: None)
    meeting = threading.Barrier(2, timeout=20)
    in_parts(lambda start, stop: meeting.wait(), 2, amid_torch=True)


def test_few_rows_take_one_thread(threads) -> None:
    threads(2)
    calls = []
    in_parts(lambda start, stop: calls.append((start, stop)), 9, least=5)
    assert calls == [(0, 9)]


@pytest.mark.parametrize("amid_torch", [False, True])
def test_an_error_in_any_part_is_raised(amid_torch, threads) -> None:
    threads(2)
    for bad in (0, 5):
        with pytest.raises(RuntimeError, match="broken"):

            def work(start, stop, bad=bad):
                if start == bad:
                    raise RuntimeError("broken")

            in_parts(work, 10, amid_torch=amid_torch)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own(threads) -> None:
    threads(2)
    in_parts(lambda start, stop: None, 2)  # the parent's threads exist
    child = os.fork()
    if child == 0:
        seen = np.zeros(4, int)

        def work(start, stop):
            seen[start:stop] += 1

        in_parts(work, 4, amid_torch=True)
        os._exit(0 if (seen == 1).all() else 1)
    assert ended_pid(child) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept() -> None:
    """A block as large as a layer's output, freed and taken again, is not paged in anew."""
    import resource

    assert keep_freed_memory()
    for _ in range(3):
        np.ones(5_000_000, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(5_000_000, np.float32)  # 4,900 pages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000


def test_changing_numbers_of_parts_share_one_pool(threads) -> None:
    threads(4)
    seen = set()

    def work(start, stop):
        seen.add(threading.get_ident())

    for count in (2, 4, 3, 4, 2) * 10:
        in_parts(work, count)
    assert len(seen) <= 4


def test_an_interrupted_wait_goes_on_waiting(threads) -> None:
    """Nobody may find that a part still writes once the call is over."""
    threads(2)
    ended = []

    def work(start, stop):
        if start == 0:
            signal.raise_signal(signal.SIGINT)
        else:
            time.sleep(0.3)
            ended.append(start)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_parts(work, 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [1]
