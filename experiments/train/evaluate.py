"""`glimpse evaluate`: what an agent gets right, where it looks, and what that is worth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from agents.reference.agent import ReferenceAgent, center, given, oracle_fixations
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from agents.tensor_store import BEST, RECORD, has_checkpoint
from encoders.bank.feature_bank import FeatureBank
from encoders.bank.points import lattice
from encoders.inference.engine import Encoder
from experiments.metrics import Answers
from experiments.runtime.hub_runs import local_run, results_folder
from experiments.runtime.runs import RunError, load_config, read_json, write_json
from experiments.train.config import EvaluateConfig, TrainConfig
from experiments.train.external_policy import Agent, ExternalPolicy, learns
from experiments.train.factory import (
    REFERENCES,
    PlayEnv,
    build_agents,
    build_play_env,
    describe_evaluation,
    evaluation_name,
    open_source,
)
from experiments.train.loop import batches, episodes
from experiments.train.side_channel import side_channel
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.pyramid import PATCH_SIDE, build_pyramid
from glimpse_env.rendering.scanpath import scanpath_panel
from glimpse_env.retina.rules import cut_patches, cut_scaled_patches


def play(
    agent: Agent,
    env: PlayEnv,
    *,
    deterministic: bool = True,
    seed: int = 0,
    images: np.ndarray | None = None,
) -> Answers:
    """Play every image once.

    Args:
        agent: Who plays.
        env: With `batch_size` environments, on the split.
        deterministic: Fixate the mean location, rather than a sample around it.
        seed: Of the environment's draws (noise outside the images) and the agent's.
        images: Indices, if not all.
    """
    agent.seed(seed)
    chosen = np.arange(len(env.dataset)) if images is None else images
    labels, answers, log_probs, fixations, scales = [], [], [], [], []
    for trajectory, count in episodes(agent, env, chosen, deterministic=deterministic, seed=seed):
        labels.append(trajectory.labels[:count])
        answers.append(trajectory.answers[:count])
        told = agent.class_log_probs(trajectory.states[-1])
        if told is not None:
            log_probs.append(told[:count].detach())
        fixations.append(trajectory.fixations[:, :count])
        if trajectory.scales is not None:
            scales.append(trajectory.scales[:, :count])
    return Answers(
        labels=torch.cat(labels).cpu().numpy(),
        log_probs=torch.cat(log_probs).cpu().numpy() if log_probs else None,
        fixations=torch.cat(fixations, dim=1).cpu().numpy(),
        scales=env.snap_scale(torch.cat(scales, dim=1).cpu().numpy()) if scales else None,
        answers=None if log_probs else torch.cat(answers).cpu().numpy(),
    )


def monte_carlo(agent: Agent, env: PlayEnv, scanpaths: int, seed: int = 0) -> Answers:
    """Average the log-probabilities of M sampled scanpaths (model.md, Forward).

    Averaging hides a bad policy, so the score of the mean location belongs beside it.
    """
    played = [
        play(agent, env, deterministic=False, seed=seed + 7919 * m) for m in range(1, scanpaths + 1)
    ]
    mean = np.mean([each.log_probs for each in played if each.log_probs is not None], axis=0)
    return replace(played[0], log_probs=mean)


def at_centre(agent: ReinforceAgent) -> ReferenceAgent:
    """Make an agent's own network look at the centre: what looking is worth to it."""
    probe = ReferenceAgent(center, agent.config, agent.learning, device=agent.device)
    probe.network = agent.network
    return probe


def oracle(
    agent: ReinforceAgent,
    env: PlayEnv,
    candidates: Float[Tensor, "L 2"],
    seed: int = 0,
) -> Answers:
    """Let the true label choose among lattice points, greedily per glimpse: a ceiling, no policy.

    It chooses no scale: where the agent does, all its glimpses are at scale 0.

    Args:
        agent: Whose classifier answers; one trained on random fixations knows all the lattice.
        env: On the split.
        candidates: Fixations to choose from.
        seed: As for `play`.
    """
    probe = at_centre(agent)
    labels, log_probs, fixations = [], [], []
    for batch, count in batches(len(env.dataset), env.num_envs):

        def evaluate_at(points: Tensor, batch: np.ndarray = batch) -> Tensor:
            probe.chooser = given(points)
            trajectory = collect(
                env, probe, seed=seed + int(batch[0]), options={"image": batch}, deterministic=True
            )
            return probe.class_log_probs(trajectory.states[-1]).detach().cpu()

        truth = torch.as_tensor(env.dataset.labels[batch])
        start = torch.zeros(agent.config.num_glimpses, len(batch), 2)
        chosen, _ = oracle_fixations(evaluate_at, truth, candidates, start)
        labels.append(truth[:count])
        log_probs.append(evaluate_at(chosen)[:count])
        fixations.append(chosen[:, :count])
    return Answers(
        torch.cat(labels).numpy(),
        torch.cat(log_probs).numpy(),
        torch.cat(fixations, dim=1).numpy(),
    )


def oracle_lattice(source: FeatureBank | Encoder | None) -> Float[Tensor, "L 2"]:
    """The bank's own lattice, or 5 x 5 for a live encoder."""
    points = source.fixations if isinstance(source, FeatureBank) else lattice(5)
    return torch.from_numpy(np.array(points))


def fixation_facts(
    fixations: Float[np.ndarray, "T N 2"], scales: Float[np.ndarray, "T N"] | None = None
) -> dict[str, Any]:
    """Measure where an agent looks: mean and spread over the images, per glimpse.

    A spread of 0 is a policy that looks at the same place in every image. If it chose the scale,
    `scales` gives the share of the images seen at each, rounded to whole ones, per glimpse.
    """
    facts: dict[str, Any] = {
        "mean": fixations.mean(axis=1).round(4).tolist(),
        "spread": fixations.std(axis=1).round(4).tolist(),
    }
    if scales is not None:
        whole = np.rint(scales)
        facts["scales"] = {
            str(scale): (whole == scale).mean(axis=1).round(4).tolist() for scale in (-1, 0, 1)
        }
    return facts


def score_agents(
    agents: dict[str, Agent],
    env: PlayEnv,
    *,
    scanpaths: int,
    candidates: Float[Tensor, "L 2"] | None,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, Answers]]:
    """Evaluate the run's policy by mean location and by Monte Carlo, and the references.

    Args:
        agents: `learned` and perhaps references.
        env: On the split.
        scanpaths: M of Monte-Carlo evaluation; 1 leaves it out, as does a policy that tells no
            log-probabilities to average.
        candidates: Fixations the oracle chooses from; None leaves it out, as does the lack of a
            classifier of ours to be its judge.
        seed: As for `play`.

    Returns:
        A record for JSON and the answers behind it, both by name.
    """
    answers = {"learned": play(agents["learned"], env, seed=seed)}
    if scanpaths > 1 and answers["learned"].log_probs is not None:
        answers[f"learned, mean of {scanpaths} scanpaths"] = monte_carlo(
            agents["learned"], env, scanpaths, seed
        )
    for name in REFERENCES:
        if name in agents:
            answers[name] = play(agents[name], env, seed=seed)
    answers |= side_channel(agents, env, seed)
    judge = agents.get("random", agents["learned"])
    if candidates is not None and isinstance(judge, ReinforceAgent):
        answers["oracle"] = oracle(judge, env, candidates, seed)
    record = {
        name: asdict(a.score()) | {"fixations": fixation_facts(a.fixations, a.scales)}
        for name, a in answers.items()
    }
    return record, answers


def format_table(record: dict[str, Any], policy: str = "two-deck") -> str:
    """The report as a table of text; another policy than the two-deck agent goes by its name."""
    title = "spread x, y (last glimpse)"
    width = max(28, *map(len, record))
    lines = [f"{'fixations':<{width}} {'mA %':>6}  {'95% interval':>14}  {title:>26}"]
    for name, row in record.items():
        spread = ", ".join(f"{value:.2f}" for value in row["fixations"]["spread"][-1])
        if policy != "two-deck":
            name = name.replace("learned", policy)
        lines.append(
            f"{name:<{width}} {row['ma']:6.1f}  {row['low']:6.1f} - {row['high']:5.1f}  "
            f"{spread:>26}"
        )
    return "\n".join(lines)


def load_run(
    run: Path, config: TrainConfig, env: PlayEnv, *, best: bool = False
) -> dict[str, Agent]:
    """Build the agents of a run and load their checkpoints, the newest or the best.

    Raises:
        CheckpointError: a checkpoint is damaged or does not fit.
        RunError: the learned agent has none yet, or is a policy that cannot be saved.
    """
    agents = build_agents(config, env)
    policy = agents["learned"]
    if isinstance(policy, ExternalPolicy) and policy.learns and not policy.keeps:
        raise RunError(
            f"what {config.policy!r} learned in {run} was not saved, since it has no state_dict "
            "and load_state_dict: its scores are in the evaluation that `glimpse train` wrote; "
            "give it both, and train it again"
        )
    record = BEST if best else RECORD
    saved = {
        name: agent
        for name, agent in agents.items()
        if restore_saved(run, name, agent, record=record) is not None
    }
    if best and "learned" not in saved:
        raise RunError(f"{run} kept no best checkpoint: train it with --keep-best")
    if "learned" not in saved:
        raise RunError(f"{run} has no checkpoint yet: let `glimpse train` finish an epoch")
    return saved


def checkpoint_folder(run: Path, agent: str) -> Path:
    """Return where an agent's checkpoint lies in a run."""
    return run / "checkpoint" if agent == "learned" else run / "references" / agent


def restore_saved(
    run: Path, name: str, agent: Agent, *, record: str = RECORD
) -> dict[str, Any] | None:
    """Load an agent's checkpoint, if the run has one yet.

    Returns:
        The metadata saved with it, none for a policy that does not learn and so has no checkpoint;
        None if the agent is not yet as trained.
    """
    if not learns(agent):
        return {}
    folder = checkpoint_folder(run, name)
    # A newest record that is lost while earlier ones are there is for `restore` to tell.
    saved = has_checkpoint(folder) if record == RECORD else (folder / record).is_file()
    if not saved:
        return None
    return agent.restore(folder, record=record)


def _tell_unfinished(agents: dict[str, Agent], epochs: int) -> None:
    """Say which agents have not been trained to the end."""
    short = [
        f"{name} {agent.epoch}"
        for name, agent in agents.items()
        if learns(agent) and agent.epoch < epochs
    ]
    if short:
        print(f"not trained to the end, epochs of {epochs}: {', '.join(short)}")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a run; prints the table, writes `evaluation-<split>.json` and images.

    An evaluation of another kind than the run's own (live, other banks, another seed) goes to a
    file whose name says so.

    Raises:
        RunError: no run there, no checkpoint yet, or a damaged record.
    """
    folder, out = local_run(config.run), results_folder(config.run)
    own = run = load_config(TrainConfig, folder)
    environment = read_json(
        folder / "environment.json", "restore it from a copy, or train the run again"
    )
    if config.live:
        run = replace(run, bank=None)
    elif config.bank is not None:
        run = replace(run, bank=config.bank)
    if config.data_dir is not None:
        run = replace(run, data=replace(run.data, data_dir=config.data_dir))
    source = open_source(run, config.split)
    env = build_play_env(run, config.split, source=source, training=False)
    agents = load_run(folder, run, env, best=config.best)
    if not config.best:
        _tell_unfinished(agents, own.epochs)
    oracle = own.references if config.oracle is None else config.oracle
    scanpaths = own.scanpaths if config.scanpaths is None else config.scanpaths
    seed = own.seed if config.seed is None else config.seed
    candidates = oracle_lattice(source) if oracle else None
    record, answers = score_agents(
        agents, env, scanpaths=scanpaths, candidates=candidates, seed=seed
    )
    print(format_table(record, run.policy))
    settings = describe_evaluation(
        env,
        source,
        agents,
        encoder=run.encoder,
        seed=seed,
        scanpaths=scanpaths,
        candidates=0 if candidates is None else len(candidates),
    )
    if "bank" not in environment and config.bank is None and isinstance(source, FeatureBank):
        # A run of before banks were recorded: those in its own place are taken for its own.
        environment["bank"] = {config.split: settings["source"]["bank"]}
    path = out / evaluation_name(settings, own, environment, best=config.best)
    write_json(path, {"settings": settings, **record})
    print(f"written: {path}")
    if config.examples:
        examples = out / "examples"
        draw_examples(
            env.dataset,
            answers["learned"],
            run.resolutions,
            examples,
            config.examples,
            patch_side=run.patch_side,
        )
        print(f"examples: {examples}")
    return record


def draw_examples(
    dataset: ImageDataset,
    answers: Answers,
    resolutions: Sequence[str],
    folder: Path,
    count: int,
    seed: int = 0,
    patch_side: int = PATCH_SIDE,
) -> list[Path]:
    """Draw random images of a split with their scanpath, glimpses and composite.

    Args:
        dataset: The split that was played, unmirrored.
        answers: Of every image of it.
        resolutions: What each glimpse showed.
        folder: Where the PNG files go.
        count: How many.
        seed: Of the choice, so that two agents can be shown on the same images.
        patch_side: P, of the glimpses.

    Returns:
        The files, by image; those of an earlier call are gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = "|".join(re.escape(name) for name in dataset.class_names)
    for path in folder.glob("*.png"):  # of an earlier choice, or with an earlier answer
        if re.fullmatch(rf"\d{{5,}}-({names})(-named-({names}))?\.png", path.name):
            path.unlink()
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:count]
    files = []
    for index in np.sort(chosen).tolist():
        image, fixations = dataset.image(index), answers.fixations[:, index]
        looks = len(fixations)
        scales = None if answers.scales is None else answers.scales[:, index]
        rest = np.zeros(looks, bool), np.arange(looks, dtype=np.uint64), tuple(resolutions)
        if scales is None:
            pyramid = build_pyramid(image, patch_side=patch_side)
            patches = cut_patches([pyramid] * looks, fixations, *rest)
        else:
            patches = cut_scaled_patches([image] * looks, fixations, scales, *rest, patch_side)
        right = bool(answers.predictions[index] == answers.labels[index])
        panel = scanpath_panel(
            image, fixations, patches, resolutions=resolutions, scales=scales, correct=right
        )
        truth = dataset.class_names[int(answers.labels[index])]
        named = dataset.class_names[int(answers.predictions[index])]
        path = folder / f"{index:05d}-{truth}{'' if right else f'-named-{named}'}.png"
        Image.fromarray(panel).save(path)
        files.append(path)
    return files
