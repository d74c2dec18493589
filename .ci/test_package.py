"""The wheel and the source distribution: what is in them, and that they run far from a checkout.

`make test-package` runs this. Each is installed in an environment of its own, which borrows the
dependencies of the one that runs the tests: a second copy of torch would be gigabytes. That the
declared dependencies are all there are is the matter of tests/test_supply.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest itself brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PYPROJECT["project"]["version"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]

EPISODE = """
import gymnasium, glimpse_env
assert "site-packages" in glimpse_env.__file__, glimpse_env.__file__
env = gymnasium.make("SyntheticDogsGlimpse-v0")
observation, _ = env.reset(seed=0)
assert observation["context"].any()
steps, over = 0, False
while not over:
    _, _, terminated, truncated, _ = env.step(env.action_space.sample())
    steps, over = steps + 1, terminated or truncated
print("steps", steps)
"""

HELP = """
import sys
from experiments.cli import COMMANDS, main
for name in COMMANDS:
    if name == "benchmark":  # stays in the checkout
        assert main([name, "--help"]) == 1
        continue
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code in (0, None), (name, end.code)
print("commands", len(COMMANDS))
"""


def run(*command: str | Path, cwd: Path, home: Path | None = None) -> str:
    """Standard output of a command; without the checkout's own folders in its environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "GLIMPSE_DATA", "VIRTUAL_ENV")
    }
    if home is not None:
        kept |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    found = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=kept, capture_output=True, text=True
    )
    assert found.returncode == 0, f"{command}:\n{found.stdout}\n{found.stderr}"
    return found.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of what git does not ignore, and the wheel built from that sdist."""
    # In a folder of its own: leftovers of another build must not make up for a file not listed.
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    for name in run(*listed, cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--outdir", out, tree, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest,
    distributions: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Scripts' folder of a new environment with the distribution in it."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(scripts / "python", "-c", where, cwd=folder).strip())
    # The path alone, so that its own .pth files, an editable install's too, are not followed.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (scripts / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall")
    run(*pip, distributions[request.param], cwd=folder)
    return scripts


def test_the_wheel_holds_the_packages_and_their_data(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as archive:
        names = {each for each in archive.namelist() if not each.endswith("/")}
        (entry_points,) = [each for each in names if each.endswith("entry_points.txt")]
        scripts = archive.read(entry_points).decode()
    expected = set()
    for package in SETUPTOOLS["packages"]:
        folder = ROOT / package.replace(".", "/")
        data = SETUPTOOLS["package-data"]
        patterns = ["*.py", *data.get("*", []), *data.get(package, [])]
        expected |= {
            path.relative_to(ROOT).as_posix() for each in patterns for path in folder.glob(each)
        }
    metadata = f"glimpse_env-{VERSION}.dist-info/"
    assert {each for each in names if not each.startswith(metadata)} == expected
    assert f"{metadata}licenses/LICENSE" in names
    assert "glimpse = glimpse_env.command:main" in scripts and "[glimpse.policies]" in scripts


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_neither_holds_tests_or_images(kind: str, distributions: dict[str, Path]) -> None:
    path = distributions[kind]
    if kind == "wheel":
        names = zipfile.ZipFile(path).namelist()
    else:
        with tarfile.open(path) as archive:
            names = [each.removeprefix(f"glimpse_env-{VERSION}/") for each in archive.getnames()]
        assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= set(names)
    assert not [each for each in names if each.split("/")[0] in ("tests", ".ci", "data", "runs")]
    assert not [each for each in names if each.startswith("experiments/benchmarks")]
    images = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".npy", ".pt"}
    assert not [each for each in names if PurePosixPath(each).suffix.lower() in images]
    # The encoder that ships is most of it; images or weights by mistake would be more.
    assert path.stat().st_size < 5e6


def test_the_commands_run_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "glimpse", "--version", cwd=tmp_path, home=tmp_path)
    assert shown.strip() == VERSION
    usage = run(installed / "glimpse", "--help", cwd=tmp_path, home=tmp_path)
    module = (installed / "python", "-m", "experiments.cli")
    assert run(*module, "--help", cwd=tmp_path, home=tmp_path) == usage
    assert usage.startswith("usage: glimpse COMMAND")
    shown = run(installed / "python", "-c", HELP, cwd=tmp_path, home=tmp_path)
    assert int(shown.split()[-1]) > 15
    # Help states the paper's values alone: no page depends on a record, which stays in a checkout.
    assert "the paper" in shown and "on val" not in shown


def test_an_episode_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "python", "-c", EPISODE, cwd=tmp_path, home=tmp_path)
    assert int(shown.split()[-1]) >= 1


def test_the_policies_are_found_by_name(installed: Path, tmp_path: Path) -> None:
    code = """
from agents.policy import load_policy
for name in ("two-deck", "center", "random", "lattice-scan", "saliency", "box-oracle"):
    print(load_policy(name).__name__)
"""
    shown = run(installed / "python", "-c", code, cwd=tmp_path, home=tmp_path)
    assert len(shown.split()) == 6


@pytest.mark.parametrize("name", ["encoders", "agents", "experiments"])
def test_a_folder_that_hides_a_package_is_named(installed: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import experiments.cli"
    if name == "experiments":
        code = code.replace("experiments.cli", "glimpse_env, experiments.cli")
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [str(installed / "python"), "-c", code],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
    )
    line = found.stderr.strip().splitlines()[-1]
    assert found.returncode == 1 and "ShadowedPackageError" in line
    assert f"{name!r} is taken from {tmp_path / name}" in line and "rename that folder" in line
