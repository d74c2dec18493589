"""An agent's checkpoint: the settings and the network's weights that a store's record holds.

`agents.tensor_store` writes and reads the files; here is what an agent's content must have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from agents.configs import ReinforceConfig, TwoDeckConfig, check_types
from agents.networks import TwoDeckNetwork
from agents.tensor_store import (
    BEST,
    FORMAT,
    RECORD,
    CheckpointError,
    check_fit,
    check_optimizer,
    has_checkpoint,
    load_checkpoint,
    pack_state,
    previous,
    save_checkpoint,
    unpack_state,
)

# The store's own names are public under this path too.
__all__ = [
    "BEST",
    "FORMAT",
    "RECORD",
    "CheckpointError",
    "check_fit",
    "check_network",
    "check_optimizer",
    "check_settings",
    "has_checkpoint",
    "load_checkpoint",
    "pack_state",
    "previous",
    "read_agent_settings",
    "read_settings",
    "save_checkpoint",
    "settings_of_agent",
    "unpack_state",
]

Settings = TypeVar("Settings")


def network_state(state: Any) -> dict[str, Tensor]:
    """The network's tensors in an agent's state; CheckpointError if there are none."""
    found = state.get("network") if isinstance(state, dict) else None
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise CheckpointError("The agent's state is damaged: it has no weights of a network.")
    return found


@contextlib.contextmanager
def settings_of_agent(folder: str | Path) -> Iterator[None]:
    """Turn what a checkpoint's settings raise, where an agent is built of them, into its error."""
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{folder} has settings of no agent: {error}") from error


def check_network(folder: str | Path, config: TwoDeckConfig, state: Any) -> None:
    """Compare the network of a checkpoint's settings with its weights, without memory for either.

    Args:
        folder: Of the checkpoint, for the message.
        config: The network's settings.
        state: The agent's state, as `unpack_state` gives it.

    Raises:
        CheckpointError: The settings are those of no network, of one whose sizes no memory has, or
            of another than the weights are from.
    """
    with settings_of_agent(folder), torch.device("meta"):
        try:
            network = TwoDeckNetwork(config)
        # Tensors on this device have no memory, so that nothing but their sizes can be wrong.
        except (RuntimeError, OverflowError) as error:
            raise CheckpointError(f"{folder} asks for a network beyond measure: {error}") from error
        check_fit(network.state_dict(), network_state(state))


def read_settings(kind: type[Settings], record: Any) -> Settings:
    """Build a configuration from a checkpoint's record of it.

    Raises:
        CheckpointError: The record has fields, or values, that this version does not know.
    """
    try:
        settings = kind(**record)
        check_types(settings)
        return settings
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"The checkpoint's {kind.__name__} is of another version ({error}): load it with the "
            "version that wrote it, or train again."
        ) from error


def read_agent_settings(
    folder: str | Path, metadata: Mapping[str, Any]
) -> tuple[TwoDeckConfig, ReinforceConfig]:
    """Both configurations of the agent that a checkpoint's metadata describes.

    Raises:
        CheckpointError: It holds no agent, or one of another version.
    """
    if not {"agent", "state"} <= metadata.keys():
        raise CheckpointError(f"{folder} holds no agent: its metadata has no 'agent' and 'state'.")
    saved = metadata["agent"]
    if not isinstance(saved, dict) or not {"network", "learning"} <= saved.keys():
        raise CheckpointError(f"{folder} holds no agent: its 'agent' lacks the settings.")
    network = read_settings(TwoDeckConfig, saved["network"])
    return network, read_settings(ReinforceConfig, saved["learning"])


def check_settings(saved: Any, own: Any) -> None:
    """Raise CheckpointError, naming each field, unless two configurations agree.

    Shapes alone do not tell: the state of SGD loads into Adam without a word.
    """
    differences = [
        f"{field.name}: checkpoint {getattr(saved, field.name)!r}, agent "
        f"{getattr(own, field.name)!r}"
        for field in fields(own)
        if getattr(saved, field.name) != getattr(own, field.name)
    ]
    if differences:
        raise CheckpointError(
            f"The checkpoint was saved under another {type(own).__name__}; build the agent with "
            f"the checkpoint's own (`load` does). Differences: {'; '.join(differences)}"
        )
