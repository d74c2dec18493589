"""A policy of one's own: it looks where there is fine detail, and learns a linear classifier.

pip install .
glimpse train synthetic --policy detail --policy-options rate 0.3
glimpse evaluate --run runs/synthetic
"""

import torch
from torch import nn
from torch.nn import functional as F


class LookAtDetail(nn.Module):
    """Being a module of torch it has `state_dict`, so that runs resume and can be evaluated."""

    requires = ("pixels", "frame")  # beside the features
    device = torch.device("cpu")  # where observations are wanted

    def __init__(self, observation_space, action_space, rate=0.1):
        """Take the spaces of one environment; what follows them are options."""
        super().__init__()
        resolutions, features = observation_space["glimpse"].shape
        self.scores = nn.Linear(resolutions * features, int(action_space["label"].n))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=rate)

    def initial_state(self, batch):
        """Return no memory: every glimpse is chosen alone."""
        return None

    def act(self, observation, state, *, deterministic=False):
        """Fixate the most detailed place of the context; name the class seen last."""
        grey = observation["context_pixels"].float().mean(-1)[:, None]
        coarse = F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
        detail = F.avg_pool2d((grey - coarse).square(), 7, 1, 3)
        place, side = detail.flatten(1).argmax(1), detail.shape[-1]
        context = torch.stack((place % side, place // side), 1) / (side - 1) * 2 - 1
        label = self.class_log_probs(observation).argmax(1)
        return {"fixation": context * observation["frame"], "label": label}, observation

    def class_log_probs(self, observation):
        """Optional: of the state that `act` returned, for scores of several scanpaths."""
        glimpse = observation["glimpse"].flatten(1)
        return self.scores(F.layer_norm(glimpse, glimpse.shape[1:])).log_softmax(1)

    def update(self, trajectory):
        """Learn from a batch of episodes; returns metrics to log."""
        log_probs = self.class_log_probs(trajectory.steps[-1])
        loss = F.nll_loss(log_probs, trajectory.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"classification_loss": loss.item()}
