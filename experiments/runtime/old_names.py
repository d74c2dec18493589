"""Keys that records of earlier versions use, and their names of today.

Files are written with today's keys only. Whatever reads a record passes it through `renamed`, so
that runs, evaluations and checkpoints of earlier versions stay readable.
"""

from __future__ import annotations

from typing import Any

RENAMED_KEYS = {
    "pictures": "images",
    "pictures_a_second": "images_per_second",
    "pictures_per_second": "images_per_second",
    "accuracy_at_random_patches_of_held_out_pictures": (
        "accuracy_at_random_patches_of_held_out_images"
    ),
    "whole picture": "whole image",
    "whole picture, mean with its mirror image": "whole image, mean with its mirror image",
    "baseline_seeds": "whole_image_seeds",
    "baseline_epochs": "whole_image_epochs",
}
"""By the old name."""

RENAMED_FLAGS = {
    "pretrain": {"--pictures": "--images"},
    "evaluate": {"--pictures": "--examples"},
    "demo": {"--pictures": "--examples"},
    "table1": {
        "--baseline-seeds": "--whole-image-seeds",
        "--baseline-epochs": "--whole-image-epochs",
    },
}
"""Flags by command and old name; help pages list today's only."""


RENAMED_COMMANDS = {"baseline": "whole-image", "contest": "train-agent"}
"""Commands by their old name."""


def renamed(record: Any) -> Any:
    """Replace old keys in a record, however deep, and old names of a row's agent.

    Args:
        record: What JSON gives: objects, lists, numbers, strings.

    Returns:
        A copy with today's keys.

    Example:
        >>> renamed({"config": {"pictures": 12}, "agent": "whole picture"})
        {'config': {'images': 12}, 'agent': 'whole image'}
    """
    if isinstance(record, list):
        return [renamed(item) for item in record]
    if not isinstance(record, dict):
        return record
    found = {RENAMED_KEYS.get(key, key): renamed(value) for key, value in record.items()}
    agent = found.get("agent")
    return found | {"agent": RENAMED_KEYS.get(agent, agent)} if isinstance(agent, str) else found


def renamed_flags(command: str, arguments: list[str]) -> list[str]:
    """Replace old flags on a command line.

    Args:
        command: Name of the sub-command.
        arguments: What follows it.

    Returns:
        The arguments with today's flags.

    Example:
        >>> renamed_flags("pretrain", ["--pictures=32", "--looks", "1"])
        ['--images=32', '--looks', '1']
    """
    flags = RENAMED_FLAGS.get(command, {})
    parts = [argument.partition("=") for argument in arguments]
    return [flags.get(flag, flag) + sign + value for flag, sign, value in parts]
