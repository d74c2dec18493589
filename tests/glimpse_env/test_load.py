"""Hours of use in seconds: nothing may pile up, whatever process an environment lives in.

`python -m tests.soak.run` is the long version.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import nn

from encoders.bank.feature_bank import FeatureBank
from encoders.threads import in_parts
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.glimpse_env.helpers import GridMeans, dogs, equal, make_bank, options
from tests.soak.process import MEASURABLE, Holdings, holdings, settled_threads
from tests.soak.run import growth, makers, soak, use

linux = pytest.mark.skipif(not MEASURABLE, reason="memory and descriptors are read from /proc")
KINDS = [f"{kind}, {form}" for kind in ("bank", "live", "pixels") for form in ("scalar", "vector")]


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    make_bank(folder, dogs("train", 64), side=2, mirrored=True, places=((0.0, 0.0), (0.5, 0.0)))
    return folder


def banked(folder: Path, **more: Any) -> dict[str, Any]:
    bank = FeatureBank.open(folder)
    return options("train", 64, observation="features", encoder=bank, **more)


def trimmed() -> Holdings:
    """Holdings once freed memory has gone back to the system, where a leak could hide in it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is None:
        pytest.skip("this C library cannot be told to give freed memory back")
    trim(0)
    return holdings()


# -- memory, descriptors, threads --------------------------------------------------------------


@linux
@pytest.mark.parametrize("form", ["numpy", "torch", "scalar"])
def test_memory_stays_as_it_is_while_steps_go_by(bank_folder, form):
    if form == "scalar":
        env, steps = DogsGlimpseEnv(**banked(bank_folder)), 4_000
    else:
        env, steps = DogsGlimpseVectorEnv(64, array=form, **banked(bank_folder)), 100_000
    soak(env, steps)  # the walk's orders, the allocator's pools
    before = trimmed()
    found = soak(env, steps)
    after = trimmed()
    assert after.anonymous - before.anonymous < 1.5e6, found
    assert after.descriptors == before.descriptors
    assert after.threads == before.threads
    assert found["environment_steps"] >= steps and found["episodes"] > steps // 5


@linux
def test_a_leak_would_be_seen(bank_folder):
    """The same measurement, of an environment that keeps its observations."""
    env = DogsGlimpseVectorEnv(64, **banked(bank_folder))
    soak(env, 20_000)
    kept, step = [], env.step

    def leak(action: Any) -> Any:
        kept.append(step(action))
        return kept[-1]

    before = trimmed()
    env.step = leak
    soak(env, 20_000)
    assert trimmed().anonymous - before.anonymous > 5e6


def test_growth_is_from_the_end_of_the_first_quarter():
    assert growth([1, 100, 100, 102]) == 2.0
    assert growth([50, 100, 100, 100]) == 0.0


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_making_and_closing_leaves_nothing_behind(bank_folder, kind):
    make = makers(bank_folder)[kind]
    for index in range(3):
        use(make, index)
    before = holdings()
    for index in range(20):
        use(make, index)
    after = holdings()
    assert after.descriptors == before.descriptors
    assert after.threads == before.threads
    assert abs(after.mappings - before.mappings) < 20, "one a cycle, were the bank's maps kept"


@linux
def test_an_environment_that_is_not_closed_lets_go_all_the_same(bank_folder):
    before = holdings()
    for _ in range(5):
        env = DogsGlimpseVectorEnv(2, **banked(bank_folder))
        env.reset()
    assert len(holdings().descriptors) - len(before.descriptors) == 3, "the three files of one bank"
    del env
    assert holdings().descriptors == before.descriptors


@linux
def test_a_construction_that_fails_leaves_nothing_open(bank_folder):
    with pytest.raises(ValueError, match="zoom|finer"):
        DogsGlimpseEnv(**banked(bank_folder, choose_scale=True))
    before = holdings()
    for _ in range(5):
        with pytest.raises(ValueError):
            DogsGlimpseEnv(**banked(bank_folder, choose_scale=True))
    assert holdings().descriptors == before.descriptors


# -- workers -----------------------------------------------------------------------------------


class Convolution(nn.Module):
    """An encoder large enough that torch computes it by several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 5)
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-1, 1, 2400).view_as(self.conv.weight))
            self.conv.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu().mean((2, 3))


class Maker:
    """Makes one of the environments; at module level, so that a spawned worker can import it."""

    def __init__(self, index: int, given: dict[str, Any]) -> None:
        self.index, self.given = index, given

    def __call__(self) -> DogsGlimpseEnv:
        return DogsGlimpseEnv(**self.given, shard=(self.index, 2))


@pytest.fixture
def two_threads():
    """Also a limit of two minutes, since workers that never answer are what may go wrong."""

    def late(*_: Any) -> None:
        raise TimeoutError("no answer in two minutes")

    limited = hasattr(signal, "SIGALRM")
    if limited:
        previous = signal.signal(signal.SIGALRM, late)
        signal.alarm(120)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    if limited:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("context", "source"),
    [
        *[("fork", source) for source in ("pixels", "live", "convolution", "bank")],
        ("spawn", "convolution"),
        # Each worker imports torch.
        *[pytest.param("spawn", s, marks=pytest.mark.slow) for s in ("pixels", "live", "bank")],
    ],
)
def test_workers_play_as_environments_of_one_process_do(bank_folder, two_threads, source, context):
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {context}")
    if source == "bank":
        given = banked(bank_folder, num_glimpses=2)
    elif source == "pixels":
        given = options("train", num_glimpses=2)
    else:
        module = GridMeans() if source == "live" else Convolution()
        given = options("train", num_glimpses=2, observation="both", encoder=module)
    # The parent has computed with threads, by torch and by ours, before it forks.
    Convolution()(torch.rand(16, 3, 96, 96))
    in_parts(lambda start, stop: None, 100)
    makers = [Maker(index, given) for index in range(2)]
    single = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    expected = [single.reset(seed=5)]
    single.action_space.seed(0)
    actions = [single.action_space.sample() for _ in range(7)]
    expected += [single.step(action) for action in actions]

    workers = AsyncVectorEnv(makers, context=context, autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        workers.reset_async(seed=5)
        found = [copy.deepcopy(workers.reset_wait(timeout=60))]
        for action in actions:
            workers.step_async(action)
            found.append(copy.deepcopy(workers.step_wait(timeout=60)))
    finally:
        workers.close(terminate=True)
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert equal(mine, theirs, tolerance=1e-4 if source == "convolution" else 1e-6)


@linux
def test_closed_workers_leave_no_descriptors_behind(bank_folder):
    given = banked(bank_folder)

    def cycle() -> None:
        env = AsyncVectorEnv([Maker(i, given) for i in range(2)], context="fork")
        env.reset(seed=0)
        env.close()

    cycle()
    before = holdings()
    for _ in range(3):
        cycle()
    after = holdings()
    assert after.descriptors == before.descriptors
    assert not multiprocessing.active_children()


def _num_threads(answers: Any) -> None:
    ran = []
    in_parts(lambda start, stop: ran.append(stop - start), 100)
    Convolution()(torch.rand(16, 3, 96, 96))
    answers.put((torch.get_num_threads(), ran))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_with_one_thread(two_threads):
    """With two it would wait for ever for OpenMP's second thread, which the parent has kept."""
    Convolution()(torch.rand(16, 3, 96, 96))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_num_threads, args=(answers,))
    child.start()
    try:
        assert answers.get(timeout=60) == (1, [100])
    finally:
        child.kill()
        child.join()
    assert torch.get_num_threads() == 2, "the parent's threads are its own affair"


def test_threads_of_ours_are_as_many_as_are_used(two_threads):
    in_parts(lambda start, stop: None, 100)
    before = settled_threads(0, seconds=0)
    for _ in range(50):
        in_parts(lambda start, stop: None, 100)
    assert settled_threads(before) <= before


# -- windows -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def display():
    """A screen that nobody sees; to the end of the session, since Xlib exits without a server."""
    pytest.importorskip("tkinter")
    if shutil.which("Xvfb") is None:
        pytest.skip("no Xvfb, which pretends to be a screen")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"],
        pass_fds=(writing,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as answer:
        number = answer.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}"
    server.terminate()
    server.wait(10)


@pytest.fixture
def screen(display, monkeypatch):
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.mark.parametrize("form", ["scalar", "vector"])
def test_a_window_shows_each_step_and_closes(screen, form):
    given = options("train", num_glimpses=1, render_mode="human")
    batch = form == "vector"
    env = DogsGlimpseVectorEnv(3, **given) if batch else DogsGlimpseEnv(**given)
    env.reset(seed=0)
    side = (960, 960) if batch else (480, 480)
    shown = set()
    for _ in range(4):
        ended = env.step(env.action_space.sample())[2]
        if not batch and ended:
            env.reset()
        image = env._window._label.image
        assert (image.width(), image.height()) == side
        shown.add(str(image))
    assert len(shown) == 4, "an image of its own for every step"
    copied = pickle.loads(pickle.dumps(env))
    assert copied._window is None and env._window._root is not None
    copied.render()
    assert copied._window._root is not None, "a copy opens a window of its own"
    copied.close()
    root = env._window._root
    env.close()
    assert env._window is None
    import tkinter

    with pytest.raises(tkinter.TclError):
        root.winfo_exists()
    env.reset()  # a closed environment may go on, in a new window
    env.close()


@linux
def test_windows_come_and_go_without_a_trace(screen):
    def cycle() -> None:
        env = DogsGlimpseEnv(**options("train", render_mode="human"))
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()

    cycle()
    before = holdings()
    for _ in range(10):
        cycle()
    after = holdings()
    assert after.descriptors == before.descriptors
    assert after.threads == before.threads


def test_a_user_may_close_the_window_while_episodes_go_on(screen):
    env = DogsGlimpseEnv(**options("train", render_mode="human"))
    env.reset(seed=0)
    env._window.close()
    env.step(env.action_space.sample())
    assert env._window._root is None
    env.close()


# -- the long version --------------------------------------------------------------------------


@linux
@pytest.mark.slow
def test_the_soak_writes_its_record(tmp_path, monkeypatch):
    from tests.soak import run

    out = tmp_path / "soak.json"
    monkeypatch.setattr(
        "sys.argv",
        ["run", "--steps", "20000", "--cycles", "2", "--num-envs", "16", "--out", str(out)],
    )
    start = time.monotonic()
    run.main()
    found = json.loads(out.read_text())
    assert found["soak"]["bank, vector, numpy"]["environment_steps"] == 20_000
    assert set(found["cycles"]) == set(KINDS)
    assert found["whole_process"]["descriptors"][0] <= found["whole_process"]["descriptors"][1]
    assert 0 < found["soak"]["bank, vector, torch"]["seconds"] < time.monotonic() - start
