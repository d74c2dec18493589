"""Features of a batch at every point of a bank's lattice, for the exact policy gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from agents.lattice import Everywhere, Lattice
from agents.trajectory import Trajectory
from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder
from experiments.train.factory import PlayEnv


class LatticeReader:
    """Reader of a bank at all points of its lattice."""

    def __init__(self, source: FeatureBank | Encoder, resolutions: tuple[str, ...]) -> None:
        """Take the bank of the training split.

        Args:
            source: A bank.
            resolutions: Patches of a glimpse, in the order of axis S.

        Raises:
            ValueError: It is a live encoder, or the bank's fixations are no lattice.
        """
        if not isinstance(source, FeatureBank):
            raise ValueError(
                "learning.policy_gradient 'exact' reads every point of a bank's lattice: give a "
                "--bank, or use 'sampled'"
            )
        self._bank, self._resolutions = source, resolutions
        self._lattice = Lattice(torch.from_numpy(np.array(source.fixations)))

    def add(self, trajectory: Trajectory, env: PlayEnv) -> Trajectory:
        """Return a trajectory with `everywhere`: its images as the environment showed them last.

        Args:
            trajectory: Just collected from `env`, none of whose episodes has been reset since.
            env: Tells which images were mirrored.
        """
        points = len(self._lattice.points)
        images = np.tile(trajectory.images.cpu().numpy(), points)
        mirrored = np.tile(env.mirrored, points)
        which = np.repeat(np.arange(points), trajectory.batch)
        features = self._bank.glimpses(images, mirrored, which, self._resolutions)
        glimpses = torch.from_numpy(features).unflatten(0, (points, trajectory.batch))
        return replace(trajectory, everywhere=Everywhere(self._lattice, glimpses))
