"""`glimpse benchmark`: measure what the project claims about speed, on this machine."""

from __future__ import annotations

from importlib import import_module

import torch

from experiments.benchmarks import BENCHMARKS, DRAWINGS, BenchmarkConfig
from experiments.benchmarks.timing import Result, load_average
from experiments.runtime.runs import write_json


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
        more = {"encoders": config.encoders} if name == "encoders" and config.encoders else {}
        result: Result = module.run(quick=config.quick, **more)
        result.measured["environment"]["machine"]["load_average_at_end"] = load_average()
        path = config.out / f"benchmark-{name}.json"
        write_json(path, result.record() | {"quick": config.quick})
        print(f"\n{result.markdown(quick=config.quick)}\n\n{path} written.")
        if name in DRAWINGS:
            place, _, function = DRAWINGS[name].partition(":")
            getattr(import_module(place), function)(result.record(), path.with_suffix(".png"))
            print(f"{path.with_suffix('.png')} drawn.")
        results[name] = result
    return results
