"""Code blocks of the README and of the site's pages, as tests read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_OPEN = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|:{3,})(?P<info>\S*)(?P<rest>.*)$")
_PARSED_ONLY = re.compile(r"^<!-- parsed only: (?P<reason>.+) -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    """Of its first line of text."""
    info: str
    """What stands behind the fence: `python`, `sh`, `{code-cell}`."""
    text: str
    parsed_only: str | None
    """Why it is not run, from a comment right before it: `<!-- parsed only: REASON -->`."""

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def written_pages() -> list[Path]:
    """Pages that people write: the README, CONTRIBUTING and all of docs but what is generated."""
    site = [
        path
        for path in sorted(DOCS.rglob("*.md"))
        if path.relative_to(DOCS).parts[0] not in ("_build", "generated", "jupyter_execute")
    ]
    return [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.exists()] + site


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _OPEN.match(lines[number])
        if opening is None or not opening["info"]:
            number += 1
            continue
        end = number + 1
        closing = opening["indent"] + opening["fence"]
        while lines[end].rstrip() != closing:
            end += 1
        text = lines[number + 1 : end]
        while text and text[0].startswith(":") and opening["info"].startswith("{"):
            text.pop(0)  # options of a directive
        before = next((each for each in reversed(lines[:number]) if each.strip()), "")
        comment = _PARSED_ONLY.match(before.strip())
        yield Block(
            page,
            number + 2,
            opening["info"],
            "\n".join(each.removeprefix(opening["indent"]) for each in text),
            comment["reason"] if comment else None,
        )
        number = end + 1


def python_blocks(page: Path) -> list[Block]:
    """Blocks of Python: those of a page, and the cells of a tutorial."""
    return [block for block in blocks(page) if block.info in ("python", "{code-cell}")]


def shell_lines(page: Path) -> list[tuple[str, list[str]]]:
    """Place and words of each command in the blocks of shell, without prompts and comments."""
    found = []
    for block in blocks(page):
        if block.info == "sh":
            text = block.text.replace("\\\n", " ")
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found.append((f"{block.where}: {' '.join(words)}", words))
    return found
