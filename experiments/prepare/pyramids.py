"""`glimpse pyramids`: decode whole splits once, into files that environments map."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.cluster.config import LOCAL
from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.data import build_dataset
from experiments.prepare.config import PyramidsConfig
from experiments.runtime.runs import sole_user
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.mapped import MappedPyramids
from glimpse_env.pyramids.storage import usual_bytes


def build_pyramids(config: PyramidsConfig, split: str) -> MappedPyramids:
    """Build the pyramids of one split, or what is left of them.

    Raises:
        OSError: Too little room on the disk.
        PyramidsMismatchError: The folder holds other pyramids.
        RunError: Another process builds them.
    """
    dataset = build_dataset(config.data, split)
    folder = config.out / split
    config.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(config.out).free
    needed = usual_bytes(len(dataset), config.resolutions, config.patch_side)
    if not (folder / "pyramids.json").exists() and needed > free:
        raise OSError(
            f"the pyramids of {split} take about {needed / 1e9:.1f} GB and {config.out} has "
            f"{free / 1e9:.1f} GB free: build fewer --resolutions, or take another --out"
        )
    with sole_user(folder):
        mapped = _create(config, dataset, folder)
        _build(config, dataset, mapped)
    return mapped


def _create(config: PyramidsConfig, dataset: ImageDataset, folder: Path) -> MappedPyramids:
    return MappedPyramids.create(folder, dataset, config.resolutions, patch_side=config.patch_side)


def _build(config: PyramidsConfig, dataset: ImageDataset, mapped: MappedPyramids) -> None:
    """Build the chunks that are not done, with a bar."""
    split = dataset.split
    size = mapped.description.chunk
    done = sum(
        min(size, len(dataset) - chunk * size) for chunk in mapped.done.nonzero()[0].tolist()
    )
    tqdm.write(
        f"{split}: {len(dataset)} images, {mapped.description.num_bytes / 1e9:.2f} GB on disk"
    )
    workers = config.workers or os.cpu_count() or 1
    with tqdm(total=len(dataset), initial=done, unit="img", desc=split) as bar:
        for count in mapped.build(dataset, workers):
            bar.update(count)


def built(config: PyramidsConfig) -> bool:
    """Whether the pyramids of all splits are there."""
    files = [config.out / split / "done.u8" for split in config.splits]
    return all(file.is_file() and np.fromfile(file, np.uint8).all() for file in files)


def _check_folder(config: PyramidsConfig) -> None:
    """Refuse a folder whose pyramids are others: their finished chunks are not those asked for."""
    for split in config.splits:
        folder = config.out / split
        if (folder / "pyramids.json").exists():
            _create(config, build_dataset(config.data, split), folder)


def pyramids(config: PyramidsConfig) -> None:
    """Build every split asked for; started again, go on where it was.

    Raises:
        PyramidsMismatchError: A folder holds other pyramids.
        RunError: No cluster answers, or jobs failed.
    """
    if config.on.cluster != "local":
        _check_folder(config)
        jobs = [
            Job(
                "pyramids",
                split,
                replace(config, splits=(split,), workers=config.on.threads or 1, on=LOCAL),
                resumable=False,
                part=f"-{split}",
                ended="experiments.prepare.pyramids:built",
            )
            for split in config.splits
        ]
        run_jobs(jobs, config.on, out=config.out)
        for split in config.splits:
            tqdm.write(f"{split}: complete in {config.out / split}")
        return
    for split in config.splits:
        tqdm.write(f"{split}: complete in {build_pyramids(config, split).folder}")
