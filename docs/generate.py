"""Pages that follow from the code: environments, commands, and the API of every module."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from leaderboard import leaderboard_page

_API = {
    "glimpse_env": "images to episodes: data sets, retina, environments, wrappers, rendering",
    "encoders": "patches to features: architectures, weights, inference, banks",
    "agents": "observations to actions: the two-deck agent, policies, Stable-Baselines3",
}


def write_pages(folder: Path) -> None:
    """Write every generated page below a folder that git ignores; unchanged files keep their time.

    Args:
        folder: Where the pages go; `docs/generated`.
    """
    pages = {
        **environment_pages(),
        **api_pages(),
        "commands.md": commands_page(),
        "changelog.md": changelog_page(),
        "leaderboard.md": leaderboard_page(),
    }
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).as_posix() not in pages:
            path.unlink()


# -- environments -------------------------------------------------------------------------------


def environment_ids() -> tuple[str, ...]:
    """Ids that `import glimpse_env` registers, in the order of their registration."""
    import gymnasium

    import glimpse_env  # noqa: F401  registers them

    return tuple(
        name
        for name, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("glimpse_env.")
    )


def environment_pages() -> dict[str, str]:
    """One page for each environment id: registration, the class docstring, options, versions."""
    import gymnasium

    pages = {}
    for name in environment_ids():
        spec = gymnasium.spec(name)
        module, _, attribute = str(spec.entry_point).partition(":")
        cls = getattr(importlib.import_module(module), attribute)
        title, _, body = inspect.cleandoc(cls.__doc__ or "").partition("\n")
        keywords = ", ".join(f"{key}={value!r}" for key, value in spec.kwargs.items())
        defaults = (
            f"The id fixes these defaults: `{keywords}`."
            if keywords
            else ("The id changes no default of the options below.")
        )
        pages[f"environments/{name}.md"] = "\n".join(
            [
                f"# {name}",
                "",
                title,
                "",
                "```python",
                "import gymnasium",
                "import glimpse_env",
                "",
                f'env = gymnasium.make("{name}")',
                f'envs = gymnasium.make_vec("{name}", num_envs=8, '
                'vectorization_mode="vector_entry_point")',
                "```",
                "",
                f"Entry points: `{spec.entry_point}` and `{spec.vector_entry_point}`. {defaults}",
                "",
                body.strip(),
                "",
                "## Every option",
                "",
                _options(),
                "",
                "## Versions",
                "",
                "- v0: the first version. An id gets a new version when its spaces, rewards or "
                "default options change in a released version.",
                "",
            ]
        )
    return pages


def _options() -> str:
    """The fields of `EnvOptions`, each with its docstring and its default."""
    from glimpse_env import options

    return settings_list(options.EnvOptions)


def settings_list(cls: type) -> str:
    """The fields of a dataclass as a definition list, each with its default and its docstring."""
    lines = []
    for name, default, text in field_docstrings(cls):
        lines += [f"`{name}` (default `{default}`)", f": {text}", ""]
    return "\n".join(lines).rstrip()


def field_docstrings(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, default as written, and docstring of each field of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    for field, text in zip(body, body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            default = "-" if field.value is None else ast.unparse(field.value)
            yield field.target.id, default, " ".join(str(text.value.value).split())


# -- API ----------------------------------------------------------------------------------------


def api_pages() -> dict[str, str]:
    """One page a package, with every module that can be imported here and its public names."""
    pages = {}
    for package, purpose in _API.items():
        lines = [f"# `{package}`", "", purpose[0].upper() + purpose[1:] + ".", ""]
        for name in [package, *module_names(package)]:
            module = importlib.import_module(name)
            if not (module.__doc__ or "").strip():
                continue
            # What a package takes from its modules is documented where it stands.
            is_package = hasattr(module, "__path__")
            lines += [] if name == package else [f"## `{name}`", ""]
            lines += ["```{eval-rst}", f".. automodule:: {name}"]
            # Names that a module offers from another one are documented there.
            lines += ["   :ignore-module-all:"] * (not is_package)
            lines += ["   :no-members:"] * is_package + ["   :no-index:"] * (name == package)
            lines += ["```", ""]
            if is_package and getattr(module, "__all__", None):
                lines += [f"Exports {', '.join(f'`{each}`' for each in module.__all__)}.", ""]
        pages[f"api/{package}.md"] = "\n".join(lines)
    return pages


def module_names(package: str) -> list[str]:
    """Names of the modules below a package that import here, in the order of the tree."""
    names = []
    paths = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(paths, package + "."):
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError:  # a kernel whose compiler this machine lacks
            continue
        names.append(module.name)
    return names


# -- changelog ----------------------------------------------------------------------------------


def changelog_page() -> str:
    """CHANGELOG.md with the text of its links alone: they start at the top of the repository."""
    text = (Path(__file__).resolve().parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


# -- commands -----------------------------------------------------------------------------------


# Of commands with named settings, the one whose options are shown.
_EXAMPLES = {"train": ("medium-1",), "whole-image": ("googlenet-96",)}


def commands_page() -> str:
    """The help of `glimpse` and of each of its commands, as they print it."""
    from experiments import cli

    lines = ["# Commands", "", "```text", shown_help().strip(), "```", ""]
    for name, entry in cli.COMMANDS.items():
        lines += [f"## glimpse {name}", "", "```text", shown_help(name).strip(), "```", ""]
        if entry.shown:
            words = (name, *_EXAMPLES.get(name, ()))
            shown = shown_help(*words, flag="--help-all").strip()
            lines += [f"All options of `glimpse {' '.join(words)}`:", "", "```text", shown]
            lines += ["```", ""]
    return "\n".join(lines)


def shown_help(*command: str, flag: str = "--help") -> str:
    """What `glimpse COMMAND --help` prints on a terminal of 100 columns without colours."""
    from experiments import cli

    out = io.StringIO()
    settings = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.main([*command, flag])
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
