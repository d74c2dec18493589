"""Optuna's part of `glimpse tune`: the study of an agent, its trials, and when one is ended."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.compare.settings import LogRange, searched_settings

if TYPE_CHECKING:
    from experiments.compare.config import AgentRunConfig

Study = Any
"""An `optuna.Study`; what needs no search must work without Optuna."""
Trial = Any
"""An `optuna.Trial`."""

_RANDOM = 4
"""Trials of a study drawn at random; later ones follow from those before."""


def open_study(journal: Path, agent: str) -> Study:
    """Open the study of an agent in its journal, or begin it.

    Raises:
        ValueError: Optuna is absent; the message names the extra.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ModuleNotFoundError as error:
        raise ValueError(
            "settings are searched by Optuna, which is not here: install the extra that brings it, "
            "`pip install 'glimpse-env[tune]'`"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        path = str(journal)
        backend = JournalFileBackend(path, lock_obj=JournalFileOpenLock(path))
        storage = optuna.storages.JournalStorage(backend)
    return optuna.create_study(
        storage=storage,
        study_name=agent,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_RANDOM),
        load_if_exists=True,
    )


def next_trials(
    study: Study,
    most: int,
    count: int,
    seed: int,
    take: Callable[[int], bool] = lambda number: True,
    spaces: Mapping[str, LogRange | tuple[Any, ...]] | None = None,
) -> list[Trial]:
    """Return trials to run: those that were cut short, then new ones.

    Args:
        study: The study, whose first trial has been queued.
        most: Trials that it is to have in the end.
        count: Trials to return, at most.
        seed: Seed of the search. It is mixed with a trial's number, so that a search which was
            interrupted draws as one that was not.
        take: Takes a trial by its number, unless another worker has it.
        spaces: What to draw of a new trial, each from the trial's own seed.
    """
    from optuna import trial
    from optuna.samplers import TPESampler

    running, trials = trial.TrialState.RUNNING, []
    for each in study.get_trials(deepcopy=False, states=[running]):
        if len(trials) == count:
            return trials
        # Asked again once it is ours: whoever had it may have come to its end meanwhile.
        if take(each.number) and study.trials[each.number].state == running:
            trials.append(trial.Trial(study, each._trial_id))
    begun = len(study.trials) - len(study.get_trials(states=[trial.TrialState.WAITING]))
    for number in range(begun, min(most, begun + count - len(trials))):
        mixed = np.random.SeedSequence([seed, *study.study_name.encode(), number])
        study.sampler = TPESampler(n_startup_trials=_RANDOM, seed=int(mixed.generate_state(1)[0]))
        asked = study.ask()
        take(asked.number)
        draw(asked, spaces or {})
        trials.append(asked)
    return trials


def finished(study: Study, most: int) -> bool:
    """Say whether a study has all its trials, each at its end."""
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=ended)) >= most


def suggest(trial: Trial, agent: str) -> tuple[str, ...]:
    """Draw a trial's settings, as changes for `settings_for`; a trial begun before has its own."""
    return draw(trial, searched_settings(agent))


def draw(trial: Trial, spaces: Mapping[str, LogRange | tuple[Any, ...]]) -> tuple[str, ...]:
    """Draw a value from each space, as NAME=VALUE; a trial begun before has its own."""
    found = {
        name: f"{trial.suggest_float(name, *space, log=True):.3g}"
        if isinstance(space, LogRange)
        else trial.suggest_categorical(name, space)
        for name, space in spaces.items()
    }
    return tuple(f"{name}={value}" for name, value in found.items())


def make_pruner(config: AgentRunConfig) -> Callable[[dict[str, Any]], bool]:
    """Return what takes each point of a trial's curve, and says whether to end the trial."""
    from optuna import trial as trials

    assert config.study is not None
    study = open_study(config.study, config.agent)
    trial, told = trials.Trial(study, study.trials[config.trial]._trial_id), 0

    def lags(row: dict[str, Any]) -> bool:
        nonlocal told
        # Trials are compared where they have used the same share of both budgets.
        used = min(row["steps"] / config.steps, row["seconds"] / (60 * config.minutes))
        part = int(used * config.evaluations + 1e-9)
        if not told < part < config.evaluations:
            return False
        told = part
        trial.report(row["ma"], part)
        return trial.should_prune()

    return lags


def tell(study: Study, number: int, curve: list[dict[str, Any]], *, pruned: bool) -> None:
    """Note what a trial has come to."""
    from optuna.trial import TrialState

    state = TrialState.PRUNED if pruned else TrialState.COMPLETE
    study.tell(number, None if pruned else curve[-1]["ma"], state=state)
