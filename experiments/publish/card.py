"""The model card of a published agent, written from its run's record alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.runtime.markdown import table
from experiments.train.config import TrainConfig

Record = Mapping[str, Any]

_TAGS = ("reinforcement-learning", "visual-attention", "gymnasium", "fine-grained")
_DATA = {
    "stanford_dogs": "Stanford Dogs (`DogsGlimpse-v0`)",
    "synthetic": "the synthetic dogs (`SyntheticDogsGlimpse-v0`)",
    "image_folder": "a folder of images",
}


@dataclass(frozen=True)
class Facts:
    """Facts that a model card is written from."""

    title: str
    """Heading of the card."""
    name: str
    """What `from_pretrained` takes: a repository, or the folder's name."""
    licence: str
    """Identifier of the licence."""
    config: TrainConfig
    """Configuration of the run."""
    environment: Record
    """The run's environment.json, free of paths."""
    evaluations: Mapping[str, Record]
    """The run's evaluations by file name."""
    weights: Record
    """`file`, `sha256`, `bytes`, `parameters` and `dtype`."""
    epoch: int
    """Number of epochs trained."""
    again: str | None = None
    """The command that makes the agent again, if it is another than the run's own."""


def write_card(facts: Facts) -> str:
    """Lay the card out, as Markdown with the front matter that the hub reads."""
    config, environment = facts.config, facts.environment
    looks = "one glimpse" if config.num_glimpses == 1 else f"{config.num_glimpses} glimpses"
    pin = " To pin it, append `@` and a commit." if "/" in facts.name else ""
    front = [
        "---",
        f"license: {facts.licence}",
        "library_name: glimpse-env",
        "tags:",
        *(f"- {tag}" for tag in _TAGS),
        "---",
    ]
    return "\n".join(
        [
            *front,
            "",
            f"# {facts.title}",
            "",
            f"An agent that names the class of an image after {looks} at it "
            f"({', '.join(config.resolutions)} resolution). It starts from a blurred context and "
            "chooses each fixation from what it has seen so far: the two-deck recurrent network of "
            "Sermanet, Frome and Real (2014), trained by backpropagation and REINFORCE together on "
            f"{_DATA.get(config.data.dataset, config.data.dataset)}.",
            "",
            "```python",
            "from agents.reinforce import ReinforceAgent",
            "",
            f'agent = ReinforceAgent.from_pretrained("{facts.name}")',
            "```",
            "",
            f"`glimpse evaluate --run {_address(facts.name)}`, and `view`, `figures`, `attention` "
            f"and `play`, take it by its name.{pin}",
            "",
            "## Results",
            "",
            *_results(facts.evaluations),
            "",
            "Intervals are 95%, by a bootstrap over the images within each class, for this one "
            "agent: an agent trained from another seed may differ by more. mA is the mean over the "
            "classes of the accuracy within each.",
            "",
            "## What it stands on",
            "",
            *_stands_on(facts, environment),
            "",
            "## Licence",
            "",
            f"`{facts.licence}`, as whoever published it says. The encoder's weights are not in "
            "here, and have a licence of their own.",
            "",
        ]
    )


def _address(name: str) -> str:
    return f"hf://{name}" if "/" in name else name


def _results(evaluations: Mapping[str, Record]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for name, evaluation in sorted(evaluations.items()):
        settings = evaluation.get("settings") or {}
        split = settings.get("split", name)
        source = settings.get("source") or {}
        features = f"live, {source['live']}" if "live" in source else "from a bank"
        bank = source.get("bank") or {}
        if isinstance(bank.get("fixations"), Mapping):
            features += f" of {bank['fixations'].get('count')} fixations"
        for who, row in evaluation.items():
            if who != "settings":
                ma, interval = f"{row['ma']:.1f}", f"{row['low']:.1f} to {row['high']:.1f}"
                counts = f"{row['accuracy']:.1f}", f"{row['num_images']:,}"
                rows.append((split, who, ma, interval, *counts, features))
    return table("split | fixations | mA, % | 95% interval | accuracy, % | images | features", rows)


def _stands_on(facts: Facts, environment: Record) -> list[str]:
    config, weights = facts.config, facts.weights
    encoder = environment.get("encoder") or {}
    versions = environment.get("versions") or {}
    bank = (environment.get("bank") or {}).get(config.train_split) or {}
    lattice = bank.get("fixations")
    words = environment.get("command") or ["not on record"]
    if words[0] == "cli.py":  # started as `python -m experiments.cli`
        words = ["glimpse", *words[1:]]
    command = facts.again or " ".join(words)
    lines = [
        f"- **Command**: `{command}`",
        f"- **Seed**: {environment.get('seed', config.seed)}; {facts.epoch} of {config.epochs} "
        f"epochs on `{config.train_split}`",
        f"- **Encoder**: `{encoder.get('name', config.encoder)}`, fingerprint "
        f"`{encoder.get('fingerprint')}`, weights `{encoder.get('weights')}` (sha256 "
        f"`{encoder.get('weights_sha256')}`)",
        f"- **What the weights have seen**: {encoder.get('seen', 'not on record')}; the agent's "
        f"own, the images of `{config.train_split}` below",
    ]
    for split, data in sorted((environment.get("datasets") or {}).items()):
        missing = f", {data['missing']} listed ones absent" if data.get("missing") else ""
        lines.append(
            f"- **Data**, `{split}`: {data['images']:,} images{missing}, fingerprint (sha256) "
            f"`{data['fingerprint']}`"
        )
    if isinstance(lattice, Mapping):
        lines.append(f"- **Trained from a feature bank** of {lattice.get('count')} fixations")
    lines += [
        f"- **Weights**: `{weights['file']}`, {weights['parameters']:,} parameters in "
        f"{weights['dtype']}, {weights['bytes']:,} bytes, sha256 `{weights['sha256']}`; settings "
        "in `config.json`",
        f"- **Code**: glimpse-env {versions.get('glimpse-env')}, revision "
        f"`{environment.get('git_revision')}`, torch {versions.get('torch')}, Python "
        f"{versions.get('python')}",
    ]
    return lines
