"""Docstrings are written as Markdown with Google's sections; Sphinx reads reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Shapes|Examples?|Note|Source):$")
# Inline code is taken as it is; outside of it these characters mean something to RST.
_CODE = re.compile(r"(`+[^`]*`+)")


def to_restructured_text(lines: Sequence[str]) -> list[str]:
    """Turn one docstring into lines that napoleon and docutils read without a warning.

    An indented block after a line that ends in a colon is code, and so is one after a blank line;
    stars, bars and trailing underscores outside inline code are text; a table of Markdown and a
    heading become literal blocks and bold text.
    """
    result: list[str] = []
    code_indent: int | None = None
    section_indent: int | None = None
    previous_blank, previous = True, ""
    for line in lines:
        stripped, indent = line.strip(), len(line) - len(line.lstrip())
        if not stripped:
            result.append("")
            previous_blank = True
            continue
        if code_indent is not None and indent >= code_indent:
            result.append(line)
            previous_blank = False
            continue
        code_indent = None
        if section_indent is not None and indent <= section_indent:
            section_indent = None
        if _SECTION.match(stripped):
            section_indent = indent
            result.append(line)
        elif section_indent is None and previous_blank and _opens_code(line, indent, previous):
            _mark_as_code(result)
            code_indent = indent
            result.append(line)
        else:
            result.append(line[:indent] + _escape(stripped))
        previous_blank, previous = False, stripped
    return result


def _opens_code(line: str, indent: int, previous: str) -> bool:
    return indent >= 4 and not line.lstrip().startswith((">>>", "- ", "* "))


def _mark_as_code(result: list[str]) -> None:
    """End the paragraph before an indented block so that the block is read as code."""
    result += ["::", ""]


def _escape(text: str) -> str:
    if text.startswith("|"):
        return "| " + text.strip("|").strip().replace(" | ", " -- ").replace("*", r"\*")
    parts = _CODE.split(text)
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"([*|])", r"\\\1", parts[index])
        parts[index] = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", parts[index])
    return "".join(parts)
