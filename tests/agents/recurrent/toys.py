"""A small recurrent module: colours summed over the glimpses, with where they were seen."""

from __future__ import annotations

import torch
from torch import nn


class Sums(nn.Module):
    """Adds what each patch shows to its state, and reads the classes from it by one layer."""

    def __init__(self, num_classes: int, cells: int = 4) -> None:
        super().__init__()
        self.cells = cells
        self.read = nn.Linear(3 * cells**2 + 3, 16)
        self.answer = nn.Linear(16, num_classes)

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.answer.weight.new_zeros(batch, 16)

    def forward(self, patches, fixation, scale, state):
        seen = nn.functional.adaptive_avg_pool2d(patches.flatten(0, 1), self.cells).flatten(1)
        seen = seen.unflatten(0, patches.shape[:2])
        place = torch.cat((fixation[:, None].expand(-1, seen.shape[1], -1), scale[..., None]), 2)
        state = state + self.read(torch.cat((seen, place), 2)).tanh().sum(1)
        return self.answer(state), state

    def features(self, state):
        return state


class Looking(Sums):
    """Says itself where to look, and how near."""

    def look(self, state):
        return state[:, :3].tanh()


class Heard(nn.Module):
    """Keeps what it was handed."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.calls = num_classes, []

    def initial_state(self, batch):
        return 0

    def forward(self, patches, fixation, scale, state):
        self.calls.append((patches, fixation, scale, state))
        return torch.zeros(len(patches), self.num_classes), state + 1


class NoState(nn.Module):
    def __init__(self, num_classes):
        super().__init__()


class Transposed(Heard):
    def forward(self, patches, fixation, scale, state):
        return torch.zeros(self.num_classes, len(patches)), state


class Alone(Heard):
    def forward(self, patches, fixation, scale, state):
        return torch.zeros(len(patches), self.num_classes)


class Failing(Heard):
    def forward(self, patches, fixation, scale, state):
        return patches @ fixation, state


class NotANumber(Heard):
    def forward(self, patches, fixation, scale, state):
        return torch.full((len(patches), self.num_classes), torch.nan), state


class LooksAway(Sums):
    def look(self, state):
        return state[:, :5]


def without_parameters(num_classes):
    return Heard(num_classes)
