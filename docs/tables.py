"""The README's table of results, from the records; run this file to write it again."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
BEGIN = "<!-- results: written by `python docs/tables.py`, from experiments/results -->"
END = "<!-- end of results -->"
EARLIER = "°"
"""Marks a cell that was trained on the core as downloaded, with an averaged context."""
_ROWS = ("high", "medium", "low", "high-medium", "high-medium-low")
_WHOLE_IMAGE = {
    "googlenet-96": "GoogLeNet, whole image at 96",
    "googlenet-224": "GoogLeNet, whole image at 224",
}


def results_table() -> str:
    """Eight rows: the paper's Table 1 beside ours, and the synthetic dogs.

    Cells of the tuned core stand in place of earlier ones, which are marked.
    """
    tuned = _read("table1-tuned.json")["cells"]
    cells = _read("table1.json")["cells"]
    demo = _read("demo.json")["results"]
    lines = ["| patches seen | 1 glimpse | 2 | 3 |", "|---|---|---|---|"]
    for row in _ROWS:
        names = [f"{row}-{count}" for count in (1, 2, 3)]
        entries = [
            _entry(tuned[name]) if name in tuned else _entry(cells.get(name), mark=EARLIER)
            for name in names
        ]
        lines.append(f"| {_title(row)} | {' | '.join(entries)} |")
    for name, title in _WHOLE_IMAGE.items():
        lines.append(f"| {title} | {_entry(cells.get(name))} | | |")
    learned, center = demo["learned"]["ma_mean"], demo["center"]["ma_mean"]
    lines.append(f"| synthetic dogs, high only | | **{learned:.1f}** / {center:.1f} | |")
    return "\n".join(lines)


def _title(row: str) -> str:
    return row.replace("-", " + ") if "-" in row else f"{row} only"


def _entry(cell: dict | None, mark: str = "") -> str:
    return "-" if cell is None else f"**{cell['ma']:.1f}**{mark} / {cell['paper']:.1f}"


def _read(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def with_results(readme: str) -> str:
    """Return the README's text with the table as the records have it now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{results_table()}\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_results(path.read_text(encoding="utf-8")), encoding="utf-8")
