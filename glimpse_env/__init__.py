"""Dog photographs as an environment: look at a few places, then name the breed.

Importing this package registers `DogsGlimpse-v0` (Stanford Dogs) and `SyntheticDogsGlimpse-v0`
(images drawn on the fly: nothing to download), so that either of these works, and beside them
`DogsLook-v0` and `SyntheticDogsLook-v0`, where a frozen classifier names the breed, and
`SyntheticDogsLocate-v0`, where the answer is a place:

    import gymnasium, glimpse_env
    env = gymnasium.make("SyntheticDogsGlimpse-v0")

    env = gymnasium.make("glimpse_env:SyntheticDogsGlimpse-v0")

The shape key, for every module of the project:

    B  batch (environments, or images)      D  features per patch
    T  glimpses (`num_glimpses`)            N  hidden units
    S  resolutions in use                   K  classes
    P  patch side, 96 by default            L  lattice points
    G  cells a side of a context            C  channels of the encoder's last feature map

Trajectories are time-major, `[T, B, ...]`.
"""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry

from glimpse_env.ownership import explain_shadowed_imports, require_own

__all__ = ["register_environments"]
__distribution__ = "glimpse-env"


def register_environments() -> None:
    """Register the environments' ids with Gymnasium; calling it again changes nothing.

    The entry points are strings, so that a spec can be written to JSON and so that neither torch
    nor a dataset is imported before an environment is made.
    """
    synthetic = {"dataset": "synthetic", "encoder": "inception_mini"}
    one_patch = {"resolutions": ["high"], "num_glimpses": 2}  # a list, as JSON gives it back
    plain = ("glimpse_env.env:DogsGlimpseEnv", "glimpse_env.vector_env:DogsGlimpseVectorEnv")
    look = ("glimpse_env.look.env:DogsLookEnv", "glimpse_env.look.env:DogsLookVectorEnv")
    locate = ("glimpse_env.locate:DogsLocateEnv", "glimpse_env.locate:DogsLocateVectorEnv")
    as_they_are: dict[str, Any] = {"mirror": False, "context": "center"}
    ids: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
        "DogsGlimpse-v0": (plain, {}),
        "SyntheticDogsGlimpse-v0": (plain, synthetic),
        "DogsLook-v0": (look, as_they_are),
        "SyntheticDogsLook-v0": (look, synthetic | one_patch | as_they_are),
        "SyntheticDogsLocate-v0": (locate, synthetic),
    }
    for name, ((entry_point, vector_entry_point), kwargs) in ids.items():
        if name not in registry:
            register(
                id=name,
                entry_point=entry_point,
                vector_entry_point=vector_entry_point,
                kwargs=kwargs,
            )


require_own("encoders")
explain_shadowed_imports()
register_environments()
