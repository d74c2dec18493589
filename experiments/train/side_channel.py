"""Is a learned fixation a look, or a code from the upper deck to the classifier?

The classifier is told the location l. It could learn what the upper deck means by a place instead
of what there is to see. Two scores tell: the same glimpses read by the same classifier without l,
and by a classifier that was trained on random fixations, which shares no code with the policy.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agents.reinforce import ReinforceAgent
from agents.trajectory import Trajectory
from experiments.metrics import Answers
from experiments.train.external_policy import Agent
from experiments.train.factory import PlayEnv
from experiments.train.loop import episodes

UNTOLD = "learned, without telling l"
ELSEWHERE = "classifier of random fixations, at the learned ones"
AT_CENTRE = "classifier of random fixations, at the centre"


def read_again(
    judge: ReinforceAgent, trajectory: Trajectory, *, told: bool = True
) -> Float[Tensor, "B K"]:
    """Class log-probabilities that a classifier gives the glimpses of a rollout.

    Args:
        judge: Whose classifier reads.
        trajectory: Of any agent on features.
        told: Whether it is told where they were taken.
    """
    places = trajectory.fixations
    if trajectory.scales is not None and judge.config.choose_scale:
        places = torch.cat((places, trajectory.scales[..., None]), -1)
    glimpses = trajectory.observations["glimpse"][1:].to(judge.device)
    with torch.no_grad():
        return judge.score(glimpses, places.to(glimpses), told=told)


def side_channel(agents: dict[str, Agent], env: PlayEnv, seed: int = 0) -> dict[str, Answers]:
    """Score the learned fixations under classifiers that cannot know a code.

    Args:
        agents: `learned`, and perhaps `random` and `center`, on one kind of features.
        env: On the split.
        seed: As for `play`.

    Returns:
        Answers by name: those that the agents there allow, none for a policy that is not ours.
    """
    learned, random = agents["learned"], agents.get("random")
    if not isinstance(learned, ReinforceAgent):
        return {}
    readers: dict[str, tuple[str, ReinforceAgent, bool]] = {UNTOLD: ("learned", learned, False)}
    if isinstance(random, ReinforceAgent):
        readers[ELSEWHERE] = ("learned", random, True)
        if "center" in agents:
            readers[AT_CENTRE] = ("center", random, True)
    images = np.arange(len(env.dataset))
    found: dict[str, Answers] = {}
    for player in dict.fromkeys(who for who, _, _ in readers.values()):
        own = {name: each[1:] for name, each in readers.items() if each[0] == player}
        agents[player].seed(seed)
        log_probs: dict[str, list[Tensor]] = {name: [] for name in own}
        labels, fixations = [], []
        for trajectory, count in episodes(agents[player], env, images, seed=seed):
            labels.append(trajectory.labels[:count].cpu())
            fixations.append(trajectory.fixations[:, :count].cpu())
            for name, (judge, told) in own.items():
                log_probs[name].append(read_again(judge, trajectory, told=told)[:count].cpu())
        for name, parts in log_probs.items():
            found[name] = Answers(
                labels=torch.cat(labels).numpy(),
                log_probs=torch.cat(parts).numpy(),
                fixations=torch.cat(fixations, dim=1).numpy(),
            )
    return {name: found[name] for name in readers}
