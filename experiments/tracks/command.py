"""`glimpse compare TRACK`: players on a track, several seeds each, as one record."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.runtime.runs import RunError, write_json
from experiments.tracks import learners  # noqa: F401  registers its players
from experiments.tracks.config import TrackConfig
from experiments.tracks.entries import entry_name, figure_name, make_entry
from experiments.tracks.plot import draw_maps, draw_track
from experiments.tracks.registry import FIXED, LEARNED, ONE_SEED, Track, find_track
from experiments.tracks.report import collect_track, format_track
from experiments.tracks.run import open_game


def track_jobs(config: TrackConfig, track: Track) -> list[Job]:
    """One job for each player and seed; where all seeds are the same, one."""
    seeds = config.seeds or track.seeds
    return [
        Job("look", player, config.look(player, seed), resumable=False)
        for player in config.players or (*FIXED, *LEARNED)
        for seed in range(1 if player in ONE_SEED else seeds)
    ]


def compare_track(config: TrackConfig) -> dict[str, Any]:
    """Run what is not done; writes `track.{json,md,png}` and `maps.png`, prints the table.

    Raises:
        RunError: Runs failed (the others are done), or stand on different images or features.
    """
    track = find_track(config.track)
    if track.game == "name":
        return _compare_names(config, track)
    jobs = track_jobs(config, track)
    if not config.only_table:
        open_game(track, config, 0)  # what is missing is told once, before any job starts
        run_jobs(jobs, config.on, out=config.folder, parallel=config.jobs, device=config.device)
    finished = [job for job in jobs if job.finished]
    record = collect_track(track, finished)
    text = format_track(record)
    config.folder.mkdir(parents=True, exist_ok=True)
    write_json(config.folder / "track.json", record)
    (config.folder / "track.md").write_text(text + "\n", encoding="utf-8")
    draw_track(record, config.folder / "track.png")
    draw_maps(record, config.folder, config.folder / "maps.png")
    print(f"{text}\n\nwritten: {config.folder}/track.json, .md, .png and maps.png")
    if config.submit is not None:
        config.submit.mkdir(parents=True, exist_ok=True)
        own = track.record()
        shutil.copyfile(config.folder / "track.png", config.submit / figure_name(own, "curves"))
        shutil.copyfile(config.folder / "maps.png", config.submit / figure_name(own, "maps"))
        for player in record["players"]:
            entry = make_entry(record, player, by=config.by)
            path = config.submit / entry_name(track, player)
            folder = path.with_suffix("")
            for run in entry["runs"]:
                source = config.folder / run["folder"] / "checkpoint"
                run["folder"] = f"seed-{run['seed']}"
                if source.is_dir():
                    shutil.copytree(source, folder / run["folder"], dirs_exist_ok=True)
            write_json(path, entry)
            print(f"entry: {path}; check it with `glimpse compare --verify {path}`")
    return record


def _compare_names(config: TrackConfig, track: Track) -> dict[str, Any]:
    """Run the look-and-name game by a track's protocol: `glimpse compare` with its settings."""
    from experiments.compare.compare import compare
    from experiments.compare.config import CompareConfig

    if config.submit is not None or config.set:
        raise RunError(
            f"{track.name} takes no --submit and no --set yet: the leaderboard is of look tracks"
        )
    if config.classifier is not None:
        raise RunError(
            f"{track.name} takes no --classifier, since its players name the breed themselves"
        )
    run = track.run
    own: dict[str, Any] = {"agents": config.players} if config.players else {}
    images = config.num_images or track.num_images
    # Other images are another bank; it must not take the place of the track's.
    bank = run.bank if config.num_images is None else Path("banks") / f"synthetic-{images}"
    return compare(
        CompareConfig(
            track.experiment,
            out=config.folder,
            seeds=config.seeds or track.seeds,
            steps=config.steps or track.steps,
            minutes=track.minutes,
            max_minutes=max(track.minutes, 3.0),
            clock="processor",
            evaluations=track.evaluations,
            only_table=config.only_table,
            data=type(run.data)(run.data.dataset, data_dir=config.data_dir, num_images=images),
            bank=config.bank or bank,
            device=config.device,
            jobs=config.jobs,
            on=config.on,
            **own,
        )
    )
