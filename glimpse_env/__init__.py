"""Dog photographs as an environment: look at a few places, then name the breed.

Importing this package registers `DogsGlimpse-v0` (Stanford Dogs) and `SyntheticDogsGlimpse-v0`
(images drawn on the fly: nothing to download), so that either of these works:

    import gymnasium, glimpse_env
    env = gymnasium.make("SyntheticDogsGlimpse-v0")

    env = gymnasium.make("glimpse_env:SyntheticDogsGlimpse-v0")

The shape key, for every module of the project:

    B  batch (environments, or images)      D  features per patch
    T  glimpses (`num_glimpses`)            N  hidden units
    S  resolutions in use                   K  classes
    P  patch side, 96 pixels                L  lattice points
    G  cells a side of a context            C  channels of the encoder's last feature map

Trajectories are time-major, `[T, B, ...]`.
"""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

from glimpse_env.ownership import explain_shadowed_imports, require_own

__all__ = ["register_environments"]
__distribution__ = "glimpse-env"


def register_environments() -> None:
    """Register the environments' ids with Gymnasium; calling it again changes nothing.

    The entry points are strings, so that a spec can be written to JSON and so that neither torch
    nor a dataset is imported before an environment is made.
    """
    options: dict[str, dict[str, str]] = {
        "DogsGlimpse-v0": {},
        "SyntheticDogsGlimpse-v0": {"dataset": "synthetic", "encoder": "inception_mini"},
    }
    for name, kwargs in options.items():
        if name not in registry:
            register(
                id=name,
                entry_point="glimpse_env.env:DogsGlimpseEnv",
                vector_entry_point="glimpse_env.vector_env:DogsGlimpseVectorEnv",
                kwargs=kwargs,
            )


require_own("encoders")
explain_shadowed_imports()
register_environments()
