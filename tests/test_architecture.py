"""The arrows between the packages hold, files stay small, and nothing of one machine is in them."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.children import run_command

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest itself brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("encoders", "glimpse_env", "agents", "experiments")
MAY_IMPORT = {
    "encoders": set(),
    "glimpse_env": {"encoders"},
    "agents": set(),
    "experiments": {"encoders", "glimpse_env", "agents"},
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows(package: str) -> None:
    for path in sources(package):
        wrong = imported_packages(path) & set(PACKAGES) - {package} - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_library_code_never_imports_tests() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert "tests" not in imported_packages(path), path


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_near_400_lines(package: str) -> None:
    for path in sources(package):
        assert len(path.read_text().splitlines()) <= 450, path


def test_no_folder_holds_more_than_15_modules() -> None:
    for package in PACKAGES:
        for folder in {path.parent for path in sources(package)}:
            modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= 15, f"{folder.relative_to(ROOT)}: {sorted(modules)}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: no function's body, nothing for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if not types_only and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from run_on_import(child)


def import_graph(package: str) -> dict[str, set[str]]:
    """The modules of a package, and which of them each one imports when it is imported."""
    files = {module_name(path): path for path in sources(package)}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        found: set[str] = set()
        for node in run_on_import(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                for alias in node.names:
                    module = f"{node.module}.{alias.name}"
                    found.add(module if module in files else node.module)
        graph[name] = (found & set(files)) - {name}
    return graph


def by_folder(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same with each folder below the package as one node; modules at its top stay alone."""

    def node(name: str) -> str:
        return ".".join(name.split(".")[:2])

    folders: dict[str, set[str]] = {}
    for name, found in graph.items():
        folders.setdefault(node(name), set()).update(node(each) for each in found)
    return {name: found - {name} for name, found in folders.items()}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("level", [lambda graph: graph, by_folder], ids=["modules", "folders"])
def test_no_import_circle(package: str, level: Callable) -> None:
    """So there is an order in which each module, and each folder, imports earlier ones alone."""
    try:
        TopologicalSorter(level(import_graph(package))).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


PUBLIC = [
    "agents.checkpoint:load_checkpoint",
    "agents.configs:ReinforceConfig",
    "agents.densities:register_density",
    "agents.configs:TwoDeckConfig",
    "agents.policy:Action",
    "agents.policy:AttentionPolicy",
    "agents.policy:LearningPolicy",
    "agents.policy:Observation",
    "agents.policy:load_policy",
    "agents.policy:register_policy",
    "agents.recurrent:GlimpseModel",
    "agents.recurrent:RecurrentPolicy",
    "agents.reference:ReferenceAgent",
    "agents.reference:center",
    "agents.reference:uniform",
    "agents.reinforce:ReinforceAgent",
    "agents.rollout:Trajectory",
    "agents.rollout:collect",
    "agents.sb3:FlatGlimpseExtractor",
    "agents.sb3:GlimpseExtractor",
    "agents.sb3:HybridDistribution",
    "agents.sb3:HybridPolicy",
    "agents.sb3:HybridRecurrentPolicy",
    "agents.sb3:SB3VecEnv",
    "agents.sb3:load",
    "agents.sb3.distribution:HybridDistribution",
    "agents.sb3.features:GlimpseExtractor",
    "agents.sb3.policies:HybridPolicy",
    "agents.sb3.recurrent:HybridRecurrentPolicy",
    "agents.sb3.vec_env:SB3VecEnv",
    "agents.trajectory:Trajectory",
    "encoders.bank:BankMismatchError",
    "encoders.bank:FeatureBank",
    "encoders.bank:lattice",
    "encoders.googlenet:GoogLeNetTrunk",
    "encoders.inception_mini:InceptionMini",
    "encoders.inference:Encoder",
    "encoders.inference:make_encoder",
    "encoders.spec:EncoderSpec",
    "encoders.registry:register_encoder",
    "encoders.spec:get_spec",
    "encoders.spec:register_spec",
    "encoders.weights:WeightsNotFoundError",
    "encoders.weights:find_weights",
    "encoders.weights:load_state",
    "experiments.cli:main",
    "experiments.cli:register_command",
    "glimpse_env:register_environments",
    "glimpse_env.datasets.base:ImageDataset",
    "glimpse_env.datasets.image_folder:ImageFolder",
    "glimpse_env.datasets.registry:register_dataset",
    "glimpse_env.datasets.stanford_dogs:StanfordDogs",
    "glimpse_env.datasets.synthetic:SyntheticDogs",
    "glimpse_env.env:DogsGlimpseEnv",
    "glimpse_env.retina:cut_patches",
    "glimpse_env.vector_env:DogsGlimpseVectorEnv",
    "glimpse_env.wrappers:FixationOnly",
    "glimpse_env.wrappers:FlatAction",
    "glimpse_env.wrappers:FlatObservation",
    "glimpse_env.wrappers:LatticeAction",
    "glimpse_env.wrappers:VectorFixationOnly",
    "glimpse_env.wrappers:VectorFlatAction",
    "glimpse_env.wrappers:VectorFlatObservation",
    "glimpse_env.wrappers:VectorLatticeAction",
]


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_path_is_there(path: str) -> None:
    module, name = path.split(":")
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    "stub",
    sorted(path for package in PACKAGES for path in (ROOT / package).rglob("__init__.pyi")),
    ids=lambda path: module_name(path),
)
def test_what_a_package_lists_is_there(stub: Path) -> None:
    """The names that a package exports lazily, all of them, and nothing else in `__all__`."""
    module = importlib.import_module(module_name(stub))
    nodes = [n for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ImportFrom)]
    names = {alias.name for node in nodes for alias in node.names}
    assert set(module.__all__) == names and names
    assert all(hasattr(module, name) for name in names)


def test_every_package_is_listed_for_installation() -> None:
    """`agents` is also another distribution's name, so packages are listed and not discovered."""
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    # Benchmarks, and what wants a GPU, are run in a checkout.
    left_out = ("experiments.benchmarks", "experiments.gpu")
    assert listed == {name for name in found if not name.startswith(left_out)}


def test_files_that_the_makefile_names_are_there() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    for folder, names in re.findall(r"\$\(addprefix (\S+), ([^)]*)\)", text):
        text += "".join(f" {folder}{name}" for name in names.split())
    named = set(re.findall(r"(?<![\w/])tests/[\w/]+\.py", text))
    assert named and all((ROOT / name).is_file() for name in named)


def test_top_level_is_what_the_owner_fixed() -> None:
    tracked = run_command(["git", "ls-files"], cwd=ROOT)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in tracked.stdout.splitlines() if "/" in name}
    assert {f for f in folders if not f.startswith(".")} == {*PACKAGES, "docs", "tests"}


def test_importing_the_environment_is_light() -> None:
    """Registration needs neither torch nor the network (specs hold strings only)."""
    code = "import sys, glimpse_env; print('torch' in sys.modules)"
    out = run_command([sys.executable, "-c", code], check=True)
    assert out.stdout.strip() == "False"


def test_every_text_file_is_of_a_named_encoding() -> None:
    """Where the locale decides, a page is lost after hours in one that is not UTF-8."""
    wrong = []
    for package in PACKAGES:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _opens_text(node):
                    if "encoding" not in {word.arg for word in node.keywords}:
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def _opens_text(call: ast.Call) -> bool:
    """Whether a call reads or writes text: `read_text`, `write_text`, or `open` without a `b`."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("read_text", "write_text"):
        return True
    if name not in ("open", "fdopen") or getattr(call.func, "attr", "open") != name:
        return False
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if owner in ("Image", "FeatureBank", "tarfile", "gzip", "bz2", "lzma", "zipfile", "os"):
        return False
    words = {word.arg: word.value for word in call.keywords}
    position = 0 if isinstance(call.func, ast.Attribute) else 1
    mode = words.get("mode", call.args[position] if len(call.args) > position else None)
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))
