"""One short episode of each kind, as a digest of its bytes and an array of its features."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

LOOKS = 1


def make() -> tuple[Any, Any]:
    """Make a scalar and a vector environment."""
    import gymnasium

    import glimpse_env  # noqa: F401

    options = {
        "observation": "both",
        "num_glimpses": LOOKS,
        "resolutions": ("high",),
        "device": "cpu",
        "precision": "fp32",
    }
    return (
        gymnasium.make("SyntheticDogsGlimpse-v0", split="val", **options),
        gymnasium.make_vec(
            "SyntheticDogsGlimpse-v0",
            num_envs=2,
            split="train",
            vectorization_mode="vector_entry_point",
            **options,
        ),
    )


def play(made: tuple[Any, Any] | None = None) -> tuple[str, np.ndarray]:
    """Play one episode in each; everything but features goes into the digest.

    Returns:
        The digest, and all features in the order in which they came.
    """
    digest, features = hashlib.sha256(), []

    def note(observation: dict[str, Any], image: Any) -> None:
        for name in sorted(observation):
            value = np.asarray(observation[name])
            digest.update(f"{name} {value.dtype} {value.shape}".encode())
            if name in ("context", "glimpse"):
                features.append(value.ravel())
            else:
                digest.update(value.tobytes())
        digest.update(np.asarray(image).astype(np.int64).tobytes())

    for env, count in zip(made or make(), (None, 2), strict=True):
        observation, info = env.reset(seed=3)
        note(observation, info["image"])
        for step in range(LOOKS + 1):
            place = np.array([0.3 * step - 0.4, 0.9], np.float32)
            action = {"fixation": place, "label": 1}
            if count:
                action = {"fixation": np.tile(place, (count, 1)), "label": np.ones(count, int)}
            observation, reward, *_, info = env.step(action)
            note(observation, info["image"])
            digest.update(np.asarray(reward, np.float64).tobytes())
        env.close()
    return digest.hexdigest(), np.concatenate(features)


def main(out: str) -> None:
    """Play, and leave the result in files; standard output may be closed."""
    digest, features = play()
    np.save(out, features)
    Path(out).with_suffix(".txt").write_text(digest, encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1])
