"""`glimpse bank` by many machines: shares of a bank, and one bank of them.

Each share takes every N-th chunk. Chunks are leased, and a share that has done its own helps those
in the same folder, so that a slow or dead one costs no more than the chunk it was at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from encoders.bank.chunks import chunk_images, read_chunk, read_done, write_chunk
from encoders.bank.description import BankDescription, BankMismatchError
from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder
from experiments.cluster.config import LOCAL
from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.prepare.bank import BankBuilder, build_chunks, planned
from experiments.prepare.calibration import build_encoder
from experiments.prepare.config import BankConfig, parse_share
from experiments.prepare.leases import Leases
from experiments.runtime.runs import LOCK, RunError, sole_user

_SHARES = 8
_WAIT_SECONDS = 1.0


def _leases(folder: Path) -> Leases:
    return Leases(folder / "leases")


def build_shares(config: BankConfig) -> None:
    """Compute a share of the banks of every split asked for, and help others in the folder.

    Raises:
        BankMismatchError: The folder holds another bank.
        OSError: Too little room on the disk.
        WorkerDiedError: A worker process ended by itself; what is done is kept.
    """
    assert config.share is not None
    encoder = build_encoder(config)
    for split in config.splits:
        folder = _build_share(config, split, encoder)
        done = read_done(folder)
        if done.all():
            tqdm.write(f"{split}: complete in {folder}")
        else:
            tqdm.write(
                f"{split}: {int(done.sum())} of {len(done)} chunks are in {folder}; with the "
                "other shares' folders `glimpse bank --merge` makes the whole of them"
            )


def _build_share(config: BankConfig, split: str, encoder: Encoder) -> Path:
    share, count = parse_share(str(config.share))
    folder, dataset, description = planned(config, split, encoder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder / LOCK)):  # another share may be laying it out
        bank = FeatureBank.create(folder, description)
    builder = BankBuilder(bank, dataset, encoder)
    leases = _leases(folder)
    if not bank.complete:
        leases.join(share, count)
    with tqdm(total=len(_own(description, share, count)), unit="chunk", desc=split) as bar:
        while todo := _todo(folder, description, leases, share, count):
            made = 0
            for images in build_chunks(config, builder, todo, leases):
                made += images
                bar.update(bool(images))
            if not made:
                time.sleep(_WAIT_SECONDS)  # all that is left is in the hands of others
    if read_done(folder).all():
        leases.remove()
    return folder


def _own(description: BankDescription, share: int, count: int) -> range:
    """Chunks of a share."""
    return range(share - 1, description.num_chunks, count)


def _todo(
    folder: Path, description: BankDescription, leases: Leases, share: int, count: int
) -> list[int]:
    """Chunks of a share that are not done; once they are, those of others in the folder."""
    done = read_done(folder)
    own = [chunk for chunk in _own(description, share, count) if not done[chunk]]
    if own:
        return own
    others = (_own(description, each, count) for each in leases.members(count) - {share})
    # Not all in the same order, or they would meet at every chunk.
    left = sorted(chunk for each in others for chunk in each if not done[chunk])
    start = len(left) * (share - 1) // count
    return left[start:] + left[:start]


# -- on a cluster ---------------------------------------------------------------------------------


def share_done(config: BankConfig) -> bool:
    """Whether a share's own chunks are done."""
    share, count = parse_share(str(config.share))
    for split in config.splits:
        folder = config.out / split
        try:
            description = FeatureBank.open(folder, allow_incomplete=True).description
        except FileNotFoundError:
            return False
        if not read_done(folder)[_own(description, share, count)].all():
            return False
    return True


def build_on_cluster(config: BankConfig) -> list[FeatureBank]:
    """Compute the banks of all splits as jobs, each a share.

    Raises:
        BankMismatchError: The folder holds another bank.
        RunError: No cluster answers, or jobs failed.
    """
    _check_folder(config)
    count = config.jobs or _SHARES
    jobs = [
        Job(
            "bank",
            f"share {share}",
            replace(config, share=f"{share}/{count}", on=LOCAL, jobs=None, to=None),
            resumable=False,
            part=f"-{share}-of-{count}",
            ended="experiments.prepare.shares:share_done",
        )
        for share in range(1, count + 1)
    ]
    for split in config.splits:
        if not (config.out / split / "bank.json").exists():
            for share in range(1, count + 1):  # so that each may help the others from the start
                _leases(config.out / split).join(share, count)
    run_jobs(jobs, config.on, out=config.out, device=config.device)
    return [FeatureBank.open(config.out / split) for split in config.splits]


def _check_folder(config: BankConfig) -> None:
    """Refuse a folder whose banks are others: their finished chunks are not those asked for."""
    there = [split for split in config.splits if (config.out / split / "bank.json").exists()]
    if not there:
        return
    # The nodes' device may be absent here; what it computes is the same but for its arithmetic.
    encoder = build_encoder(replace(config, device="cpu"))
    for split in there:
        folder, _, description = planned(config, split, encoder)
        if config.precision == "auto":
            found = FeatureBank.open(folder, allow_incomplete=True).description
            description = replace(description, precision=found.precision)
        FeatureBank.create(folder, description)


# -- one bank of several folders ------------------------------------------------------------------


def merge_bank(config: BankConfig, split: str) -> FeatureBank:
    """Put a bank together from folders that each hold some of its chunks.

    What several hold must be the same, byte for byte; what is written is read again.

    Raises:
        BankMismatchError: The folders are of different banks, or disagree.
        FileNotFoundError: A folder holds no bank of the split.
        RunError: Chunks are in none of the folders.
    """
    parts = [FeatureBank.open(each / split, allow_incomplete=True) for each in config.merge]
    first = parts[0]
    for part in parts[1:]:
        names = _differing(first.description, part.description)
        if names:
            raise BankMismatchError(
                f"{first.folder} and {part.folder} are parts of different banks; they differ in: "
                f"{', '.join(names)}"
            )
    folder = config.out / split
    with sole_user(folder):
        whole = FeatureBank.create(folder, first.description)
        missing = _copy(whole, parts, tqdm)
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise RunError(
            f"{len(missing)} of {len(whole.done)} chunks of {split} are in none of the folders "
            f"({some}): compute them with the same `glimpse bank --share`, then merge again"
        )
    _leases(folder).remove()
    return FeatureBank.open(folder)


def _differing(one: BankDescription, two: BankDescription) -> list[str]:
    a, b = one.record(), two.record()
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _copy(
    whole: FeatureBank, parts: list[FeatureBank], bar: Callable[..., Iterable[int]]
) -> list[int]:
    """Copy and compare chunk by chunk; returns those that nobody has."""
    description, missing = whole.description, []
    shapes = description.array_shapes
    for chunk in bar(range(description.num_chunks), unit="chunk", desc=whole.split):
        holders = [each for each in (whole, *parts) if read_done(each.folder)[chunk]]
        if not holders:
            missing.append(chunk)
            continue
        content = read_chunk(holders[0].folder, description, chunk)
        for other in holders[1:]:
            if read_chunk(other.folder, description, chunk) != content:
                raise BankMismatchError(
                    f"{holders[0].folder} and {other.folder} disagree about chunk {chunk}: they "
                    "were computed with other arithmetic (another device, --precision or number "
                    "of threads); leave one of them out"
                )
        if holders[0] is whole:
            continue
        rows = len(chunk_images(description, chunk))
        arrays = {
            name: np.frombuffer(data, np.float16).reshape(rows, *shapes[name][1:])
            for name, data in content.items()
        }
        write_chunk(whole.folder, description, chunk, arrays)
        if read_chunk(whole.folder, description, chunk) != content:
            raise OSError(f"{whole.folder}: chunk {chunk} is not what was written: a bad disk?")
    return missing
