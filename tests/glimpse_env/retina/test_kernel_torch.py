"""Patches cut on a device: torch's path against the plain retina, Triton's against torch's."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.pyramid import RESOLUTIONS
from glimpse_env.retina.batch import cut_from_arena, plan_patches
from glimpse_env.retina.kernel_torch import (
    cut_by_torch,
    cut_by_triton,
    device_noise,
    kernel_name,
    pack,
)
from glimpse_env.retina.rules import cut_patches
from tests.children import run_command
from tests.glimpse_env.pyramids.test_arena import PYRAMIDS, SHAPES, looks, make_pyramids, parts

ROOT = Path(__file__).parents[3]


def on_device(device: str, pyramids=PYRAMIDS) -> PyramidArena:
    size = sum(pyramid.nbytes for pyramid in pyramids)
    flat = torch.empty(size, dtype=torch.uint8, device=device)
    arena = PyramidArena(len(pyramids), RESOLUTIONS, flat, patch_side=pyramids[0].patch_side)
    for index, pyramid in enumerate(pyramids):
        assert arena.add(index, pyramid)
    return arena


TENSORS = on_device("cpu")


@settings(max_examples=60, deadline=None)
@given(looks=looks)
def test_tensors_are_cut_as_arrays_are(looks):
    image, *rest = parts(looks)
    plain = cut_patches([PYRAMIDS[index] for index in image], *rest)
    cut = cut_from_arena(TENSORS, image, *rest)
    assert isinstance(cut, torch.Tensor) and cut.shape == plain.shape
    np.testing.assert_array_equal(cut.numpy(), plain)


def test_a_batch_larger_than_a_portion():
    generator = np.random.default_rng(0)
    image = generator.integers(0, len(PYRAMIDS), 100)
    rest = (
        generator.uniform(-1, 1, (100, 2)),
        np.arange(100) % 2 == 0,
        generator.integers(0, 2**64, 100, dtype=np.uint64),
    )
    plain = cut_patches([PYRAMIDS[index] for index in image], *rest)
    np.testing.assert_array_equal(cut_from_arena(TENSORS, image, *rest).numpy(), plain)


def test_images_come_back_from_tensors():
    for index, pyramid in enumerate(PYRAMIDS):
        for name, level in TENSORS.pyramid(index).levels.items():
            np.testing.assert_array_equal(level, pyramid.levels[name])


def compare_kernels(device: str, side: int = 96) -> None:
    """Triton's patches against torch's, on whatever Triton runs on."""
    pyramids = PYRAMIDS if side == 96 else make_pyramids(SHAPES, side=side)
    arena = on_device(device, pyramids)
    generator = np.random.default_rng(1)
    image = np.arange(12) % len(PYRAMIDS)
    fixation = generator.uniform(-1, 1, (12, 2))
    fixation[0] = -1
    key = generator.integers(0, 2**64, 12, dtype=np.uint64)
    plan = plan_patches(arena, image, fixation, np.arange(12) % 3 == 0, key, RESOLUTIONS)
    start, shape, origin, mirror, offset = plan
    rows = (start, *shape.T, *origin.T, mirror, offset)
    packed = pack(plan, torch.device(device))
    np.testing.assert_array_equal(packed.cpu().numpy(), [list(map(int, row)) for row in rows])
    table = device_noise(torch.device(device))
    expected = cut_by_torch(arena.flat, table, packed, side)
    assert expected.float().std() > 10
    for sizes in ({}, {"block": 256, "num_warps": 8}):
        assert torch.equal(cut_by_triton(arena.flat, table, packed, side, **sizes), expected)
    one = packed[:, :1].contiguous()  # a count of one is compiled as a constant
    assert torch.equal(cut_by_triton(arena.flat, table, one, side), expected[:1])
    assert len(cut_by_triton(arena.flat, table, packed[:, :0], side)) == 0
    plain = cut_patches(
        [pyramids[each] for each in image], fixation, np.arange(12) % 3 == 0, key, RESOLUTIONS
    )
    np.testing.assert_array_equal(expected.cpu().numpy().reshape(plain.shape), plain)


@pytest.mark.slow  # an interpreter computes each patch
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("side", [96, 65])
def test_tritons_kernel_interpreted(side):
    """Its arithmetic, without a GPU: Triton's interpreter runs the kernel on CPU tensors."""
    code = f"import {__name__} as own; own.compare_kernels('cpu', {side})"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = run_command([sys.executable, "-c", code], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_device_of_cuda_has_tritons_kernel_where_triton_is():
    assert kernel_name(torch.device("cpu")) == "torch"
    there = find_spec("triton") is not None
    assert kernel_name(torch.device("cuda:3")) == ("triton" if there else "torch")


def test_large_noise_offsets_and_starts_stay_whole_numbers():
    """Signed and unsigned columns together would be floats, which hold 53 bits."""
    large = 2**53 + 1
    plan = (
        np.array([large]),
        np.array([[3, 4]]),
        np.array([[-1, 2]]),
        np.array([True]),
        np.array([large], np.uint64),
    )
    assert pack(plan, torch.device("cpu"))[:, 0].tolist() == [large, 3, 4, -1, 2, 1, large]


@pytest.mark.cuda
@pytest.mark.parametrize("side", [64, 77, 96, 128, 224])
def test_tritons_kernel_on_cuda(side):
    compare_kernels("cuda", side)
