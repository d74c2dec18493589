"""Where is the dog: `SyntheticDogsLocate-v0`, another task on the same looks.

What is written here is all that a task takes: its answer, its score, and a class each for the
scalar and the vector environment.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Float64, Int64

from glimpse_env.datasets.base import ImageDataset, size_of
from glimpse_env.env import GlimpseEnv
from glimpse_env.tasks import Task
from glimpse_env.vector_env import GlimpseVectorEnv


class LocateDog(Task):
    """Say where the dog is: paid by the distance of the place named to its box.

    1 within the box of a dog, else 1 minus the distance to the nearest box, in units of [-1, 1],
    and at least 0.
    """

    key = "place"

    def space(self, dataset: ImageDataset) -> spaces.Space:
        """A place, (x, y) as a fixation's."""
        return spaces.Box(-1, 1, (2,), np.float32)

    def score(
        self,
        dataset: ImageDataset,
        image: Int64[np.ndarray, " n"],
        mirror: Bool[np.ndarray, " n"],
        answer: np.ndarray,
    ) -> tuple[Float64[np.ndarray, " n"], dict[str, np.ndarray]]:
        """Distance to the nearest box; a mirrored image has its boxes mirrored."""
        place = np.where(mirror[:, None], answer * [-1.0, 1.0], answer)
        distance = np.array(
            [_to_boxes(dataset, i, p) for i, p in zip(image.tolist(), place, strict=True)]
        )
        return np.clip(1.0 - distance, 0.0, 1.0), {
            "distance": distance,
            "is_success": distance == 0.0,
        }


def _to_boxes(dataset: ImageDataset, image: int, place: Float[np.ndarray, " 2"]) -> float:
    """Distance of a place to the nearest of an image's boxes; 0 within."""
    boxes = np.asarray(dataset.boxes(image), np.float64).reshape(-1, 2, 2)
    if not len(boxes):
        raise ValueError(f"{dataset.name(image)} has no box, so no place in it can be judged")
    corners = boxes / np.array(size_of(dataset, image), np.float64) * 2.0 - 1.0
    outside = np.maximum(corners[:, 0] - place, place - corners[:, 1]).clip(min=0.0)
    return float(np.linalg.norm(outside, axis=1).min())


# Named as a direct base too: some programs (skrl) look no further to tell whose interface it is.
class DogsLocateEnv(GlimpseEnv, gym.Env):
    """Say where the dog is after a few glimpses of an image.

    ## Description

    The looks are those of `DogsGlimpseEnv`, whose options these are too; the answer is a place.

    ## Action space

    `Dict` of

    | key | space | meaning |
    |---|---|---|
    | `fixation` | `Box(-1, 1, (2,))` | (x, y): -1 is the left or top edge, +1 the right or bottom |
    | `place` | `Box(-1, 1, (2,))` | where the dog is, in the same coordinates |
    | `scale` | `Box(-1, 1, (1,))` | with `choose_scale=True` only: sides times 2 ** scale |

    `place` is ignored in the first `num_glimpses` steps, `fixation` in the last. Places beyond the
    edges are judged where they are. `glimpse_env.wrappers.FlatAction` makes it one Box: the
    fixation, then the place.

    ## Observation space

    That of `DogsGlimpseEnv`: `context`, `glimpse`, `fixation`, `remaining`.

    ## Rewards

    0.0 for a look. For the answer 1.0 within the box of a dog; beyond it 1.0 less the distance to
    the nearest box, in the units of fixations, and at least 0.0.

    ## Episode end

    An episode terminates with the answer, after `num_glimpses + 1` steps; it never truncates.

    ## Information

    `info["image"]` is the index of the image in the split. With the answer come `distance`, to the
    nearest box, and `is_success`, whether it is 0.

    ## Errors

    `gymnasium.error.InvalidAction` for a malformed action, or one that is not finite;
    `gymnasium.error.ResetNeeded` for a step before the first reset or after the end of an episode;
    `ValueError` where the data set has no box of the image.
    """

    task = LocateDog()


class DogsLocateVectorEnv(GlimpseVectorEnv, VectorEnv):
    """`num_envs` episodes of `DogsLocateEnv` side by side; see `DogsGlimpseVectorEnv`."""

    task = LocateDog()
