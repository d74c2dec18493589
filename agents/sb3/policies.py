"""Actor-critic policies that look and answer: for stock PPO and A2C."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from torch import Tensor

from agents.sb3.distribution import HybridDistribution


class HybridActions:
    """Mixin that gives an actor-critic policy a `HybridDistribution`: put it first among the bases.

    The action space is `FlatAction`'s Box(A + K). The observation says by `remaining` which rows
    answer; without that key every part of an action counts everywhere.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *args: Any,
        num_coordinates: int = 2,
        mask_idle: bool = True,
        **kwargs: Any,
    ) -> None:
        """Build the policy.

        Args:
            observation_space: A Dict.
            action_space: Box(A + K), `FlatAction`'s.
            *args: For the base class.
            num_coordinates: A: 2, or 3 where the environment was made with choose_scale.
            mask_idle: Count in log-probability and entropy only what matters in a row: the
                coordinates while looking, the label at the answer.
            **kwargs: For the base class.

        Raises:
            TypeError: Another kind of action space; the message says which wrapper helps.
            ValueError: No class is left beside the coordinates, or gSDE is asked for.
        """
        if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
            raise TypeError(
                f"{type(self).__name__} acts in FlatAction's Box(2 + K), not in {action_space}: "
                "wrap the environment with glimpse_env.wrappers.FlatAction (or VectorFlatAction)."
            )
        if kwargs.get("use_sde"):
            raise ValueError("the hybrid distribution has no state-dependent noise: use_sde=False")
        self.num_coordinates, self.mask_idle = num_coordinates, mask_idle
        self.num_classes = action_space.shape[0] - num_coordinates
        if self.num_classes < 1:
            raise ValueError(
                f"an action of {action_space.shape[0]} numbers has no class beside "
                f"{num_coordinates} coordinates: wrap the environment with FlatAction, and set "
                "num_coordinates to 3 with choose_scale, else to 2."
            )
        self._answering: Tensor | None = None
        super().__init__(observation_space, action_space, *args, **kwargs)  # type: ignore[call-arg]

    def _build(self, lr_schedule: Any) -> None:
        self.action_dist = HybridDistribution(self.num_coordinates, self.num_classes)
        super()._build(lr_schedule)  # type: ignore[misc]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"num_coordinates": self.num_coordinates, "mask_idle": self.mask_idle}
        return super()._get_constructor_parameters() | own  # type: ignore[misc]

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> HybridDistribution:
        return self.action_dist.proba_distribution(
            self.action_net(latent_pi),  # type: ignore[attr-defined]
            self.log_std,  # type: ignore[attr-defined]
            self._answering,
        )

    def _mark_answering(self, obs: Any) -> None:
        """Keep which rows answer until the distribution is made of the same observation."""
        self._answering = None
        if self.mask_idle and isinstance(obs, dict) and "remaining" in obs:
            # Of stacked frames (VecFrameStack) the last is the present one.
            remaining = obs["remaining"].flatten(1)[:, -1]
            if (remaining < 0).any():
                raise ValueError(
                    "'remaining' is below 0, so what rows answer cannot be told: leave it out of "
                    "VecNormalize (norm_obs_keys=['context', 'glimpse']), or set mask_idle=False."
                )
            self._answering = remaining == 0

    def forward(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Act: as the base class."""
        self._mark_answering(obs)
        return super().forward(obs, *args, **kwargs)  # type: ignore[misc]

    def evaluate_actions(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Values, log-probabilities and entropies: as the base class."""
        self._mark_answering(obs)
        return super().evaluate_actions(obs, *args, **kwargs)  # type: ignore[misc]

    def get_distribution(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """The distribution of actions: as the base class."""
        self._mark_answering(obs)
        return super().get_distribution(obs, *args, **kwargs)  # type: ignore[misc]


class HybridPolicy(HybridActions, MultiInputActorCriticPolicy):
    """Gaussian fixation and categorical label, for PPO and A2C.

    PPO(HybridPolicy, SB3VecEnv(VectorFlatAction(envs)), policy_kwargs={"log_std_init": -1.0})
    """
