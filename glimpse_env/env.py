"""GlimpseEnv and DogsGlimpseEnv: one image at a time."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from glimpse_env.datasets.base import ImageDataset
from glimpse_env.dynamics import NEVER_RESET, GlimpseDynamics, episode_key
from glimpse_env.options import RENDER_MODES, EnvOptions, check_render_mode
from glimpse_env.rendering.window import Window, draw_frame, warn_no_render_mode
from glimpse_env.tasks import NAME_BREED, Task

_ROW = np.zeros(1, np.int64)
_NO_ROW = np.zeros(0, np.int64)


class GlimpseEnv(gym.Env):
    """Images looked at by glimpses, for any task: a subclass names the task.

    `DogsGlimpseEnv` and `glimpse_env.locate.DogsLocateEnv` are two; see `glimpse_env.tasks`.
    """

    task: ClassVar[Task]

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 2}  # type: ignore[misc]

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        """Open the dataset and the encoder.

        Args:
            render_mode: None, `rgb_array` or `human`.
            **options: The fields of `EnvOptions`.

        Raises:
            TypeError: For an unknown option, or a value of the wrong kind.
            ValueError: For a value that is not allowed, or options that do not go together.
            FileNotFoundError: If images or weights are missing; the message says what to do.
        """
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self._dynamics = GlimpseDynamics(EnvOptions.from_keywords(options), task=self.task)
        self.observation_space = self._dynamics.observation_space()
        self.action_space = self._dynamics.action_space()
        self._window: Window | None = None
        self._walked_by: np.random.Generator | None = None

    @property
    def dataset(self) -> ImageDataset:
        """Data set of the images."""
        return self._dynamics.dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        return self._dynamics.dataset.class_names

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for seeds and options."""
        image, epoch = self._dynamics.parse_reset(options, _ROW)
        super().reset(seed=seed)
        self._restart_walk(seed, epoch)
        key = np.array([episode_key(self.np_random)], np.uint64)
        self._dynamics.begin(_ROW, key, image)
        observation = self._dynamics.observe(_ROW, _NO_ROW)
        if self.render_mode == "human":
            self.render()
        return _single(observation), {"image": int(self._dynamics.image[0])}

    def _restart_walk(self, seed: int | None, epoch: int | None) -> None:
        """Restart the walk where the environment has been seeded, or an epoch is asked for."""
        walk, generator = self._dynamics.walk, self.np_random
        # `np_random` is another one than before where the environment has been seeded by whatever
        # way, or was never reset. What was put in its place by hand has no known seed (-1).
        if seed is not None or not (walk.sharded or generator is self._walked_by):
            order = self.np_random_seed
            if order < 0:
                order = episode_key(copy.deepcopy(generator))
            walk.follow(order, first=seed or 0)
        self._walked_by = generator
        if epoch is not None:
            walk.restart(_ROW, epoch)

    def step(
        self, action: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Look, or answer if no glimpses are left."""
        rules = self._dynamics
        looks = rules.looks[0]
        if looks == NEVER_RESET or looks > rules.num_glimpses:
            state = "before the first reset" if looks == NEVER_RESET else "after the answer"
            raise ResetNeeded(f"step called {state}: call reset() first")
        fixation, answer, scale = rules.parse_action(action, batched=False)
        reward, terminated = 0.0, bool(looks == rules.num_glimpses)
        rules.check_values(_ROW, fixation, answer, scale)
        info: dict[str, Any] = {"image": int(rules.image[0])}
        if terminated:
            reward = float(rules.answer(_ROW, answer)[0])
            info |= {name: value[0].item() for name, value in rules.facts.items()}
            observation = rules.observation()
        else:
            rules.look(_ROW, fixation, scale if rules.options.choose_scale else None)
            observation = rules.observe(_NO_ROW, _ROW)
        if self.render_mode == "human":
            self.render()
        return _single(observation), reward, terminated, False, info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Draw the image with the scanpath so far: an array, or in a window.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self.render_mode is None:
            warn_no_render_mode(self)
            return None
        frame = draw_frame(self._dynamics, 0)
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            self._window = Window("DogsGlimpse")
        self._window.show(frame)
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the window and the images: a copy plays on as this one would."""
        return self.__dict__ | {"_window": None}

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


# Named as a direct base too: some programs (skrl) look no further to tell whose interface it is.
class DogsGlimpseEnv(GlimpseEnv, gym.Env):
    """Name the breed of a dog after a few glimpses of an image.

    ## Description

    An image is never seen whole. An episode starts with one blurred *context* patch; each action
    then chooses a *fixation*, where the retina cuts patches of growing size, every one shrunk to
    96x96: sharp in the middle, blurred around (Sermanet, Frome, Real 2014, section 2). After
    `num_glimpses` glimpses one last action names the breed.

    ## Action space

    `Dict` of

    | key | space | meaning |
    |---|---|---|
    | `fixation` | `Box(-1, 1, (2,))` | (x, y): -1 is the left or top edge, +1 the right or bottom |
    | `label` | `Discrete(K)` | the class; index into `class_names` |
    | `scale` | `Box(-1, 1, (1,))` | with `choose_scale=True` only: sides times 2 ** scale |

    The first `num_glimpses` steps of an episode are looks, in which `label` is ignored. The last
    is the answer, in which `fixation` (and `scale`) are ignored; what is ignored must still be a
    valid value. Finite fixations beyond the edges are clipped to [-1, 1]; with a `FeatureBank`
    they snap to its lattice. Scales are clipped likewise; a `FeatureBank` knows only whole ones,
    where the resolutions in use have a coarser or finer neighbour in it (`medium` alone, in a bank
    of all three: -1, 0 and 1; `high` alone: 0 and 1), and a scale snaps to the nearest.

    ## Observation space

    `Dict` of (S resolutions, D features a patch, G x G cells of C channels, P = `patch_side`)

    | key | space | meaning |
    |---|---|---|
    | `context` | `Box((G, G, C))`, or `Box((D,))` for G = 1 | the blurred start |
    | `glimpse` | `Box((S, D))` | the last look |
    | `fixation` | `Box(-1, 1, (2,))` | where that was: clipped, and snapped |
    | `remaining` | `Box(0, 1, (1,))` | share of the glimpses still to come |

    `glimpse` and `fixation` are zero before the first look. `choose_scale` adds nothing: an agent
    knows the scale it chose. The answer returns the last observation again.

    The context keeps its layout: `context[i, j]` is the mean of the encoder's last feature map over
    the cell in row i, column j of a G x G grid (`context_grid`; 3 x 3 of 1,024 channels for
    GoogLeNet, whose features are the mean of the cells; 3 x 3 of 32 for `inception_mini`, each the
    root of its mean times a gain, as its features are scaled). With G = 1, or an encoder that gives
    no map, it is the features of the context patch.

    With `observation="pixels"` the two are `Box(0, 255, (P, P, 3), uint8)` and
    `Box(0, 255, (S, P, P, 3), uint8)`; with `"both"` these come beside the features, under
    `context_pixels` and `glimpse_pixels`.

    ## Rewards

    0.0 for a look; for the answer 1.0 if it is right, else 0.0.

    ## Episode end

    An episode terminates with the answer, after `num_glimpses + 1` steps; it never truncates.

    ## Information

    `info["image"]` is the index of the image in the split. With the answer come `label`, the
    truth, and `is_success`.

    ## Reset options

    `{"image": i}` shows image i; the walk over the split then stands still. `{"epoch": e}` goes to
    the start of epoch e in the current order, also where a seed is given with it.

    ## Walk and seeding

    A training split is walked in random order without replacement, an evaluation split in the order
    of its list; after the last image the next epoch follows. `reset(seed=...)` restarts the walk
    and seeds everything else (mirroring, place of the context, noise outside the image): the same
    seed, the same bytes.

    Where the walk starts, and in which order it goes:

    | walk | order of a training split | start on an evaluation split |
    |---|---|---|
    | unsharded | by the seed and the epoch | image s modulo N after `reset(seed=s)`, else 0 |
    | sharded | by `order_seed` and the epoch | image i of `shard=(i, n)` |

    A walk is sharded with `shard=(i, n)`, n > 1, or with `order_seed` (0 if not given), and always
    in the vector environment.

    Unsharded copies that are seeded differently walk unrelated orders, as `gymnasium.make_vec`,
    Stable-Baselines3's `make_vec_env` and other libraries seed them; copies that nobody seeds do
    so too. The seed is `np_random_seed`, given or drawn by Gymnasium. It is hashed with the epoch,
    so that the order takes no draw from the generator. Evaluation loops that seed each episode with
    100 + i see another image each time.

    Seeds never change the order of a sharded walk: n copies with `shard=(0, n)` to `(n - 1, n)`
    visit each image once an epoch together. Use this to evaluate with several copies. Without
    shards, copies on an evaluation split overlap: each of them goes through the whole split.

    A copy (`pickle`, `copy.deepcopy`) keeps the order and the place in it.

        test = [
            gymnasium.make("SyntheticDogsGlimpse-v0", split="val", shard=(i, 4)) for i in range(4)
        ]
        [env.reset(seed=i)[1]["image"] for i, env in enumerate(test)]   # [0, 1, 2, 3]

    ## Options

    Keyword arguments, here or through `gymnasium.make`; see `glimpse_env.options.EnvOptions`.

    | option | values | default |
    |---|---|---|
    | `dataset` | `stanford_dogs`, `synthetic`, any `ImageDataset` | by the id |
    | `data_dir` | folder of Stanford Dogs | `$GLIMPSE_DATA`/stanford_dogs, else the user cache |
    | `split` | `train`, `val`, `trainval`, `test` | `train` |
    | `resolutions` | any of `low`, `medium`, `high`; the order is that of axis S | all three |
    | `patch_side` | P, side of a patch in pixels, from 64 to 224 | 96 |
    | `num_glimpses` | integer from 1 | 3 |
    | `encoder` | registered name, `EncoderSpec`, `FeatureBank`, `torch.nn.Module` | by the id |
    | `observation` | `features`, `pixels` (the encoder is ignored), `both` | `features` |
    | `context` | `auto` (random when training), `random`, `center` | `auto` |
    | `context_grid` | G, or `auto`: 3 where the encoder gives a map, else 1 | `auto` |
    | `mirror` | `auto` (random flips when training), `True` (random flips), `False` | `auto` |
    | `shard` | `(i, n)`: every n-th image of the walk, from the i-th on | `(0, 1)` |
    | `order_seed` | integer from 0, or `None`; see above | `None` |
    | `allow_missing` | leave absent images out instead of raising | `False` |
    | `choose_scale` | let the action zoom; not from every `FeatureBank` | `False` |
    | `device`, `precision` | `auto`, `cpu`, `cuda[:i]`; `auto`, `fp32`, `bf16` | `auto` |
    | `backend` | of a GoogLeNet on a CPU: `torch`, `openvino`, `auto` (the faster) | `torch` |
    | `storage` | `device`, `host`, `demand`, a split's folder of `glimpse pyramids` | `auto` |
    | `render_mode` | `rgb_array` (480x480), `human` (a window) | `None` |

    ## Errors

    `gymnasium.error.InvalidAction` for a malformed action, a look with a fixation that is not
    finite, or an answer with a label out of range; `gymnasium.error.ResetNeeded` for a step before
    the first reset or after the end of an episode. A refused action changes nothing.
    """

    task = NAME_BREED


def _single(observation: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value[0] for name, value in observation.items()}
