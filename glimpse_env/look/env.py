"""The environments of the look track: `DogsLook-v0` and `SyntheticDogsLook-v0`."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32

from glimpse_env.datasets.base import ImageDataset
from glimpse_env.dynamics import GlimpseDynamics
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.look.classifier import COMMAND, SHIPPED, ClassifierError, FrozenClassifiers
from glimpse_env.options import RENDER_MODES, autoreset
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers.answered import Classifier, FixationOnly, VectorFixationOnly

Given = FrozenClassifiers | Classifier | str | os.PathLike[str] | None
"""What the option `classifier` may be."""


class DogsLookEnv(gym.Env):
    """Look where a frozen classifier learns most of a dog's breed.

    ## Description

    The look track: an episode is that of `DogsGlimpseEnv`, whose options it takes, but only the
    fixations are the agent's. A frozen classifier, trained on glimpses at random fixations, answers
    after the last look. What an agent earns so tells where it looks, and not how well it has
    learned to name breeds. It is `glimpse_env.wrappers.FixationOnly` around that environment.

    ## Action space

    `Box(-1, 1, (2,))`, the fixation (x, y): -1 is the left or top edge, +1 the right or bottom.
    With `lattice=side` it is `Discrete(side * side)`, points of a square lattice row by row from
    the top left. With `choose_scale=True` it is `Box(-1, 1, (3,))`, the zoom last.

    ## Observation space

    `Dict` of (S resolutions, D features a patch, G x G cells of C channels, P = `patch_side`)

    | key | space | meaning |
    |---|---|---|
    | `context` | `Box((G * G * C,))`, or `Box((D,))` for G = 1 | the blurred start |
    | `glimpse` | `Box((S * D,))` | the last look, its patches end to end |
    | `fixation` | `Box(-1, 1, (2,))` | where that was: clipped, and snapped |
    | `remaining` | `Box(0, 1, (1,))` | share of the glimpses still to come |

    `glimpse` and `fixation` are zero before the first look. The classifier reads features, so
    `observation="both"` shows pixels beside them, and `"pixels"` is refused.

    ## Rewards

    By the option `reward`; p is the classifier's probability of the true breed.

    | `reward` | each look | the last look besides |
    |---|---|---|
    | `gain` | what it adds to log p, which is -log K before the first | |
    | `correct` | 0.0 | 1.0 if the classifier is right |
    | `both` | what it adds to log p | 1.0 if the classifier is right |
    | `log_likelihood` | 0.0 | log p |

    The gains of an episode add up to log p + log K in nats: 0 for a classifier that knows nothing,
    log K for one that is sure and right.

    ## Episode end

    An episode terminates with the last look, after `num_glimpses` steps; it never truncates.

    ## Information

    `info["image"]` is the index of the image in the split. At the end come `label`, the truth, and
    `is_success`, whether the classifier was right.

    ## The classifier

    | id | classifier |
    |---|---|
    | `SyntheticDogsLook-v0` | in the package, for one high-resolution patch |
    | `DogsLook-v0` | a folder: `glimpse classifier --bank banks/dogs --out classifiers/dogs` |

    The folder holds k + 1 classifiers. For an image of a training split the one answers that was
    trained on the other k - 1 folds (out of fold), else the one that was trained on all. Without
    that, the reward on training images would vanish where a classifier has memorised them. Their
    record has the SHA-256 of the weights, and they are refused where classes, resolutions, encoder
    or the side of patches are others than theirs.

    ## Options

    | option | values | default |
    |---|---|---|
    | `classifier` | folder of `glimpse classifier`, or a `Classifier` of `wrappers` | by the id |
    | `reward` | `gain`, `correct`, `both`, `log_likelihood` | `gain` |
    | `lattice` | points a side, or `None` | `None` |
    | all others | those of `DogsGlimpseEnv` | by the id |

    The ids fix `mirror=False` and `context="center"`, as classifiers are trained on images as they
    are; seeds, walk and reset options are those of `DogsGlimpseEnv`.

    ## Errors

    `glimpse_env.look.classifier.ClassifierError` where there is no classifier, or one of something
    else; the message names the command that makes one. `gymnasium.error.InvalidAction` and
    `ResetNeeded` as in `DogsGlimpseEnv`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 2}  # type: ignore[misc]

    def __init__(
        self,
        *,
        classifier: Given = None,
        reward: str = "gain",
        lattice: int | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Open data set, encoder and classifier.

        Args:
            classifier: A folder, or a `Classifier`; None for the id's own.
            reward: `gain`, `correct`, `both` or `log_likelihood`.
            lattice: Points a side of the lattice of actions; None for a Box.
            render_mode: None, `rgb_array` or `human`.
            **options: The fields of `EnvOptions`.

        Raises:
            ClassifierError: No classifier, or one of something else.
            TypeError, ValueError, FileNotFoundError: As `DogsGlimpseEnv` does.
        """
        judge = find_classifier(classifier, options)
        env = DogsGlimpseEnv(render_mode=render_mode, **options)
        bound = bind(judge, env._dynamics)
        self._env = FixationOnly(env, bound, reward, lattice)
        self._own = env
        self.render_mode = render_mode
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space

    @property
    def dataset(self) -> ImageDataset:
        """Data set of the images."""
        return self._own.dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        return self._own.class_names

    # The generator is the inner environment's, whatever way it is reached.

    @property
    def _np_random(self) -> np.random.Generator | None:  # type: ignore[override]
        return self._own._np_random

    @_np_random.setter
    def _np_random(self, value: np.random.Generator) -> None:
        self._own._np_random = value

    @property
    def _np_random_seed(self) -> int | None:  # type: ignore[override]
        return self._own._np_random_seed

    @_np_random_seed.setter
    def _np_random_seed(self, value: int) -> None:
        self._own._np_random_seed = value

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; seeds and options are those of `DogsGlimpseEnv`."""
        return self._env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Look; with the last look the classifier answers."""
        return self._env.step(action)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Draw the image with the scanpath so far."""
        return self._own.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self._own.close()


class DogsLookVectorEnv(VectorEnv):
    """`num_envs` episodes of `DogsLookEnv` side by side, in step with one another.

    Environment i equals a `DogsLookEnv` with `shard=(i, num_envs)`, seeded `seed + i`, as
    `DogsGlimpseVectorEnv` says; options are those of the two together. The option `reset_mask` must
    leave all episodes in step.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        classifier: Given = None,
        reward: str = "gain",
        lattice: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        array: str = "numpy",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Open data set, encoder and classifier; see `DogsLookEnv` and `DogsGlimpseVectorEnv`."""
        judge = find_classifier(classifier, options)
        mode = autoreset(autoreset_mode)
        env = DogsGlimpseVectorEnv(
            num_envs, autoreset_mode=mode, array=array, render_mode=render_mode, **options
        )
        bound = bind(judge, env._dynamics)
        self._env = VectorFixationOnly(env, bound, reward, lattice)
        self._own = env
        self.num_envs, self.autoreset_mode, self.render_mode = env.num_envs, mode, render_mode
        self.metadata = {**type(self).metadata, "autoreset_mode": mode}  # type: ignore[misc]
        self.single_observation_space = self._env.single_observation_space
        self.single_action_space = self._env.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def dataset(self) -> ImageDataset:
        """Data set of the images."""
        return self._own.dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        return self._own.class_names

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each environment."""
        return self._own.np_random

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each environment's generator."""
        return self._own.np_random_seed

    @property
    def random_state(self) -> list[dict[str, Any]]:
        """State of each environment's draws; see `DogsGlimpseVectorEnv`. Set it to go on there."""
        return self._own.random_state

    @random_state.setter
    def random_state(self, states: list[dict[str, Any]]) -> None:
        self._own.random_state = states

    @property
    def mirrored(self) -> Bool[np.ndarray, " B"]:
        """Flags of the environments: whether the image is mirrored."""
        return self._own.mirrored

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms that an action's scale comes to: a `FeatureBank` holds only some."""
        return self._own.snap_scale(scale)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start episodes, all of them together."""
        return self._env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        """Look in every environment; with the last look the classifier answers."""
        return self._env.step(actions)

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """Draw every image with its scanpath so far."""
        return self._own.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window, if there is one."""
        self._own.close_extras(**kwargs)


def find_classifier(given: Given, options: dict[str, Any]) -> Any:
    """Return the classifiers that are meant, before anything else is opened.

    Raises:
        ClassifierError: There are none.
    """
    if options.get("observation") == "pixels":
        raise ValueError(
            "the look track's classifier reads features: leave observation='features', or show "
            "pixels beside them with 'both'"
        )
    if given is None:
        if options.get("dataset") != "synthetic":
            raise ClassifierError(
                "DogsLook-v0 has no classifier of its own: make one from a feature bank with "
                f"`{COMMAND}`, and pass classifier='FOLDER' (SyntheticDogsLook-v0 comes with one)"
            )
        return FrozenClassifiers.load(SHIPPED)
    if isinstance(given, (str, os.PathLike)):
        return FrozenClassifiers.load(os.fspath(given))
    return given


def bind(judge: Any, rules: GlimpseDynamics) -> Classifier:
    """Return a classifier for an environment's images, checked where it says what it is for."""
    if not isinstance(judge, FrozenClassifiers):
        return judge
    observer, side = rules.observer, rules.options.patch_side
    features = observer.shapes["glimpse"][0][-1]
    judge.check(rules.dataset, observer.resolutions, observer.encoder_fingerprint, features, side)
    return judge.bound(rules.dataset)
