"""Agents that come trained: from a folder, under a shipped name, or from the Hugging Face hub.

A published agent is a folder that reads like a run: `checkpoint/` (safetensors and JSON), and
beside it what `glimpse publish` tells of the run. Nothing in it is code, and nothing else is
downloaded. The hub is reached through huggingface_hub, the extra `hub`: its cache and its settings
(`HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN`) hold here too.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agents.tensor_store import CheckpointError, has_checkpoint

if TYPE_CHECKING:
    from agents.reinforce import ReinforceAgent

Agent = TypeVar("Agent", bound="Pretrained")

SHIPPED = {"synthetic-dogs": Path(__file__).parent / "data" / "synthetic-dogs"}
"""Agents that come with the package, by name."""

FILES = (
    "README.md",
    "config.json",
    "environment.json",
    "evaluation-*.json",
    "checkpoint/checkpoint.json",
    "checkpoint/weights-*.safetensors",
)
"""What is uploaded and downloaded, and nothing else: no file of code, no pickle."""

_HUB_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?")
_PREFIX = re.compile(r"^hf:/{1,2}")  # a path joins the two slashes into one


class PretrainedError(ValueError):
    """A trained agent that cannot be found or fetched; the message says what to do."""


@dataclass(frozen=True)
class Found:
    """A trained agent on this machine."""

    folder: Path
    """Folder that holds its files."""
    name: str
    """What it goes by: `hf://owner/name@commit`, a shipped name, or the folder."""
    remote: bool
    """Whether strangers wrote it: it is from the hub."""
    own: bool
    """Whether the folder is the user's own, to be written to."""


def find_pretrained(name: str | Path, *, revision: str | None = None) -> Found:
    """Find a trained agent, and fetch it if it is on the hub.

    Args:
        name: A folder; else a shipped name (`SHIPPED`); else a repository of the hub, `owner/name`
            or `hf://owner/name`, with `@revision` appended if you like.
        revision: Branch, tag or commit of the hub's repository; a commit pins it.

    Returns:
        Where it lies. What is from the hub lies in the hub's cache, and its name holds the commit.

    Raises:
        PretrainedError: There is no such agent, or no way to it; the sentence says which.
    """
    text = _PREFIX.sub("hf://", str(name))
    on_hub = text.startswith("hf://")
    if not on_hub and Path(text).is_dir():
        return Found(Path(text), text, remote=False, own=True)
    if text in SHIPPED:
        return Found(SHIPPED[text], text, remote=False, own=False)
    asked = _HUB_ID.fullmatch(text.removeprefix("hf://"))
    if asked is None:
        raise PretrainedError(
            f"no trained agent {text!r}: give a folder, a repository of the hub as "
            f"hf://owner/name, or a shipped name ({', '.join(SHIPPED)})"
        )
    if revision is not None and asked["revision"] not in (None, revision):
        raise PretrainedError(f"{text} names another revision than {revision!r}: give one of them")
    return _fetch(asked["id"], revision or asked["revision"])


def _fetch(repository: str, revision: str | None) -> Found:
    """Download a repository's files into the hub's cache, or find them there."""
    hub = _hub()
    errors = hub.errors
    where = f"hf://{repository}" + (f"@{revision}" if revision else "")
    try:
        folder = hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(FILES),
            endpoint=_endpoint(),
            library_name="glimpse-env",
        )
    except errors.RevisionNotFoundError as error:
        raise PretrainedError(
            f"{repository} has no revision {revision!r} on the hub: name a branch, a tag or a "
            "commit of it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PretrainedError(
            f"the hub has no repository {repository!r} that you may read: check the spelling, or "
            "log in with `hf auth login` if it is private"
        ) from error
    except errors.HFValidationError as error:
        raise PretrainedError(f"{repository!r} is no name of a repository: {error}") from error
    except _failures(hub) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PretrainedError(
            f"{where} cannot be fetched and is not in the hub's cache ({reason[0]}): check the "
            "network, and that HF_HUB_OFFLINE is not set"
        ) from error
    commit = Path(folder).name
    return Found(Path(folder), f"hf://{repository}@{commit}", remote=True, own=False)


def upload(
    folder: str | Path,
    repository: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    message: str = "Publish a trained agent",
) -> str:
    """Upload a published agent's folder, and nothing but `FILES` of it.

    Args:
        folder: As `glimpse publish` or `save_pretrained` wrote it.
        repository: `owner/name`; made if need be.
        revision: Branch to write to.
        private: Whether a repository that is made is private (default: as your account says).
        message: Of the commit.

    Returns:
        The name to load it by, with the commit: `hf://owner/name@commit`.

    Raises:
        PretrainedError: No agent there, or the hub refuses; the sentence says why.
    """
    folder = Path(folder)
    if not has_checkpoint(folder / "checkpoint"):
        raise PretrainedError(f"no published agent in {folder}: make one with `glimpse publish`")
    hub = _hub()
    try:
        api = hub.HfApi(endpoint=_endpoint(), library_name="glimpse-env")
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            allow_patterns=list(FILES),
        )
    except hub.errors.HFValidationError as error:
        raise PretrainedError(f"{repository!r} is no name of a repository: {error}") from error
    except _failures(hub) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PretrainedError(
            f"{folder} cannot be uploaded to {repository} ({reason[0]}): log in with `hf auth "
            "login`, and check the network"
        ) from error
    return f"hf://{repository}@{commit.oid}"


def _hub() -> Any:
    """The library of the hub.

    Raises:
        PretrainedError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise PretrainedError(
            'the hub is reached through huggingface_hub: pip install "glimpse-env[hub]"'
        ) from error
    return huggingface_hub


def _failures(hub: Any) -> tuple[type[Exception], ...]:
    """List what a network that is down, the hub itself or a full disk raises."""
    # The error of the library that sends the requests, which differs between versions.
    return OSError, getattr(hub.errors, "HTTPError", OSError)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


class Pretrained:
    """Loading and publishing a `ReinforceAgent`, apart from what it does."""

    @classmethod
    def from_pretrained(
        cls: type[Agent], name: str | Path, *, revision: str | None = None, **options: Any
    ) -> Agent:
        """Load a trained agent.

            agent = ReinforceAgent.from_pretrained("synthetic-dogs")

        Args:
            name: A folder (a run, a published agent, or a checkpoint), a shipped name, or a
                repository of the Hugging Face hub: `owner/name`, `hf://owner/name@revision`.
            revision: Branch, tag or commit of the repository; give a commit to pin it.
            options: For the class, such as `device`.

        Returns:
            The agent, ready to act; training goes on with a fresh optimiser.

        Raises:
            PretrainedError: There is none, or no way to it (spelling, network, missing extra).
            CheckpointError: It is damaged, or of another version.
        """
        found = find_pretrained(name, revision=revision)
        folder = found.folder
        if has_checkpoint(folder / "checkpoint"):
            folder = folder / "checkpoint"
        try:
            return cls.load(folder, **options)  # type: ignore[attr-defined]
        except CheckpointError as error:
            if not found.remote:
                raise
            raise CheckpointError(
                f"{found.name} is damaged, or no agent of this version ({error}): remove "
                f"{found.folder.parents[1]} to fetch it again"
            ) from error

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> Path:
        """Write the agent for others: its weights and settings, without the optimiser's state.

        Args:
            folder: The checkpoint goes to `checkpoint/` in it.
            half: Keep the weights in 16 bits, half as large.

        Returns:
            The folder.
        """
        agent: ReinforceAgent = self  # type: ignore[assignment]
        twin = type(agent)(agent.config, agent.learning, device="cpu")
        twin.network.load_state_dict(agent.network.state_dict())
        twin.epoch, twin.updates = agent.epoch, agent.updates
        if half:
            twin.network.half()
        twin.save(Path(folder) / "checkpoint")
        return Path(folder)

    def push_to_hub(
        self,
        repository: str,
        *,
        folder: str | Path | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str:
        """Upload the agent to the Hugging Face hub (you are logged in: `hf auth login`).

        Args:
            repository: `owner/name`; made if need be.
            folder: One that `glimpse publish` wrote of this agent: its model card and its record go
                along. Without it the weights and settings go alone.
            revision: Branch to write to.
            private: Whether a repository that is made is private.

        Returns:
            The name to load it by: `hf://owner/name@commit`.

        Raises:
            PretrainedError: The hub refuses or is not reached, or the extra `hub` is missing.
        """
        import tempfile

        if folder is not None:
            return upload(folder, repository, revision=revision, private=private)
        with tempfile.TemporaryDirectory() as made:
            self.save_pretrained(made)
            return upload(made, repository, revision=revision, private=private)
