"""What the packages take from outside: declared distributions, and no network on import."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from textwrap import dedent

import pytest

from tests.children import run_command

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest itself brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]
OURS = {name.split(".")[0] for name in PACKAGES}
# These come with torch and numba, each in the one release that fits, and are parts of them.
PARTS_OF_OTHERS = {"triton", "llvmlite"}


def canonical(requirement: str) -> str:
    """Name of a distribution, spelled as they are compared (PEP 503)."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def sources() -> list[Path]:
    return sorted(
        path for name in PACKAGES for path in (ROOT / name.replace(".", "/")).glob("*.py")
    )


def imports(path: Path, *, deferred: bool) -> set[str]:
    """Top-level names from outside that a file imports: those inside functions, or all others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    names = set()
    for node in ast.walk(tree):
        if (id(node) in inside) == deferred:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - OURS - PARTS_OF_OTHERS


@pytest.mark.parametrize("deferred", [False, True], ids=["on import", "when called"])
def test_every_import_is_of_a_declared_distribution(deferred: bool) -> None:
    """What another dependency happens to bring may be gone with its next release."""
    project = PYPROJECT["project"]
    allowed = {canonical(each) for each in project["dependencies"]}
    if deferred:  # a function may ask for an extra, and say so where it is absent
        extras = project["optional-dependencies"]
        allowed |= {canonical(each) for name in extras if name != "dev" for each in extras[name]}
    brought_by = packages_distributions()
    undeclared = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        for name in sorted(imports(path, deferred=deferred))
        if not {canonical(each) for each in brought_by.get(name, [name])} & allowed
    ]
    assert not undeclared


def test_every_dependency_is_used() -> None:
    brought_by = packages_distributions()
    names = {
        name for path in sources() for way in (False, True) for name in imports(path, deferred=way)
    }
    used = {canonical(each) for name in names for each in brought_by.get(name, [name])}
    # torch.utils.tensorboard imports it; nothing of ours does so itself.
    used.add("tensorboard")
    unused = {canonical(each) for each in PYPROJECT["project"]["dependencies"]} - used
    assert not unused


# Run with every attempt to reach another machine written down and refused, by the interpreter's own
# audit events: whatever library makes it, it cannot be missed.
_WATCH = """
    import sys
    ATTEMPTS, REFUSED = [], ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname",
                             "socket.sendto", "socket.sendmsg", "urllib.Request")
    def watch(event, arguments):
        if event in REFUSED:
            ATTEMPTS.append((event, repr(arguments)))
            raise OSError(f"refused: {event}")
    sys.addaudithook(watch)
"""

_IMPORT_ALL = """
    import importlib, pkgutil
    count = 0
    for name in {packages}:
        folder = importlib.import_module(name).__path__
        for module in pkgutil.iter_modules(folder, name + "."):
            if module.name not in {left_out}:
                importlib.import_module(module.name)
                count += 1
    assert count > 60, count

    import gymnasium
    env = gymnasium.make("SyntheticDogsGlimpse-v0")
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated
    env.close()
"""

_TELL = """
    print("attempts:", ATTEMPTS)
"""


def attempts(code: str, home: Path) -> str:
    """What the code, run under watch in a process with an empty home, says of its attempts."""
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "GLIMPSE_DATA"), str(home))
    found = run_command(
        [sys.executable, "-c", "".join(dedent(part) for part in (_WATCH, code, _TELL))],
        cwd=ROOT,
        env=os.environ | folders,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1]


def test_neither_imports_nor_an_episode_reach_for_the_network(tmp_path: Path) -> None:
    left_out = [] if importlib.util.find_spec("triton") else ["glimpse_env.retina.kernel_triton"]
    code = _IMPORT_ALL.format(packages=PACKAGES, left_out=left_out)
    assert attempts(code, tmp_path) == "attempts: []"


@pytest.mark.parametrize(
    "call, event",
    [
        ("socket.create_connection(('localhost', 9), timeout=1)", "socket.getaddrinfo"),
        ("socket.socket().connect(('127.0.0.1', 9))", "socket.connect"),
        ("urllib.request.urlopen('http://localhost:9')", "urllib.Request"),
    ],
)
def test_an_attempt_would_be_seen_even_if_its_failure_is_swallowed(
    call: str, event: str, tmp_path: Path
) -> None:
    code = f"""
    import contextlib, socket, urllib.request
    with contextlib.suppress(OSError):
        {call}
    """
    assert event in attempts(code, tmp_path)
