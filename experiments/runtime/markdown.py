"""Tables in Markdown, for the reports that commands write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: str, rows: Iterable[Sequence[str]], rule: str = "---") -> list[str]:
    """Lay out a table, a line each.

    Args:
        header: Titles of the columns, with ` | ` between them.
        rows: Cells, as many as there are titles or fewer: the last ones are then empty.
        rule: How the columns after the first are aligned; `---:` is to the right.

    Example:
        >>> table("agent | mA", [("two-deck", "61.2"), ("center",)])
        ['| agent | mA |', '|---|---|', '| two-deck | 61.2 |', '| center | |']
    """
    count = header.count(" | ")
    lines = [f"| {header} |", f"|---{f'|{rule}' * count}|"]
    for row in rows:
        cells = "".join(f" {cell} |" if cell else " |" for cell in row)
        lines.append(f"|{cells}{' |' * (count + 1 - len(row))}")
    return lines
