"""`glimpse tune`: search agents' settings, with equal effort for each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from experiments.cluster.config import LOCAL, parallelism
from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.compare.claims import Claims
from experiments.compare.config import AgentRunConfig, TuneConfig
from experiments.compare.run import prepare_banks
from experiments.compare.settings import searched_settings, settings_for
from experiments.compare.study import Study, finished, next_trials, open_study, suggest, tell
from experiments.runtime.runs import RunError, read_json, sole_user, stands_on, write_json

_AGAIN = "run `glimpse tune` again"
_ROUND = 16
"""Trials of a round on a cluster, unless --jobs says otherwise: later rounds learn from earlier."""
_WAIT_SECONDS = 1.0
"""Between two looks at trials that are all in the hands of other workers."""


def tune(config: TuneConfig) -> dict[str, Any]:
    """Run the trials that are not done; writes `tuning.json` in `out`, prints the best of each.

    Several processes, on several machines too, may do so in one folder: each takes trials that no
    other has, and goes on with those of one that died.

    Raises:
        RunError: Trials failed (the others are done), or the search in `out` is of other settings.
        ValueError: Optuna is absent.
    """
    with sole_user(config.out, wait=True):
        studies = {agent: open_study(config.journal(agent), agent) for agent in config.agents}
        for study in studies.values():
            _begin(config, study)
        prepare_banks(config.agent_run(config.agents[0], trial=0, changes=()).run())
    if config.workers:
        _search_by_workers(config, config.workers)
    else:
        _search(config, studies)
    with sole_user(config.out, wait=True):
        return _record(config, studies)


def _begin(config: TuneConfig, study: Study) -> None:
    """Queue the first trial, the settings as they are; refuse a search of another budget."""
    budget = {k: v for k, v in _budget(config).items() if k != "trials"}
    budget |= {"environment": config.environment, "prune": config.prune}
    found = study.user_attrs.get("budget", budget)
    names = [f"--{name.replace('_', '-')}" for name in budget if found.get(name) != budget[name]]
    if names:
        raise RunError(
            f"the search in {config.out} is of other settings ({', '.join(names)}): ask for its "
            "own, or give another --out"
        )
    study.set_user_attr("budget", budget)
    if not study.trials:
        agent = study.study_name
        now = settings_for(agent, config.environment)
        study.enqueue_trial({name: getattr(now, name) for name in searched_settings(agent)})


def _budget(config: TuneConfig) -> dict[str, Any]:
    names = ("trials", "steps", "minutes", "max_minutes", "clock", "seed")
    return {name: getattr(config, name) for name in names}


def _search(config: TuneConfig, studies: dict[str, Study]) -> None:
    """Run trials of all agents side by side, round by round, until each has its trials."""
    local = config.on.cluster == "local"
    parallel = parallelism(config.jobs, config.device)[0] if local else config.jobs or _ROUND
    count = max(1, parallel // len(studies))
    while not all(finished(study, config.trials) for study in studies.values()):
        with _claimed(config, studies, count) as jobs:
            run_jobs(jobs, config.on, out=config.out, parallel=config.jobs, device=config.device)
            for job in jobs:
                found = read_json(job.folder / "evaluation-val.json", _AGAIN)
                study = studies[job.experiment]
                tell(study, job.config.trial, found["curve"], pruned=found["pruned"])
        if not jobs:
            time.sleep(_WAIT_SECONDS)


@contextmanager
def _claimed(config: TuneConfig, studies: dict[str, Study], count: int) -> Iterator[list[Job]]:
    """Jobs of up to `count` trials an agent that no other worker has, held meanwhile."""
    claims = {agent: Claims(config.out / agent) for agent in studies}
    try:
        # One worker asks at a time, or together they would begin more trials than asked for.
        with sole_user(config.out, wait=True):
            jobs = [
                Job("train-agent", agent, _trial_run(config, study, trial), resumable=False)
                for agent, study in studies.items()
                for trial in next_trials(
                    study,
                    config.trials,
                    count,
                    config.seed,
                    claims[agent].take,
                    searched_settings(agent),
                )
            ]
        yield jobs
    finally:
        for each in claims.values():
            each.give_back()


def _trial_run(config: TuneConfig, study: Study, trial: Any) -> AgentRunConfig:
    agent = study.study_name
    return config.agent_run(agent, trial=trial.number, changes=suggest(trial, agent))


# -- several workers ------------------------------------------------------------------------------


def searched(config: TuneConfig) -> bool:
    """Say whether all trials of a search are done."""
    journals = {agent: config.journal(agent) for agent in config.agents}
    return all(
        journal.exists() and finished(open_study(journal, agent), config.trials)
        for agent, journal in journals.items()
    )


def _search_by_workers(config: TuneConfig, count: int) -> None:
    """Start workers as jobs, each a search of its own in the same folder."""
    local = config.on.cluster == "local"
    threads = config.on.threads or (parallelism(count, config.device)[1] if local else 1)
    on = replace(LOCAL, threads=threads, retries=config.on.retries)
    jobs = [
        Job(
            "tune",
            f"worker {number}",
            replace(config, workers=None, jobs=1, on=on),
            resumable=False,
            part=f"-worker-{number}",
            ended="experiments.compare.tune:searched",
        )
        for number in range(1, count + 1)
    ]
    run_jobs(jobs, config.on, out=config.out, parallel=count, device=config.device)


# -- the record -----------------------------------------------------------------------------------


def _record(config: TuneConfig, studies: dict[str, Study]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "environment": config.environment,
        "budget": _budget(config),
        "agents": {agent: _collect(config, study) for agent, study in studies.items()},
    }
    folder = config.agent_run(config.agents[0], trial=0, changes=()).out
    environment = read_json(folder / "environment.json", _AGAIN)
    record |= {name: environment[name] for name in ("versions", "git_revision", "machine")}
    record["stands_on"] = stands_on(environment)
    write_json(config.out / "tuning.json", record)
    print(f"written: {config.out / 'tuning.json'}")
    return record


def _collect(config: TuneConfig, study: Study) -> dict[str, Any]:
    """Read the trials of an agent, and print the best."""
    agent, trials = study.study_name, []
    for number in range(config.trials):
        run = config.agent_run(agent, trial=number, changes=()).out
        found = read_json(run / "evaluation-val.json", _AGAIN)
        changes = read_json(run / "config.json", _AGAIN)["set"]
        last = {name: found["curve"][-1][name] for name in ("ma", "steps", "seconds")}
        pruned = found["pruned"]
        trials.append({"set": changes, "settings": found["settings"], **last, "pruned": pruned})
    best = max((each for each in trials if not each["pruned"]), key=lambda each: each["ma"])
    print(
        f"{agent:<22} mA {trials[0]['ma']:5.1f} as it was, best {best['ma']:5.1f}: "
        f"{' '.join(best['set'])}"
    )
    return {"best": best, "trials": trials}
