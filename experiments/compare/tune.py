"""`glimpse tune`: search agents' settings, with equal effort for each."""

from __future__ import annotations

from typing import Any

from experiments.cluster.config import parallelism
from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.compare.config import AgentRunConfig, TuneConfig
from experiments.compare.run import prepare_banks
from experiments.compare.settings import searched_settings, settings_for
from experiments.compare.study import Study, next_trials, open_study, suggest, tell
from experiments.runtime.runs import read_json, sole_user, stands_on, write_json

_AGAIN = "run `glimpse tune` again"
_ROUND = 16
"""Trials of a round on a cluster, unless --jobs says otherwise: later rounds learn from earlier."""


def tune(config: TuneConfig) -> dict[str, Any]:
    """Run the trials that are not done; writes `tuning.json` in `out`, prints the best of each.

    Raises:
        RunError: Trials failed (the others are done), or another process searches in `out`.
        ValueError: Optuna is absent.
    """
    with sole_user(config.out):
        studies = {agent: open_study(config.journal(agent), agent) for agent in config.agents}
        _search(config, studies)
        record: dict[str, Any] = {
            "environment": config.environment,
            "budget": {
                "trials": config.trials,
                "steps": config.steps,
                "minutes": config.minutes,
                "max_minutes": config.max_minutes,
                "clock": config.clock,
                "seed": config.seed,
            },
            "agents": {agent: _collect(config, study) for agent, study in studies.items()},
        }
        folder = config.agent_run(config.agents[0], trial=0, changes=()).out
        environment = read_json(folder / "environment.json", _AGAIN)
        record |= {name: environment[name] for name in ("versions", "git_revision", "machine")}
        record["stands_on"] = stands_on(environment)
        write_json(config.out / "tuning.json", record)
    print(f"written: {config.out / 'tuning.json'}")
    return record


def _search(config: TuneConfig, studies: dict[str, Study]) -> None:
    """Run trials of all agents side by side, round by round."""
    for agent, study in studies.items():
        if not study.trials:  # the settings as they are
            now = settings_for(agent, config.environment)
            study.enqueue_trial({name: getattr(now, name) for name in searched_settings(agent)})
    local = config.on.cluster == "local"
    parallel = parallelism(config.jobs, config.device)[0] if local else config.jobs or _ROUND
    count = max(1, parallel // len(studies))
    prepare_banks(config.agent_run(config.agents[0], trial=0, changes=()).run())
    while True:
        jobs = [
            Job("train-agent", agent, _trial_run(config, study, trial), resumable=False)
            for agent, study in studies.items()
            for trial in next_trials(study, config.trials, count, config.seed)
        ]
        if not jobs:
            return
        run_jobs(jobs, config.on, out=config.out, parallel=config.jobs, device=config.device)
        for job in jobs:
            found = read_json(job.folder / "evaluation-val.json", _AGAIN)
            study = studies[job.experiment]
            tell(study, job.config.trial, found["curve"], pruned=found["pruned"])


def _trial_run(config: TuneConfig, study: Study, trial: Any) -> AgentRunConfig:
    agent = study.study_name
    return config.agent_run(agent, trial=trial.number, changes=suggest(trial, agent))


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
