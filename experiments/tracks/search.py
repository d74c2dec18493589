"""`glimpse tune TRACK`: search the settings of a track's players, with equal effort for each."""

from __future__ import annotations

from typing import Any

from experiments.cluster.config import parallelism
from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.compare.study import Study, draw, next_trials, open_study
from experiments.runtime.runs import read_json, sole_user, write_json
from experiments.tracks import learners  # noqa: F401  registers its players
from experiments.tracks.config import TrackTuneConfig
from experiments.tracks.players import PLAYERS, player_settings
from experiments.tracks.registry import LEARNED, find_track
from experiments.tracks.run import describe_game, open_game

_AGAIN = "run `glimpse tune` again"


def tune_track(config: TrackTuneConfig) -> dict[str, Any]:
    """Run the trials that are not done; writes `tuning.json` in `out`, prints the best of each.

    A trial's score is what its player earns on `val` in the end, in nats.

    Raises:
        RunError: Trials failed (the others are done), or another process searches in `out`.
        ValueError: Optuna is absent.
        FileNotFoundError, ClassifierError: Something is missing; the message says how to make it.
    """
    track, players = find_track(config.track), config.players or LEARNED
    with sole_user(config.folder):
        game = open_game(track, config, config.seed)
        journals = {name: config.folder / f"{name}.journal" for name in players}
        studies = {name: open_study(journals[name], name) for name in players}
        _search(config, studies)
        found = {name: _collect(config, name) for name in players}
        first = config.look(players[0], 0, ()).out
        environment = read_json(first / "environment.json", _AGAIN)
        record = {
            "track": track.record(),
            "budget": {
                name: getattr(config, name) for name in ("trials", "steps", "minutes", "seed")
            },
            "players": found,
            **describe_game(game),
            **{name: environment[name] for name in ("versions", "git_revision", "machine")},
        }
        write_json(config.folder / "tuning.json", record)
    print(f"written: {config.folder / 'tuning.json'}")
    return record


def _search(config: TrackTuneConfig, studies: dict[str, Study]) -> None:
    """Run trials of all players side by side, round by round."""
    for name, study in studies.items():
        if not study.trials:  # the settings as they are
            study.enqueue_trial(player_settings(name))
    local = config.on.cluster == "local"
    parallel = parallelism(config.jobs, config.device)[0] if local else config.jobs or len(studies)
    count = max(1, parallel // len(studies))
    while True:
        trials: dict[str, tuple[Study, Any]] = {}
        jobs = []
        for name, study in studies.items():
            spaces = {each: own.space for each, own in PLAYERS[name].searched.items()}
            for trial in next_trials(study, config.trials, count, config.seed, spaces=spaces):
                run = config.look(name, trial.number, draw(trial, spaces))
                jobs.append(Job("look", name, run, resumable=False))
                trials[jobs[-1].name] = (study, trial.number)
        if not jobs:
            return
        folder = config.folder
        run_jobs(jobs, config.on, out=folder, parallel=config.jobs, device=config.device)
        for job in jobs:
            study, number = trials[job.name]
            study.tell(number, _earned(read_json(job.folder / "evaluation-val.json", _AGAIN)))


def _earned(run: dict[str, Any]) -> float:
    return float(run["score"]["information"])


def _collect(config: TrackTuneConfig, name: str) -> dict[str, Any]:
    """Read the trials of a player, and print the best."""
    trials = []
    for number in range(config.trials):
        folder = config.look(name, number, ()).out
        run = read_json(folder / "evaluation-val.json", _AGAIN)
        kept = {key: run[key] for key in ("settings", "looks", "stopped_short", "seconds")}
        trials.append(kept | {"information": _earned(run), "ma": run["score"]["ma"]})
    best = max(trials, key=lambda each: each["information"])
    told = " ".join(f"{key}={value}" for key, value in best["settings"].items())
    print(
        f"{name:<14} {trials[0]['information']:.3f} nats as it was, best "
        f"{best['information']:.3f}: {told}"
    )
    return {"best": best, "trials": trials}
