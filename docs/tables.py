"""Tables of the README and of `docs/encoders.md` from the records; run it to write them again."""

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


# -- encoders -----------------------------------------------------------------------------------

ENCODERS_BEGIN = "<!-- encoders: written by `python docs/tables.py`, from experiments/results -->"
ENCODERS_END = "<!-- end of encoders -->"
OTHERWISE = "*"
"""Marks an accuracy of other settings, images, fixations or seeds than the tuned core's."""
_BENCHMARK = "benchmark-encoders.json"
# Title, the name at the beginning of the speed's, record of the cells, record of the probe.
_ENCODERS = (
    ("GoogLeNet, as downloaded", "googlenet", "table1-googlenet.json", "probe-googlenet.json"),
    ("GoogLeNet, tuned", "core", "table1-tuned.json", "probe-core-2100.json"),
    (
        "EfficientNet-Lite2",
        "efficientnet_lite2",
        "table1-efficientnet_lite2.json",
        "probe-efficientnet_lite2.json",
    ),
)
_STANDARD = "table1-tuned.json"
_CELLS = ("medium-1", "medium-3")
# Settings of a cell that are the encoder's, or say where things were computed.
_OWN = ("encoder", "bank", "patch_side", "precision", "backend", "device", "storage", "matmul")


def encoders_table(results: Path = RESULTS) -> str:
    """A row for each encoder: linear readings, cells of Table 1, and what a glimpse costs.

    A record that is not there gives dashes.

    Args:
        results: Folder of the records.

    Returns:
        A Markdown table.
    """
    lines = [
        "| encoder | P | linear, low | linear, medium | 1 glimpse, medium | 3 glimpses, medium "
        "| patches a second | MACs a glimpse |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    standard = _record(results / _STANDARD).get("cells", {})
    speeds = _record(results / _BENCHMARK).get("encoders", {}).values()
    for title, name, cells_file, probe_file in _ENCODERS:
        cells = _record(results / cells_file).get("cells", {})
        probe = _record(results / probe_file)
        known = [probe.get("encoder"), *(cell["encoder"] for cell in cells.values())]
        prints = {each["fingerprint"] for each in known if each}
        speed = next(
            (
                each
                for each in speeds
                if (each["fingerprint"] in prints if prints else each["name"] == name)
            ),
            None,
        )
        entries = [_reading(probe, level) for level in ("low", "medium")]
        entries += [_accuracy(cells.get(cell), standard.get(cell)) for cell in _CELLS]
        side, rate, macs = "-", "-", "-"
        if speed is not None:
            side = str(speed["patch_side"])
            rate = f"{speed['patches_a_second']['clock']['median']:,.0f} ({speed['precision']})"
            macs = f"{speed['macs_a_patch'] / 1e9:.2f} G"
        lines.append(f"| {' | '.join((title, side, *entries, rate, macs))} |")
    return "\n".join(lines)


def _record(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _reading(probe: dict, level: str) -> str:
    found = probe.get("readings", {}).get(level, {}).get("linear")
    return "-" if found is None else f"{found['ma']:.1f}"


def _accuracy(cell: dict | None, standard: dict | None) -> str:
    if cell is None:
        return "-"
    alike = standard is not None and _task(cell) == _task(standard)
    return f"**{cell['ma']:.1f}**{'' if alike else OTHERWISE}"


def _task(cell: dict) -> tuple:
    """What must be the same for accuracies of two encoders to be compared."""
    settings = {key: value for key, value in cell["settings"].items() if key not in _OWN}
    # What follows from the encoder, which older records hold as it was before it was set.
    network = settings.pop("network", {})
    network = {k: v for k, v in network.items() if k not in ("feature_size", "context_channels")}
    images = {split: each["fingerprint"] for split, each in cell["datasets"].items()}
    return settings, network, images, cell["seeds"], cell["lattice"]


def with_encoders(page: str, results: Path = RESULTS) -> str:
    """Return the text of `docs/encoders.md` with the table as the records have it now."""
    return _within(page, ENCODERS_BEGIN, ENCODERS_END, encoders_table(results))


def with_results(readme: str) -> str:
    """Return the README's text with the table as the records have it now."""
    return _within(readme, BEGIN, END, results_table())


def _within(text: str, begin: str, end: str, table: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    for path, written in (
        (ROOT / "README.md", with_results),
        (ROOT / "docs" / "encoders.md", with_encoders),
    ):
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
