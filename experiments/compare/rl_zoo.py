r"""The settings of a comparison as RL Zoo's files: `python -m experiments.compare.rl_zoo`.

    python -m rl_zoo3.train --algo ppo --env SyntheticDogsGlimpse-v0 --gym-packages glimpse_env \
        --conf-file experiments/hyperparams/ppo.yml \
        --env-kwargs "resolutions:('high',)" num_glimpses:2 context_grid:1

RL Zoo steps scalar environments one by one, each with an encoder call of its own; `glimpse compare`
trains the same algorithms on the batched environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.compare.settings import ALGORITHMS, ENVIRONMENTS, sb3_arguments, settings_for
from experiments.train.presets import EXPERIMENTS

FOLDER = Path(__file__).parents[1] / "hyperparams"

_IDS = {"SyntheticDogsGlimpse-v0": "synthetic", "DogsGlimpse-v0": "dogs"}
# Points a side of the banks that the settings were searched with.
_SIDES = {"synthetic": 7, "dogs": 3}
_STEPS = 100_000
_EXTRACTOR = "__import__('agents.sb3.features', fromlist=['features']).GlimpseExtractor"


def zoo_settings(agent: str, environment: str) -> dict[str, Any]:
    """The settings of an algorithm for an environment, in RL Zoo's names."""
    settings = settings_for(agent, environment)
    arguments = sb3_arguments(agent, settings)
    run = EXPERIMENTS[ENVIRONMENTS.get(environment, environment)][1]
    scale = {"normalise_features": run.network.normalise_features}
    policy = [f"{name}={value!r}" for name, value in arguments.pop("policy_kwargs").items()]
    policy += [f"features_extractor_class={_EXTRACTOR}", f"features_extractor_kwargs={scale!r}"]
    side = getattr(settings, "side", None) or _SIDES[environment]
    face = {
        "flat": "glimpse_env.wrappers.FlatAction",
        "lattice": {"glimpse_env.wrappers.LatticeAction": {"side": side}},
        "number": {"glimpse_env.wrappers.LatticeAction": {"side": side, "flat": True}},
    }[ALGORITHMS[agent][1]]
    found = {"env_kwargs": {"context_grid": 1}, "env_wrapper": [face]}
    found |= {"n_envs": settings.num_envs, "n_timesteps": _STEPS}
    if "noise_std" in arguments:
        found["noise_type"] = "normal"
    return found | arguments | {"policy_kwargs": f"dict({', '.join(policy)})"}


def zoo_file(agent: str) -> str:
    """The file of an algorithm: its settings for every environment, as YAML."""
    name = agent.removesuffix("-hybrid").replace("recurrent-ppo", "ppo_lstm")
    lines = [
        f"# {ALGORITHMS[agent][2]}, for RL Zoo's --algo {name}. Written by `python -m",
        "# experiments.compare.rl_zoo` from experiments/compare/settings.py: change it there.",
    ]
    for gym_id, environment in _IDS.items():
        lines += [f"{gym_id}:", *_lines(zoo_settings(agent, environment), 1)]
    return "\n".join(lines) + "\n"


def _lines(values: dict[str, Any], depth: int) -> list[str]:
    """YAML of nested dicts, lists and plain values, as far as settings need it."""
    lines, indent = [], "  " * depth
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, depth + 1)]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}:")
            for each in value:
                if isinstance(each, dict):
                    # The first key follows the dash, and the rest stand below it.
                    first, *rest = _lines(each, depth + 2)
                    lines += [f"{indent}  - {first.strip()}", *(f"  {line}" for line in rest)]
                else:
                    lines.append(f"{indent}  - {_plain(each)}")
        else:
            lines.append(f"{indent}{name}: {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # YAML takes 1e-05 for a word; with a point it is a number.
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    return f'"{value}"' if isinstance(value, str) else str(value)


def write_zoo() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for agent in ALGORITHMS:
        (FOLDER / f"{agent}.yml").write_text(zoo_file(agent), encoding="utf-8")


if __name__ == "__main__":
    write_zoo()
