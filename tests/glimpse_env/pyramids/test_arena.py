"""The arena and what is cut from it, against the plain retina byte for byte."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from glimpse_env.pyramids.arena import PyramidArena, pyramid_bytes
from glimpse_env.pyramids.pyramid import RESOLUTIONS, build_pyramid
from glimpse_env.retina import batch as batch_retina
from glimpse_env.retina.batch import cut_from_arena
from glimpse_env.retina.rules import cut_patches
from tests.children import run_command
from tests.glimpse_env.retina.test_rules import random_image

ROOT = Path(__file__).parents[3]
SHAPES = [(96, 96), (30, 200), (200, 31), (1, 3), (101, 77), (384, 500)]


def make_pyramids(shapes, resolutions=RESOLUTIONS, side=96):
    return [
        build_pyramid(random_image(seed, *shape), resolutions, side)
        for seed, shape in enumerate(shapes)
    ]


def fill(pyramids, resolutions=RESOLUTIONS, capacity=None):
    capacity = sum(pyramid.nbytes for pyramid in pyramids) if capacity is None else capacity
    side = pyramids[0].patch_side
    arena = PyramidArena.in_memory(len(pyramids), resolutions, capacity, patch_side=side)
    for index, pyramid in enumerate(pyramids):
        arena.add(index, pyramid)
    return arena


PYRAMIDS = make_pyramids(SHAPES)
ARENA = fill(PYRAMIDS)

coordinates = st.floats(-1, 1, width=32)
looks = st.lists(
    st.tuples(
        st.integers(0, len(SHAPES) - 1),
        coordinates,
        coordinates,
        st.booleans(),
        st.integers(0, 2**64 - 1),
    ),
    max_size=9,
)


def parts(looks):
    return (
        np.array([look[0] for look in looks], np.int64),
        np.array([look[1:3] for look in looks], np.float32).reshape(-1, 2),
        np.array([look[3] for look in looks], bool),
        np.array([look[4] for look in looks], np.uint64),
    )


@settings(max_examples=150, deadline=None)
@given(looks=looks, resolutions=st.permutations(RESOLUTIONS), count=st.integers(1, 3))
def test_the_kernel_cuts_what_the_plain_retina_cuts(looks, resolutions, count):
    names = tuple(resolutions[:count])
    image, *rest = parts(looks)
    plain = cut_patches([PYRAMIDS[index] for index in image], *rest, names)
    np.testing.assert_array_equal(cut_from_arena(ARENA, image, *rest, names), plain)


@pytest.mark.parametrize("side", [64, 77, 128, 224])
def test_patches_of_any_side_are_cut_the_same_by_every_path(side, monkeypatch):
    pyramids = make_pyramids(SHAPES, side=side)
    arena, generator = fill(pyramids), np.random.default_rng(side)
    image = np.arange(24) % len(SHAPES)
    fixation = generator.uniform(-1.1, 1.1, (24, 2))
    rest = (fixation, np.arange(24) % 2 == 0, generator.integers(0, 2**64, 24, dtype=np.uint64))
    plain = cut_patches([pyramids[index] for index in image], *rest)
    assert plain.shape == (24, 3, side, side, 3)
    np.testing.assert_array_equal(cut_from_arena(arena, image, *rest), plain)
    tensors = PyramidArena(
        len(SHAPES), RESOLUTIONS, torch.empty(arena.capacity, dtype=torch.uint8), patch_side=side
    )
    for index, pyramid in enumerate(pyramids):
        assert tensors.add(index, pyramid)
    np.testing.assert_array_equal(np.asarray(cut_from_arena(tensors, image, *rest)), plain)
    monkeypatch.setattr(batch_retina, "kernels_available", lambda: False)
    np.testing.assert_array_equal(cut_from_arena(arena, image, *rest), plain)
    assert pickle.loads(pickle.dumps(arena)).patch_side == side


def test_a_pyramid_of_another_side_is_refused():
    arena = PyramidArena.in_memory(1, RESOLUTIONS, 10**6, patch_side=128)
    with pytest.raises(ValueError, match="patches of 96 pixels .* patches of 128"):
        arena.add(0, PYRAMIDS[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_a_big_batch(threads):
    generator = np.random.default_rng(0)
    count = 150
    image = generator.integers(0, len(SHAPES), count)
    rest = (
        generator.uniform(-1.2, 1.2, (count, 2)),
        generator.random(count) < 0.5,
        generator.integers(0, 2**64, count, dtype=np.uint64),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fast = cut_from_arena(ARENA, image, *rest)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(fast, cut_patches([PYRAMIDS[i] for i in image], *rest))


def test_without_numba_the_plain_path_cuts(monkeypatch):
    monkeypatch.setattr(batch_retina, "kernels_available", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "glimpse_env.retina.kernel_numba", None)
    image, *rest = parts([(1, 0.3, -1.0, True, 7), (4, -1.0, 1.0, False, 8)])
    plain = cut_patches([PYRAMIDS[index] for index in image], *rest)
    np.testing.assert_array_equal(cut_from_arena(ARENA, image, *rest), plain)


def test_out_is_written():
    image, *rest = parts([(1, 0.3, -1.0, True, 7)])
    out = np.zeros((1, 3, 96, 96, 3), np.uint8)
    assert cut_from_arena(ARENA, image, *rest, out=out) is out and out.any()


def test_what_was_put_in_comes_out():
    for index, pyramid in enumerate(PYRAMIDS):
        found = ARENA.pyramid(index)
        assert found.image_shape == pyramid.image_shape
        for name, level in pyramid.levels.items():
            np.testing.assert_array_equal(found.levels[name], level)
    assert ARENA.num_kept == len(ARENA) == len(PYRAMIDS)
    assert ARENA.used == ARENA.capacity


def test_an_arena_takes_what_fits_and_no_more():
    sizes = [pyramid.nbytes for pyramid in PYRAMIDS]
    arena = PyramidArena.in_memory(len(PYRAMIDS), RESOLUTIONS, sizes[1] + sizes[2] - 1)
    assert arena.add(1, PYRAMIDS[1]) and not arena.add(2, PYRAMIDS[2])
    assert arena.add(1, PYRAMIDS[1]) and arena.used == sizes[1]  # twice is once
    assert arena.holds(np.array([1, 2])).tolist() == [True, False]
    with pytest.raises(KeyError, match="image 2"):
        arena.pyramid(2)
    image, *rest = parts([(2, 0.0, 0.0, False, 1)])
    with pytest.raises(KeyError, match="not in the arena"):
        cut_from_arena(arena, image, *rest)


def test_levels_that_are_not_kept_are_named():
    arena = fill(PYRAMIDS, ("low",))
    assert arena.used == sum(pyramid.levels["low"].nbytes for pyramid in PYRAMIDS)
    image, *rest = parts([(0, 0.0, 0.0, False, 1)])
    with pytest.raises(KeyError, match="'high' is not kept"):
        cut_from_arena(arena, image, *rest, ("low", "high"))


def test_unequal_batches_are_refused():
    image, *rest = parts([(0, 0.0, 0.0, False, 1), (1, 0.0, 0.0, False, 1)])
    with pytest.raises(ValueError, match="1 images, 2 fixations"):
        cut_from_arena(ARENA, image[:1], *rest)


def test_bytes_are_known_beforehand():
    expected = [pyramid.nbytes for pyramid in PYRAMIDS]
    assert pyramid_bytes(np.array(SHAPES), RESOLUTIONS).tolist() == expected


@pytest.mark.slow  # a process of its own imports torch and numba
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
@pytest.mark.parametrize("mirror", [False, True])
def test_no_byte_beyond_the_arena_is_read(mirror):
    """The page behind it may not be read; a patch at the last corner of the last level ends there.

    In a process of its own, which a fault would end.
    """
    code = f"""
import ctypes, mmap
import numpy as np
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.retina.batch import cut_from_arena
from glimpse_env.pyramids.pyramid import build_pyramid
pyramids = [build_pyramid(np.full((96, 96, 3), 9, np.uint8), ("low",)) for _ in range(4)]
size = sum(p.nbytes for p in pyramids)
assert size % mmap.PAGESIZE == 0
room = mmap.mmap(-1, size + mmap.PAGESIZE)
start = ctypes.addressof(ctypes.c_char.from_buffer(room))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), mmap.PAGESIZE, 0) == 0
arena = PyramidArena(4, ("low",), np.frombuffer(room, np.uint8, size))
for index, pyramid in enumerate(pyramids):
    assert arena.add(index, pyramid)
for x in np.linspace(-1, 1, 41):
    look, key = np.array([[-x if {mirror} else x, 1.0]]), np.array([5], np.uint64)
    cut_from_arena(arena, np.array([3]), look, np.array([{mirror}]), key, ("low",))
"""
    done = run_command([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-1000:]
