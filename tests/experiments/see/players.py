"""Collections without a run: players that look and answer at random, on images of any names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.attention.measures import survey
from experiments.see.collect import Collection, Player
from experiments.train.playback import Playback
from glimpse_env.datasets.synthetic import SyntheticDogs

HOSTILE = (
    "<script>window.hurt=1</script>",
    "</script><img src=x onerror='window.hurt=2'>",
    '"><svg onload=window.hurt=3>',
    "it's 'quoted' & \"double\" `back` ${window.hurt=4}",
    "\u202eright-to-left כלב \u2066",
    "]]></template><!-- <b>bold</b> {{ 7 * 7 }} {% raw %}",
    "javascript:window.hurt=5",
    "no utf-8: \udcff",
    "n02085620-Chihuahua",
    "\u2028line\u2029 separators\nand\ttabs",
    "",
    "__proto__",
)
"""One name for each of the twelve classes; none may do anything."""


class Named:
    """Synthetic dogs under other names."""

    def __init__(self, classes: Sequence[str] | None = None, num_images: int = 24) -> None:
        self.dogs = SyntheticDogs("val", num_images=num_images)
        self.class_names = tuple(classes) if classes is not None else self.dogs.class_names
        self.hostile = classes is not None

    def __getattr__(self, name: str):
        return getattr(self.dogs, name)

    def __len__(self) -> int:
        return len(self.dogs)

    def name(self, index: int) -> str:
        return f"{HOSTILE[index % len(HOSTILE)]}.jpg" if self.hostile else f"dogs/{index}.jpg"


def watched(
    dataset: Named, images: np.ndarray, *, looks: int, seed: int, scaled: bool = False
) -> Playback:
    rng = np.random.default_rng(seed)
    count, classes = len(images), len(dataset.class_names)
    labels = np.asarray(dataset.labels)[images]
    logits = rng.normal(size=(looks, count, classes))
    logits[:, np.arange(count), labels] += 1.5
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    fixations = rng.uniform(-1, 1, (looks, count, 2))
    scales = rng.uniform(-1, 1, (looks, count)) if scaled else None
    return Playback(images, labels, log_probs, fixations, fixations, scales)


def collection(
    classes: Sequence[str] | None = None, *, num_images: int = 24, shown: int = 16
) -> Collection:
    """Two runs: one of two agents, one whose agent chooses its zoom."""
    dataset = Named(classes, num_images)
    images = np.arange(num_images)
    odd = HOSTILE[0] if classes is not None else "high, 2 glimpses"
    players = []
    for n, (run, agent, resolutions, looks, scaled) in enumerate(
        [
            (odd, "learned", ("high",), 2, False),
            (odd, "center", ("high",), 2, False),
            ("all three, 3 glimpses", "learned", ("low", "medium", "high"), 3, True),
        ]
    ):
        found = watched(dataset, images, looks=looks, seed=n, scaled=scaled)
        record = {"run": str(Path("runs") / f"run-{n}"), "epoch": 3}
        players.append(Player(run, agent, resolutions, found, record))
    places = np.sort(np.random.default_rng(0).permutation(num_images)[:shown])
    return Collection(dataset, tuple(players), survey(dataset, images), places)
