"""Where images are kept changes no byte of what is seen, and is chosen by the room there is."""

from __future__ import annotations

import json
import logging
import os
import sys

import gymnasium
import numpy as np
import pytest
import torch

import glimpse_env  # noqa: F401
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids import storage
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.mapped import (
    MappedPyramids,
    PyramidsIncompleteError,
    PyramidsMismatchError,
    open_mapped,
)
from glimpse_env.pyramids.pyramid import RESOLUTIONS, build_pyramid
from glimpse_env.pyramids.storage import available_memory, choose_storage, usual_bytes
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.children import run_command
from tests.glimpse_env.helpers import dogs, make_bank

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def dataset():
    return SyntheticDogs("train", num_images=12)


@pytest.fixture
def folder(tmp_path, dataset):
    mapped = MappedPyramids.create(tmp_path / "pyramids", dataset, chunk=5)
    assert sorted(mapped.build(dataset, workers=2)) == [2, 5, 5]
    return mapped.folder


def play(dataset, num_envs=5, steps=12, **options):
    env = gymnasium.make_vec(
        "SyntheticDogsGlimpse-v0",
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        dataset=dataset,
        observation="pixels",
        encoder=None,
        num_glimpses=2,
        **options,
    )
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=3)[0]]
    for _ in range(steps):
        action = {"fixation": rng.uniform(-1, 1, (num_envs, 2)), "label": np.zeros(num_envs, int)}
        seen.append(env.step(action)[0])
    env.close()
    return seen


def same(first, second):
    for one, other in zip(first, second, strict=True):
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])


@pytest.mark.parametrize("resolutions", [RESOLUTIONS, ("high", "low"), ("medium",)])
def test_no_byte_depends_on_where_images_are_kept(dataset, folder, resolutions, monkeypatch):
    plain = play(dataset, storage="demand", resolutions=resolutions)
    same(play(dataset, storage="host", resolutions=resolutions), plain)
    same(play(dataset, storage=folder, resolutions=resolutions), plain)
    same(play(dataset, storage="auto", resolutions=resolutions), plain)
    # Room for about half of them: some are cut by the fast path, some by the plain one.
    half = usual_bytes(len(dataset), RESOLUTIONS) // 2
    monkeypatch.setattr(storage, "available_memory", lambda: half)
    same(play(dataset, storage="host", resolutions=resolutions), plain)


def test_images_kept_as_tensors_look_the_same(dataset, monkeypatch):
    """What `device` does, on the CPU: the arena's bytes are a tensor."""
    plain = play(dataset, storage="demand")

    def tensors(cls, count, resolutions, capacity, device=None, patch_side=96):
        flat = torch.empty(capacity, dtype=torch.uint8)
        return cls(count, resolutions, flat, patch_side=patch_side)

    monkeypatch.setattr(PyramidArena, "in_memory", classmethod(tensors))
    same(play(dataset, storage="host"), plain)
    half = usual_bytes(len(dataset), RESOLUTIONS) // 2
    monkeypatch.setattr(storage, "available_memory", lambda: half)
    same(play(dataset, storage="host"), plain)


def test_a_kept_image_is_decoded_once(dataset, monkeypatch):
    asked = []
    image = dataset.image
    monkeypatch.setattr(dataset, "image", lambda index: asked.append(index) or image(index))
    play(dataset, steps=30, storage="host")
    assert sorted(asked) == sorted(set(asked))
    asked.clear()
    play(dataset, steps=30, storage="demand")
    assert len(asked) > len(set(asked))


def test_the_choice_follows_the_room(monkeypatch):
    facts = {"count": 20_580, "resolutions": RESOLUTIONS, "num_envs": 64}
    needed = usual_bytes(20_580, RESOLUTIONS)
    monkeypatch.setattr(storage, "available_memory", lambda: 3 * needed)
    choice = choose_storage("auto", **facts, device=CPU)
    assert (choice.kind, choice.capacity) == ("host", needed)
    # A machine of 8 GB keeps half of it and decodes the rest when it comes.
    monkeypatch.setattr(storage, "available_memory", lambda: 8_000_000_000)
    choice = choose_storage("auto", **facts, device=CPU)
    assert (choice.kind, choice.capacity) == ("host", 4_000_000_000)
    assert "glimpse pyramids" in choice.reason
    assert choose_storage("demand", **facts, device=CPU).capacity == 0
    alone = choose_storage("auto", **facts | {"num_envs": 1}, device=CPU)
    assert alone.capacity == 2**26
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * needed, 4 * needed))
    assert choose_storage("auto", **facts, device=GPU).kind == "device"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (needed, 4 * needed))
    assert choose_storage("auto", **facts, device=GPU).kind == "host"
    partly = choose_storage("device", **facts, device=GPU)
    assert (partly.kind, partly.capacity) == ("device", needed // 2)
    with pytest.raises(ValueError, match="storage='host'"):
        choose_storage("device", **facts, device=CPU)


def test_the_usual_size_is_near_the_real_one(dogs_dir):
    from glimpse_env.datasets.stanford_dogs import StanfordDogs

    real_dogs = StanfordDogs(dogs_dir, "val", allow_missing=True)
    indices = range(0, len(real_dogs), max(1, len(real_dogs) // 40))
    real = sum(build_pyramid(real_dogs.image(index)).nbytes for index in indices)
    assert 0.9 * real < usual_bytes(len(indices), RESOLUTIONS) < 1.3 * real


def test_the_choice_is_said(dataset, caplog):
    with caplog.at_level(logging.INFO, "glimpse_env"):
        play(dataset, steps=1)
    assert any("12 images need about" in record.message for record in caplog.records)


def test_memory_of_the_machine(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  1000 kB\n")
    assert storage._from_meminfo(str(tmp_path / "meminfo")) == 1_024_000
    assert storage._from_meminfo(str(tmp_path / "absent")) is None
    assert available_memory() > 2**26


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_control_groups(tmp_path, version):
    """The tightest limit on the way from the process's own group to the root."""
    if version == 2:
        line, base, limit, used = "0::/job/step", tmp_path, "memory.max", "memory.current"
    else:
        line, base = "7:cpu,memory:/job/step", tmp_path / "memory"
        limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
    own = tmp_path / "cgroup"
    own.write_text(f"3:cpuset:/elsewhere\n{line}\n")

    def left():
        return storage._from_cgroup(str(own), str(tmp_path))

    def write(folder, most, taken):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / used).write_text(f"{taken}\n")

    assert left() is None  # no such group here
    write(base / "job" / "step", "max", 10)
    assert left() is None
    write(base / "job", 1000, 300)  # what a scheduler sets
    assert left() == 700
    write(base / "job" / "step", 400, 350)
    assert left() == 50
    write(base / "job" / "step", 400, 450)
    assert left() == 0
    write(base, 30, 10)  # all that a container sees of itself
    (base / "job" / "step" / limit).unlink()
    assert left() == 20
    own.write_text("0::/\n" if version == 2 else "7:memory:/\n")
    assert left() == 20
    assert storage._from_cgroup(str(tmp_path / "absent"), str(tmp_path)) is None


def test_memory_is_not_given_out_twice(monkeypatch):
    monkeypatch.setattr(storage, "available_memory", lambda: 10**9)
    facts = {"count": 10**6, "resolutions": RESOLUTIONS, "num_envs": 8, "device": CPU}
    before = PyramidArena.promised()
    first = choose_storage("host", **facts)
    arena = PyramidArena.in_memory(10, RESOLUTIONS, first.capacity)
    second = choose_storage("host", **facts)
    assert first.capacity == (10**9 - before) // 2
    assert second.capacity == pytest.approx((10**9 - before - first.capacity) / 2, abs=2)
    arena.add(0, build_pyramid(np.zeros((100, 100, 3), np.uint8)))
    assert PyramidArena.promised() == before + first.capacity - arena.used


def test_one_environment_hoards_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 10**9, 80 * 10**9))
    facts = {"count": 20_580, "resolutions": RESOLUTIONS, "device": GPU}
    assert choose_storage("auto", num_envs=1, **facts).capacity == 2**26
    assert choose_storage("auto", num_envs=8, **facts).capacity > 10**10


@pytest.mark.parametrize("bad", [3, None])
def test_what_is_no_storage_is_refused(dataset, bad):
    with pytest.raises(TypeError, match="storage is one of"):
        play(dataset, storage=bad)


# --- Mapped files ---


def test_a_folder_goes_on_where_it_was(tmp_path, dataset):
    mapped = MappedPyramids.create(tmp_path / "p", dataset, chunk=4)
    building = mapped.build(dataset, workers=1)
    assert next(building) == 4
    building.close()
    with pytest.raises(PyramidsIncompleteError, match="2 of 3 chunks"):
        open_mapped(mapped.folder, dataset, RESOLUTIONS)
    again = MappedPyramids.create(tmp_path / "p", dataset)
    assert again.done.tolist() == [1, 0, 0]
    assert list(again.build(dataset, workers=1)) == [4, 4]
    arena = open_mapped(mapped.folder, dataset, RESOLUTIONS)
    for index in range(len(dataset)):
        for name, level in build_pyramid(dataset.image(index)).levels.items():
            np.testing.assert_array_equal(arena.pyramid(index).levels[name], level)


def test_the_wrong_folder_is_told(tmp_path, dataset, folder):
    other = SyntheticDogs("val", num_images=12)
    with pytest.raises(PyramidsMismatchError, match="'val'"):
        open_mapped(folder, other, RESOLUTIONS)
    with pytest.raises(PyramidsMismatchError, match="another folder"):
        MappedPyramids.create(folder, other)
    with pytest.raises(PyramidsMismatchError, match="holds the levels low, medium, high"):
        MappedPyramids.create(folder, dataset, ("low",))
    with pytest.raises(FileNotFoundError, match="glimpse pyramids"):
        open_mapped(tmp_path, dataset, RESOLUTIONS)


@pytest.mark.parametrize("name", ["levels.u8", "sizes.i32", "done.u8"])
def test_damaged_files_are_told(folder, dataset, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(PyramidsMismatchError, match=f"{name} should have"):
        open_mapped(folder, dataset, RESOLUTIONS)
    (folder / name).unlink()
    with pytest.raises(PyramidsMismatchError, match="is not there"):
        open_mapped(folder, dataset, RESOLUTIONS)


def test_sizes_that_do_not_add_up_are_told(folder, dataset):
    sizes = np.fromfile(folder / "sizes.i32", np.int32)
    sizes[0] *= 3
    sizes.tofile(folder / "sizes.i32")
    with pytest.raises(PyramidsMismatchError, match="add up"):
        open_mapped(folder, dataset, RESOLUTIONS)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9},
        {"chunk": 0},
        {"num_images": -1},
        {"resolutions": ["huge"]},
        {"num_bytes": 1.5},
        {"new": 1},
    ],
)
def test_a_description_that_makes_no_sense_is_told(folder, dataset, change):
    path = folder / "pyramids.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PyramidsMismatchError, match="glimpse pyramids"):
        open_mapped(folder, dataset, RESOLUTIONS)


def test_an_environment_on_a_bank_reads_no_images(tmp_path, monkeypatch):
    images = dogs()
    seen = []
    image = type(images).image
    bank = make_bank(tmp_path, images)
    monkeypatch.setattr(type(images), "image", lambda *at: seen.append(at) or image(*at))
    env = DogsGlimpseVectorEnv(2, dataset=images, encoder=bank)
    env.reset(seed=0)
    assert not seen


def test_a_limit_of_addresses_counts_as_memory(tmp_path, monkeypatch) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "statm").write_text("262144 1 1 1 0 131072 0\n")
    page = os.sysconf("SC_PAGE_SIZE")
    limits = {"RLIMIT_AS": 262144 * page + 2**31, "RLIMIT_DATA": resource.RLIM_INFINITY}
    monkeypatch.setattr(
        resource,
        "getrlimit",
        lambda kind: (limits["RLIMIT_AS" if kind == resource.RLIMIT_AS else "RLIMIT_DATA"], 0),
    )

    def left() -> int | None:
        return storage._from_limits(str(tmp_path / "statm"))

    assert left() == 2**31 - storage._SPARE
    limits["RLIMIT_DATA"] = 131072 * page + 2**30
    assert left() == 2**30 - storage._SPARE
    assert available_memory() < 2**31
    limits |= {"RLIMIT_AS": 1, "RLIMIT_DATA": resource.RLIM_INFINITY}
    assert left() == 0
    limits["RLIMIT_AS"] = resource.RLIM_INFINITY
    assert left() is None and storage._from_limits(str(tmp_path / "absent")) is None


LIMITED = """
import resource
import numpy as np
import gymnasium, glimpse_env
import torch, glimpse_env.vector_env
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
SPACE
class Many:
    class_names, split, training, num_missing, fingerprint = ("a",), "train", True, 0, "x"
    labels = np.zeros(100_000, np.int64)  # images that need some 80 GB
    def __len__(self):
        return len(self.labels)
    def image(self, index):
        return np.zeros((384, 512, 3), np.uint8)
    def boxes(self, index):
        return np.zeros((0, 4), np.float32)
    def name(self, index):
        return str(index)
envs = gymnasium.make_vec(
    "DogsGlimpse-v0", num_envs=4, vectorization_mode="vector_entry_point",
    dataset=Many(), observation="pixels", storage=STORAGE,
)
envs.reset(seed=0)
print("played")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("asked", ["auto", "host"])
def test_an_environment_plays_under_a_limit_of_addresses(asked: str) -> None:
    """`ulimit -v` (h_vmem of SGE) allows less than the machine has free."""
    space = "resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30,) * 2)"
    code = LIMITED.replace("SPACE", space).replace("STORAGE", repr(asked))
    # Every thread takes addresses: of many cores the stacks and pools alone would be 3 GiB.
    few = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "4"}
    found = run_command([sys.executable, "-c", code], env=os.environ | few)
    assert found.stdout == "played\n", found.stderr


def test_memory_that_the_system_refuses_is_done_without(monkeypatch) -> None:
    real, asked = np.empty, []

    def refuse(size, *more):
        asked.append(size)
        if size > 2**22:
            raise MemoryError
        return real(size, *more)

    monkeypatch.setattr(np, "empty", refuse)
    arena = PyramidArena.in_memory(3, ("low",), 2**24)
    assert arena.capacity == 2**22 and asked[0] == 2**24
