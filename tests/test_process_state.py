"""Whatever a program around ours has set for itself, an episode is the same or ends in a sentence.

docs/reliability.md has the table of what is tried here.
"""

from __future__ import annotations

import asyncio
import decimal
import gc
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.children import run_command
from tests.episode import make, play

ROOT = Path(__file__).resolve().parents[1]
Episode = tuple[str, np.ndarray]


@pytest.fixture(scope="module")
def usual() -> Episode:
    return play()


def check(found: Episode, usual: Episode, tolerance: float = 1e-5) -> None:
    """Pixels, images and rewards to the byte, features to the arithmetic."""
    assert found[0] == usual[0]
    assert found[1].dtype == np.float32
    np.testing.assert_allclose(found[1], usual[1], rtol=1e-5, atol=tolerance)


# -- what can be set and set back within a process -----------------------------------------------


@contextmanager
def restored(change: Callable[[], object], back: Callable[[], object]) -> Iterator[None]:
    change()
    try:
        yield
    finally:
        back()


def default_dtype(dtype: torch.dtype) -> Callable[[Path], object]:
    return lambda _: restored(
        lambda: torch.set_default_dtype(dtype), lambda: torch.set_default_dtype(torch.float32)
    )


@contextmanager
def default_device(_: Path) -> Iterator[None]:
    with torch.device("meta"):
        yield


@contextmanager
def deterministic(_: Path) -> Iterator[None]:
    with restored(
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(False),
    ):
        yield


@contextmanager
def threads(_: Path) -> Iterator[None]:
    before = torch.get_num_threads()
    with restored(lambda: torch.set_num_threads(3), lambda: torch.set_num_threads(before)):
        yield


@contextmanager
def denormals(_: Path) -> Iterator[None]:
    with restored(lambda: torch.set_flush_denormal(True), lambda: torch.set_flush_denormal(False)):
        yield


@contextmanager
def precision(_: Path) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    with restored(
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: torch.set_float32_matmul_precision(before),
    ):
        yield


@contextmanager
def numpy_errors(_: Path) -> Iterator[None]:
    with np.errstate(all="raise"), np.printoptions(precision=1, threshold=2, legacy="1.13"):
        yield


@contextmanager
def warnings_as_errors(_: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def folder_gone(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    try:
        (tmp_path / "gone").rmdir()
    except OSError:
        os.chdir(before)
        pytest.skip("this system keeps a folder that is in use")
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def mask(_: Path) -> Iterator[None]:
    before = os.umask(0o777)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def alarms(_: Path) -> Iterator[None]:
    if not hasattr(signal, "setitimer"):
        pytest.skip("this system has no interval timers")
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def commas(_: Path) -> Iterator[None]:
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR", "ru_RU.UTF-8"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        break
    else:
        pytest.skip("no locale with decimal commas is installed")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@contextmanager
def no_streams(_: Path) -> Iterator[None]:
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


@contextmanager
def traced(_: Path) -> Iterator[None]:
    before = sys.gettrace(), sys.getprofile()
    sys.settrace(lambda *_: None)
    sys.setprofile(lambda *_: None)
    try:
        yield
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])


@contextmanager
def shallow(_: Path) -> Iterator[None]:
    before, depth, frame = sys.getrecursionlimit(), 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    sys.setrecursionlimit(depth + 120)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@contextmanager
def no_collector(_: Path) -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def precise_decimals(_: Path) -> Iterator[None]:
    with decimal.localcontext() as context:
        context.prec = 1
        context.traps[decimal.Inexact] = True
        yield


@contextmanager
def logs_raise(_: Path) -> Iterator[None]:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.getMessage()

    handler, root = Raising(), logging.getLogger()
    before = root.level
    root.addHandler(handler), root.setLevel(1)
    try:
        yield
    finally:
        root.removeHandler(handler), root.setLevel(before)


@contextmanager
def onednn_off(_: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of another device
        with torch.backends.mkldnn.flags(enabled=False):
            yield


STATES: dict[str, tuple[Callable, float]] = {
    "default dtype float64": (default_dtype(torch.float64), 1e-5),
    "default dtype bfloat16": (default_dtype(torch.bfloat16), 1e-5),
    "default dtype float16": (default_dtype(torch.float16), 1e-5),
    "default device meta": (default_device, 1e-5),
    "autocast": (lambda _: torch.autocast("cpu", torch.bfloat16), 1e-5),
    "no gradients": (lambda _: torch.no_grad(), 1e-5),
    "inference mode": (lambda _: torch.inference_mode(), 1e-5),
    "anomaly mode": (lambda _: torch.autograd.set_detect_anomaly(True), 1e-5),
    "deterministic algorithms": (deterministic, 1e-4),
    "threads": (threads, 1e-4),
    "denormals flushed": (denormals, 1e-4),
    "matmul precision": (precision, 1e-4),
    "oneDNN off": (onednn_off, 1e-3),
    "numpy's errors and printing": (numpy_errors, 1e-5),
    "warnings as errors": (warnings_as_errors, 1e-5),
    "current folder gone": (folder_gone, 1e-5),
    "umask": (mask, 1e-5),
    "signals that interrupt": (alarms, 1e-5),
    "decimal commas": (commas, 1e-5),
    "no standard streams": (no_streams, 1e-5),
    "traced and profiled": (traced, 1e-5),
    "little recursion": (shallow, 1e-5),
    "no garbage collector": (no_collector, 1e-5),
    "decimals trapped": (precise_decimals, 1e-5),
    "every record logged": (logs_raise, 1e-5),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("when", ["before it is made", "after"])
def test_a_state_of_the_process_changes_nothing(
    name: str, when: str, usual: Episode, tmp_path: Path
) -> None:
    state, tolerance = STATES[name]
    made = make() if when == "after" else None
    # Features are shared by what computes alike: an encoder of another test must not serve.
    from glimpse_env.observers import live

    if when != "after":
        live._live_encoders.clear()
    with state(tmp_path):
        found = play(made)
    check(found, usual, tolerance)


def test_the_state_is_as_it_was_afterwards(usual: Episode) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_rng_state().tolist(),
            random.getstate(),
            str(np.random.get_state()),
            str(np.geterr()),
            os.getcwd(),
            sys.getrecursionlimit(),
            dict(os.environ),
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
            warnings.filters[:],
            locale.setlocale(locale.LC_ALL),
            str(np.get_printoptions()),
            sys.gettrace(),
        )

    before = state()
    play()
    assert state() == before


@pytest.mark.parametrize("seed", [0, 1])
def test_the_generators_of_others_change_nothing(seed: int, usual: Episode) -> None:
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    check(play(), usual)


def test_a_thread_and_an_event_loop_may_play(usual: Episode) -> None:
    found: list[Episode] = []
    thread = threading.Thread(target=lambda: found.append(play()))
    thread.start()
    thread.join()

    async def within() -> Episode:
        return play()

    found.append(asyncio.run(within()))
    for each in found:
        check(each, usual)


# -- what must be set before Python begins, or cannot be set back ----------------------------------

NO_PASSWD = """
import os, pwd
def absent(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = absent
"""
LIMIT = "import resource; resource.setrlimit(resource.{0}, ({1}, {1}))\n"

PROCESSES: dict[str, tuple[str, dict[str, str | None], float]] = {
    "no JIT": ("", {"NUMBA_DISABLE_JIT": "1"}, 1e-4),
    "kernels checked": ("", {"NUMBA_BOUNDSCHECK": "1"}, 1e-4),
    "no numba's cache": ("", {"NUMBA_CACHE_DIR": "/proc/none"}, 1e-4),
    "numba that does not load": (
        "import sys; sys.modules['numba.core'] = None",
        {},
        1e-4,
    ),
    "no home and no name": (
        NO_PASSWD,
        {"HOME": None, "USER": None, "LOGNAME": None, "XDG_CACHE_HOME": None, "GLIMPSE_DATA": None},
        1e-4,
    ),
    "a home that is none": ("", {"HOME": "/proc/none", "XDG_CACHE_HOME": None}, 1e-4),
    "a cache that is relative": ("", {"XDG_CACHE_HOME": "here/and/there"}, 1e-4),
    "an ASCII locale": (
        "",
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        1e-4,
    ),
    "no folder for temporary files": ("", {"TMPDIR": "/nowhere"}, 1e-4),
    "a hash seed": ("", {"PYTHONHASHSEED": "77"}, 1e-4),
    "a backend of matplotlib": ("", {"MPLBACKEND": "nonsense", "MPLCONFIGDIR": "/proc/no"}, 1e-4),
    "no assertions, no docstrings": ("", {"PYTHONOPTIMIZE": "2"}, 1e-4),
    "development mode": ("", {"PYTHONDEVMODE": "1"}, 1e-4),
    "a wrong number of threads": ("", {"OMP_NUM_THREADS": "0"}, 1e-4),
    "no CUDA to be seen": ("", {"CUDA_VISIBLE_DEVICES": "-1"}, 1e-4),
    "closed streams": ("import os\nfor i in range(3): os.close(i)", {}, 1e-4),
    "few open files": (LIMIT.format("RLIMIT_NOFILE", 48), {}, 1e-4),
    "start method spawn": (
        "import multiprocessing; multiprocessing.set_start_method('spawn')",
        {},
        1e-4,
    ),
    "Ctrl-C ignored": ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)", {}, 1e-4),
}


def run(early: str, changes: dict[str, str | None], out: Path) -> subprocess.CompletedProcess[str]:
    """Play in a process of its own, after some code and in another environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    code = f"{early}\nfrom tests.episode import main\nmain({str(out)!r})"
    return run_command([sys.executable, "-c", code], cwd=ROOT, env=environment)


@pytest.mark.slow  # each is a process that imports torch
@pytest.mark.skipif(sys.platform != "linux", reason="the states are those of Linux")
@pytest.mark.parametrize("name", PROCESSES)
def test_a_state_that_a_process_begins_in_changes_nothing(
    name: str, usual: Episode, tmp_path: Path
) -> None:
    early, changes, tolerance = PROCESSES[name]
    found = run(early, changes, tmp_path / "x.npy")
    assert found.returncode == 0, found.stderr
    played = (tmp_path / "x.txt").read_text(), np.load(tmp_path / "x.npy")
    check(played, usual, tolerance)


KERNEL = """
import numpy as np
from glimpse_env.retina.kernel_numba import cut
def one():
    flat = np.arange(3 * 120 * 120, dtype=np.int64).astype(np.uint8)
    out = np.zeros((1, 96, 96, 3), np.uint8)
    place = np.array([0]), np.array([[120, 120]]), np.array([[5, 7]]), np.array([False])
    cut(flat, np.zeros(10**6, np.uint8), *place, np.array([0]), out)
    assert (out[0] == flat.reshape(120, 120, 3)[5:101, 7:103]).all()
one()
print("cut")
"""


def kernel(cache: Path, early: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    return run_command([sys.executable, "-c", early + KERNEL], cwd=ROOT, env=environment)


@pytest.fixture(scope="module")
def kernels_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("numba")
    cache = tmp_path_factory.mktemp("numba")
    assert kernel(cache).stdout == "cut\n" and list(cache.rglob("*.nbi"))
    return cache


@pytest.mark.slow  # kernels are compiled in processes of their own
@pytest.mark.parametrize(
    ("suffix", "content"), [("nbi", b"\x80\x05rubbish"), ("nbc", b""), ("nbc", None)]
)
def test_a_damaged_cache_of_kernels_is_made_anew(
    kernels_kept: Path, suffix: str, content: bytes | None
) -> None:
    for path in kernels_kept.rglob(f"*.{suffix}"):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    found = kernel(kernels_kept)
    assert found.stdout == "cut\n", found.stderr


@pytest.mark.slow  # kernels are compiled
@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_a_full_disk_costs_the_cache_and_not_the_episode(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    early = (
        "import resource, signal\n"
        "import glimpse_env.retina.kernel_numba\n"  # what others import may need a file
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    )
    found = kernel(tmp_path / "cache", early)
    assert found.returncode == 0 and found.stdout == "cut\n", found.stderr


@pytest.mark.parametrize("locale_of", [{"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "latin-1"}])
def test_no_letter_of_a_table_ends_a_command(locale_of: dict[str, str]) -> None:
    code = (
        "import sys; from experiments import cli\n"
        "def show(config): print('71.2 \\u00b1 0.3 \\u2013 \\u03bb \\u00d7')\n"
        "cli._parse = lambda *given: (show, None)\n"
        "sys.exit(cli.main(['report']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | locale_of
    environment |= {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    found = run_command([sys.executable, "-c", code], env=environment, encoding="latin-1")
    assert found.returncode == 0 and found.stdout.startswith("71.2 "), found.stderr


def test_no_home_is_one_sentence_where_one_is_needed(tmp_path: Path) -> None:
    code = NO_PASSWD + (
        "import sys, os\n"
        "for name in ('HOME', 'XDG_CACHE_HOME', 'GLIMPSE_DATA'): os.environ.pop(name, None)\n"
        "from experiments.cli import main\n"
        "sys.exit(main(['download', 'weights']))"
    )
    found = run_command(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert found.returncode == 1 and len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert "no home folder" in found.stderr and "GLIMPSE_DATA" in found.stderr
    assert not list(tmp_path.iterdir())
