"""`glimpse bank`: compute the features of whole splits on a lattice of fixations, once."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from encoders.bank.chunks import chunk_images, read_done, write_chunk
from encoders.bank.description import BankDescription
from encoders.bank.feature_bank import FeatureBank
from encoders.bank.points import lattice
from encoders.inference.engine import Encoder
from encoders.spec import Backend
from experiments.data import build_dataset
from experiments.prepare.calibration import build_encoder
from experiments.prepare.config import BankConfig
from experiments.prepare.leases import Leases
from experiments.runtime.runs import sole_user
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.pyramid import dataset_pyramid
from glimpse_env.retina.rules import cut_patches


class WorkerDiedError(RuntimeError):
    """A worker process of `glimpse bank` ended before its work was done."""


def describe(config: BankConfig, dataset: ImageDataset, encoder: Encoder) -> BankDescription:
    """Say what the bank of one split will hold."""
    points = lattice(config.side, config.extent)
    low = points
    own_low = config.low_side is not None and config.low_side != config.side
    if own_low:
        extent = 1 - 1 / config.side if config.extent is None else config.extent
        low = lattice(config.low_side, extent)  # type: ignore[arg-type]
    grid = encoder.resolve_grid(config.context_grid)
    return BankDescription(
        split=dataset.split,
        dataset=dataset.fingerprint,
        encoder=encoder.fingerprint,
        encoder_name=config.encoder,
        precision=encoder.precision,
        num_images=len(dataset),
        feature_size=encoder.feature_size,
        resolutions=tuple(config.resolutions),
        mirrored=config.mirror and dataset.training,
        fixations=_pairs(points),
        context_fixations=_pairs(_context_places(config.context, low)),
        noise_seed=0,
        chunk=config.chunk,
        context_grid=grid,
        context_channels=encoder.context_shape(grid)[-1] if grid > 1 else 0,
        low_fixations=_pairs(low) if own_low else (),
        patch_side=config.patch_side,
        backend=encoder.backend,
    )


def _context_places(
    kind: Literal["few", "lattice", "center"], low: Float32[np.ndarray, "L 2"]
) -> Float32[np.ndarray, "P 2"]:
    """Places of context patches, given the lattice on which low patches may be computed anyway."""
    centre = np.zeros((1, 2), np.float32)
    if kind == "lattice" and np.any(np.all(low == 0, axis=1)):
        return low
    # Evaluation looks at the context from the centre, where an even lattice has no point.
    if kind == "lattice":
        return np.concatenate([low, centre])
    outside = low[np.any(low != 0, axis=1)]
    nearest = np.argsort(np.square(outside).sum(axis=1), kind="stable")[:4]
    return np.concatenate([centre, outside[nearest]]) if kind == "few" else centre


def _pairs(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)


class BankBuilder:
    """Computes chunks of one bank; every worker process has one."""

    def __init__(self, bank: FeatureBank, dataset: ImageDataset, encoder: Encoder) -> None:
        """Take an open (writable) bank, its images and its encoder."""
        self.bank, self.dataset, self.encoder = bank, dataset, encoder
        # A context patch is a low patch: where one is computed anyway, its features are copied.
        self.points = bank.context_low_points()
        self.shared = (self.points >= 0) & ("low" in bank.resolutions)
        self.levels = tuple(dict.fromkeys((*bank.resolutions, "low")))

    def build_chunk(self, chunk: int) -> int:
        """Compute one chunk, write it to disk, and only then mark it done."""
        description = self.bank.description
        images = chunk_images(description, chunk)
        arrays = {
            name: np.empty((len(images), *shape[1:]), np.float16)
            for name, shape in description.array_shapes.items()
        }
        for row, image in enumerate(images):
            self.build_image(image, {name: array[row] for name, array in arrays.items()})
        write_chunk(self.bank.folder, description, chunk, arrays)
        return len(images)

    def build_image(self, image: int, into: Mapping[str, np.ndarray]) -> None:
        """Compute every lattice point of one image.

        Args:
            image: Its index.
            into: Where its features go: fp16 [M, ...] by the name of the bank's file.
        """
        bank = self.bank
        own = np.flatnonzero(~self.shared)
        fine, grid = bank.description.fine_resolutions, bank.context_grid
        low = bank.low_fixations if bank.low is not None else bank.low_fixations[:0]
        side = bank.description.patch_side
        pyramid = dataset_pyramid(self.dataset, image, self.levels, side)
        for mirror in range(bank.description.num_mirrors):

            def cut(
                places: np.ndarray,
                point: np.ndarray,
                noise_keys: Callable[..., np.ndarray],
                resolutions: tuple[str, ...],
                mirror: int = mirror,
            ) -> UInt8[np.ndarray, "n P P 3"]:
                count = len(point) if resolutions else 0
                if not count:
                    return np.empty((0, side, side, 3), np.uint8)
                keys = noise_keys(np.full(count, image), np.full(count, mirror), point)
                patches = cut_patches(
                    [pyramid] * count, places, np.full(count, bool(mirror)), keys, resolutions
                )
                return patches.reshape(-1, *patches.shape[2:])

            parts = [
                cut(bank.fixations, np.arange(len(bank.fixations)), bank.noise_keys, fine),
                cut(low, np.arange(len(low)), bank.low_noise_keys, ("low",)),
                cut(bank.context_fixations[own], own, bank.context_noise_keys, ("low",)),
            ]
            features, cells = (
                found.to("cpu", torch.float16).numpy()
                for found in self.encoder.encode(torch.from_numpy(np.concatenate(parts)), grid)
            )
            ends = np.cumsum([len(part) for part in parts])
            if "glimpse.f16" in into:
                into["glimpse.f16"][mirror] = features[: ends[0]].reshape(bank.glimpse.shape[2:])
            if bank.low is not None:
                into["low.f16"][mirror] = features[ends[0] : ends[1]]
            row = np.empty(len(self.points), np.intp)  # of each context place's patch
            row[own] = np.arange(ends[1], ends[2])
            shared = self.points[self.shared]
            if bank.low is not None:
                row[self.shared] = ends[0] + shared
            elif self.shared.any():
                row[self.shared] = shared * len(fine) + fine.index("low")
            into["context.f16"][mirror] = features[row]
            if bank.context_cells is not None:
                into["context_cells.f16"][mirror] = cells[row].reshape(len(row), -1)

    @property
    def patches_per_image(self) -> int:
        """Encoder calls an image costs, in patches."""
        d = self.bank.description
        glimpses = len(d.fixations) * len(d.fine_resolutions) + len(d.low_fixations)
        return d.num_mirrors * (glimpses + int((~self.shared).sum()))


_BUILDER: BankBuilder | None = None


def _start_worker(
    bank: FeatureBank, dataset: ImageDataset, config: BankConfig, devices: SimpleQueue[str]
) -> None:
    """Set up one worker process: its own maps of the bank and its own encoder, one thread."""
    global _BUILDER
    # Ctrl-C reaches the whole process group; the parent is the one that answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    torch.set_num_threads(1)
    encoder = build_encoder(replace(config, device=devices.get()))
    _BUILDER = BankBuilder(bank, dataset, encoder)


def _end_with(parent: BaseProcess) -> None:
    """End this process when its parent does: nothing may go on behind its back, or wait for it."""
    parent.join()
    os._exit(1)


def _work(chunk: int, leases: Leases | None) -> int:
    assert _BUILDER is not None
    return _build(_BUILDER, chunk, leases)


def _build(builder: BankBuilder, chunk: int, leases: Leases | None) -> int:
    """Build a chunk, unless somebody else holds it or has built it; returns how many images."""
    if leases is None:
        return builder.build_chunk(chunk)
    with leases.held(chunk) as ours:
        if not ours or read_done(builder.bank.folder)[chunk]:
            return 0
        return builder.build_chunk(chunk)


def worker_devices(config: BankConfig, device: torch.device) -> list[str]:
    """The device of each process that computes: one a GPU, or --workers on a CPU."""
    if device.type == "cpu":
        return [config.device] * config.workers
    if device.type != "cuda" or config.device not in ("auto", "cuda"):
        return [config.device]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def build_chunks(
    config: BankConfig, builder: BankBuilder, chunks: list[int], leases: Leases | None = None
) -> Iterator[int]:
    """Yield the number of images of each chunk as it is done.

    Args:
        config: Says with how many processes.
        builder: Of this process.
        chunks: What to build.
        leases: Of those who share the work, if any.

    Raises:
        WorkerDiedError: A worker process ended by itself.
    """
    devices = worker_devices(config, builder.encoder.device)[: max(1, len(chunks))]
    if len(devices) == 1:
        for chunk in chunks:
            yield _build(builder, chunk, leases)
        return
    bystanders = set(active_children())
    # spawn: torch's threads do not survive a fork.
    context = get_context("spawn")
    queue = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    pool = ProcessPoolExecutor(
        len(devices), context, _start_worker, (builder.bank, builder.dataset, config, queue)
    )
    try:
        for future in as_completed([pool.submit(_work, chunk, leases) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "a worker process died (killed for want of memory, perhaps: fewer --workers need "
            "less): run the same command again, it goes on where it was"
        ) from error
    except BaseException:
        # What they are at is not marked done, so nobody need wait for it.
        for process in set(active_children()) - bystanders:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _seconds_per_patch(encoder: Encoder, workers: int, side: int) -> float:
    """Time a patch takes, in batches of 32, with this many workers of one thread each (CPU)."""
    patches = torch.randint(0, 256, (32, side, side, 3), dtype=torch.uint8)
    threads, times = torch.get_num_threads(), []
    if workers > 1:
        torch.set_num_threads(1)
    try:
        for _ in range(5):
            start = time.perf_counter()
            encoder(patches).cpu()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    # The first two allocate and choose kernels; of the others the best is the least disturbed.
    return min(times[2:]) / len(patches) / min(workers, os.cpu_count() or 1)


def planned(
    config: BankConfig, split: str, encoder: Encoder
) -> tuple[Path, ImageDataset, BankDescription]:
    """The folder of a split's bank, its images, and what it will hold.

    Raises:
        OSError: Too little room on the disk.
    """
    dataset = build_dataset(config.data, split)
    description = describe(config, dataset, encoder)
    folder = config.out / split
    config.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(config.out).free
    fresh = not (folder / "bank.json").exists()
    if fresh and description.num_bytes > free:
        raise OSError(
            f"the bank of {split} takes {description.num_bytes / 1e9:.2f} GB and {config.out} has "
            f"{free / 1e9:.2f} GB free: take a coarser lattice (--side) or another --out"
        )
    return folder, dataset, description


def build_bank(config: BankConfig, split: str, encoder: Encoder) -> FeatureBank:
    """Compute the bank of one split, or what is left of it.

    Raises:
        BankMismatchError: The folder holds another bank.
        OSError: Too little room on the disk.
        RunError: Another process computes it.
        WorkerDiedError: A worker process ended by itself; what is done is kept.
    """
    folder, dataset, description = planned(config, split, encoder)
    with sole_user(folder):
        _compute(config, BankBuilder(FeatureBank.create(folder, description), dataset, encoder))
    return FeatureBank.open(folder)


def settled(config: BankConfig) -> tuple[BankConfig, Encoder]:
    """Build the encoder, and name its backend where that is `auto`.

    So every process and every split computes alike, and a bank goes on as it was begun.

    Raises:
        ValueError, DeviceNotAvailableError: see `make_encoder`.
        BankMismatchError: A folder holds what is no bank.
    """
    if config.backend == "auto":
        begun = [config.out / split for split in config.splits]
        for folder in begun:
            if (folder / "bank.json").exists():
                found = FeatureBank.open(folder, allow_incomplete=True).description.backend
                config = replace(config, backend=cast(Backend, found))
                break
    encoder = build_encoder(config)
    return replace(config, backend=encoder.backend), encoder


def _compute(config: BankConfig, builder: BankBuilder) -> None:
    """Compute the chunks that are not done, with an estimate of the time and a bar."""
    description, encoder, total = builder.bank.description, builder.encoder, len(builder.dataset)
    split = description.split
    left = np.flatnonzero(builder.bank.done == 0).tolist()
    images = sum(min(description.chunk, total - chunk * description.chunk) for chunk in left)
    workers = min(len(worker_devices(config, encoder.device)), len(left))
    patches = images * builder.patches_per_image
    side = description.patch_side
    seconds = patches * _seconds_per_patch(encoder, workers, side) if left else 0.0
    grid = description.context_grid
    cells = f", {grid} x {grid} cells each" if grid > 1 else ""
    tqdm.write(
        f"{split}: {total} images, lattice {len(description.fixations)} points, "
        f"{builder.patches_per_image} patches an image; contexts at "
        f"{len(description.context_fixations)} places{cells}; "
        f"{description.num_bytes / 1e9:.2f} GB on disk; about {seconds / 60:.0f} min for the "
        f"{images} images left"
    )
    if left:
        with tqdm(
            total=total, initial=total - images, unit="img", desc=split, smoothing=0.02
        ) as bar:
            for count in build_chunks(config, builder, left):
                bar.update(count)


def bank(config: BankConfig) -> None:
    """Compute the banks of every split asked for, or a share of them, or put shares together.

    Started again, it goes on where it was.

    Raises:
        BankMismatchError: A folder holds another bank, or shares differ.
        RunError: Another process computes one of them, jobs failed, shares are missing, or the
            address to copy from or to does not answer.
    """
    from experiments.prepare import shares, transfer

    if config.fetched_from is not None:
        for split in config.splits:
            found = transfer.fetch(config.fetched_from, config.out, split)
            tqdm.write(f"{split}: complete in {found.folder}")
        return
    if config.merge:
        finished = [shares.merge_bank(config, split) for split in config.splits]
    elif config.share is not None:
        shares.build_shares(config)
        return
    elif config.on.cluster != "local":
        finished = shares.build_on_cluster(config)
    else:
        config, encoder = settled(config)
        finished = [build_bank(config, split, encoder) for split in config.splits]
    for each in finished:
        tqdm.write(f"{each.split}: complete in {each.folder}")
        if config.to is not None:
            transfer.send(each, config.to)
            tqdm.write(f"{each.split}: copied to {config.to}")
