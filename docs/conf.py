"""Settings of the documentation site; `make docs` builds it, and a warning is an error."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from docstrings import to_restructured_text  # noqa: E402
from generate import settings_list, write_pages  # noqa: E402

project = "glimpse-env"
author = "the glimpse-env authors"
release = version = installed_version("glimpse-env")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
# Without Markdown's line breaks: the pages of the commands hold their own.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]

# Tutorials run when the site is built; GLIMPSE_DOCS_EXECUTE=off leaves them as they stand.
nb_execution_mode = os.environ.get("GLIMPSE_DOCS_EXECUTE", "force")
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True

# A name in single backticks is code, as it is in Markdown.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "glimpse-env"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False


def _docstring(app, what, name, obj, options, lines: list[str]) -> None:
    if any(line.startswith("## ") for line in lines):
        # The contract of an environment is Markdown, and has a page of its own.
        end = next(index for index, line in enumerate(lines) if line.startswith("## "))
        lines[end:] = ["The pages of the environment ids hold the whole contract."]
    lines[:] = to_restructured_text(lines)


def _signature(app, what, name, obj, options, signature: str | None, returns: str | None):
    """Leave addresses of objects out of a signature: they change with every build."""
    return (None if signature is None else re.sub(r" at 0x[0-9a-f]+", "", signature)), returns


class Settings(SphinxDirective):
    """`settings MODULE.CLASS`: the fields of a dataclass with their defaults and docstrings."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the list as Markdown."""
        module, _, name = self.arguments[0].rpartition(".")
        return self.parse_text_to_nodes(settings_list(getattr(import_module(module), name)))


def setup(app) -> None:
    """Write the generated pages before Sphinx looks for sources."""
    write_pages(DOCS / "generated")
    app.add_directive("settings", Settings)
    app.connect("autodoc-process-docstring", _docstring, priority=100)
    app.connect("autodoc-process-signature", _signature)
