"""`glimpse benchmark`: measure what the project claims about speed, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from tyro.conf import Positional

from experiments.benchmarks import BENCHMARKS
from experiments.benchmarks.timing import Result, load_average
from experiments.runtime.runs import write_json


@dataclass(frozen=True)
class BenchmarkConfig:
    """Run benchmarks by name; without a name, list them."""

    names: Positional[tuple[str, ...]] = ()
    """Benchmarks to run; `all` for every one."""
    out: Path = Path("benchmarks")
    """Folder for one benchmark-NAME.json each."""
    quick: bool = False
    """Tiny shapes and few windows: shows that it runs, measures nothing worth telling."""
    threads: int = 0
    """Threads that torch computes with (0: as many as it chooses)."""

    def __post_init__(self) -> None:
        """Check before anything is measured.

        Raises:
            ValueError: a name that is none, or threads below 0.
        """
        unknown = [name for name in self.names if name not in (*BENCHMARKS, "all")]
        if unknown:
            raise ValueError(
                f"There is no benchmark {', '.join(unknown)}: choose from "
                f"{', '.join(BENCHMARKS)}, or all."
            )
        if self.threads < 0:
            raise ValueError(f"--threads is at least 0, not {self.threads}.")


def benchmark(config: BenchmarkConfig) -> dict[str, Result]:
    """Run, print a Markdown table each, and write the record of each.

    Raises:
        ValueError: a benchmark needs a library that is not installed.
    """
    if not config.names:
        print("\n".join(f"{name:<12} {claim}" for name, claim in BENCHMARKS.items()))
        return {}
    if config.threads:
        torch.set_num_threads(config.threads)
    results = {}
    for name in BENCHMARKS if "all" in config.names else dict.fromkeys(config.names):
        try:
            module = import_module(f"experiments.benchmarks.{name}")
        except ModuleNotFoundError as error:
            if error.name != "sb3_contrib":
                raise
            raise ValueError(
                f"Benchmark {name!r} measures sb3-contrib's agents: pip install sb3-contrib"
            ) from error
        result: Result = module.run(quick=config.quick)
        result.measured["environment"]["machine"]["load_average_at_end"] = load_average()
        path = config.out / f"benchmark-{name}.json"
        write_json(path, result.record() | {"quick": config.quick})
        print(f"\n{result.markdown(quick=config.quick)}\n\n{path} written.")
        if hasattr(module, "draw"):
            module.draw(result.record(), path.with_suffix(".png"))
            print(f"{path.with_suffix('.png')} drawn.")
        results[name] = result
    return results
