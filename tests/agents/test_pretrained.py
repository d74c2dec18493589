"""Trained agents from folders and from a hub, which here is a server on this machine."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path

import pytest
import torch

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.pretrained import FILES, PretrainedError, find_pretrained, upload
from agents.reinforce import ReinforceAgent
from agents.tensor_store import CheckpointError
from tests.agents.local_hub import LocalHub, serve_hub

SMALL = TwoDeckConfig(
    feature_size=8,
    num_resolutions=1,
    num_classes=3,
    num_glimpses=2,
    hidden_size=8,
    image_width=8,
    location_width=4,
    glimpse_width=8,
)


def make_agent(seed: int = 0) -> ReinforceAgent:
    learning = ReinforceConfig(optimizer="adam", learning_rate=1e-3)
    return ReinforceAgent(SMALL, learning, device="cpu", seed=seed)


def same_weights(one: ReinforceAgent, two: ReinforceAgent) -> bool:
    mine, theirs = one.network.state_dict(), two.network.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub is not installed (the extra `hub`)"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        yield served


def test_a_folder_holds_weights_without_the_optimiser(tmp_path: Path) -> None:
    agent = make_agent()
    agent.set_epoch(3)
    agent.save_pretrained(tmp_path)
    loaded = ReinforceAgent.from_pretrained(tmp_path, device="cpu")
    assert same_weights(agent, loaded) and loaded.epoch == 3
    assert ReinforceAgent.from_pretrained(tmp_path / "checkpoint").config == SMALL
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_half_as_large_and_nearly_the_same(tmp_path: Path) -> None:
    agent = make_agent()
    agent.save_pretrained(tmp_path / "whole")
    agent.save_pretrained(tmp_path / "half", half=True)
    loaded = ReinforceAgent.from_pretrained(tmp_path / "half")
    for name, tensor in agent.network.state_dict().items():
        found = loaded.network.state_dict()[name]
        assert found.dtype == tensor.dtype
        torch.testing.assert_close(found, tensor, atol=1e-3, rtol=1e-3)
    sizes = [
        next((tmp_path / name).rglob("*.safetensors")).stat().st_size for name in ("half", "whole")
    ]
    count = sum(tensor.numel() for tensor in agent.network.state_dict().values())
    assert sizes[1] - sizes[0] >= 2 * count, "the generator's state stays as large"


def test_what_goes_up_comes_down(tmp_path: Path, hub: LocalHub) -> None:
    agent = make_agent(1)
    name = agent.push_to_hub("someone/looks")
    (sha,) = hub.commits["someone/looks"]
    assert name == f"hf://someone/looks@{sha}"
    for each in ("someone/looks", "hf://someone/looks", name, Path("hf://someone/looks")):
        assert same_weights(ReinforceAgent.from_pretrained(each, device="cpu"), agent)
    assert find_pretrained("someone/looks").name == name


def test_a_revision_is_pinned(hub: LocalHub) -> None:
    first, second = make_agent(1), make_agent(2)
    pinned = first.push_to_hub("someone/looks")
    second.push_to_hub("someone/looks")
    assert same_weights(ReinforceAgent.from_pretrained("someone/looks"), second)
    assert same_weights(ReinforceAgent.from_pretrained(pinned), first)
    commit = pinned.partition("@")[2]
    loaded = ReinforceAgent.from_pretrained("someone/looks", revision=commit)
    assert same_weights(loaded, first)


def test_only_safetensors_and_json_come(tmp_path: Path, hub: LocalHub) -> None:
    make_agent().save_pretrained(tmp_path / "agent")
    files = files_of(tmp_path / "agent")
    foreign = {"evil.py": b"raise SystemExit", "model.pkl": b"\x80\x04.", "pytorch.bin": b"x"}
    hub.commit("someone/looks", files | foreign)
    found = find_pretrained("someone/looks")
    assert set(files_of(found.folder)) == set(files) and found.remote and not found.own
    assert not any(name.endswith((".py", ".pkl", ".bin", ".pt")) for name in FILES)
    (tmp_path / "agent" / "evil.py").write_text("raise SystemExit")
    sha = upload(tmp_path / "agent", "someone/other").partition("@")[2]
    assert set(hub.commits["someone/other"][sha]) == set(files)


def test_offline_the_cache_is_enough(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(1)
    agent.push_to_hub("someone/looks")
    ReinforceAgent.from_pretrained("someone/looks")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    count = len(hub.requests)
    assert same_weights(ReinforceAgent.from_pretrained("someone/looks"), agent)
    assert len(hub.requests) == count
    with pytest.raises(PretrainedError, match="HF_HUB_OFFLINE") as caught:
        find_pretrained("someone/unseen")
    assert "\n" not in str(caught.value)


def test_each_mistake_is_one_sentence(
    tmp_path: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_agent().push_to_hub("someone/looks")
    for name, revision, words in (
        ("someone/missing", None, "no repository 'someone/missing'"),
        ("someone/looks", "v9", "no revision 'v9'"),
        ("someone/looks@main", "v9", "another revision"),
        ("hf://someone", None, "no trained agent 'hf://someone'"),
        (Path("hf://someone"), None, "no trained agent 'hf://someone'"),
        ("synthetic-cats", None, "synthetic-dogs"),
        ("../../etc/passwd", None, "no trained agent"),
    ):
        with pytest.raises(PretrainedError, match=words) as caught:
            ReinforceAgent.from_pretrained(name, revision=revision)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(PretrainedError, match="check the network") as caught:
        ReinforceAgent.from_pretrained("someone/never-seen")
    assert "\n" not in str(caught.value)
    with pytest.raises(PretrainedError, match="cannot be uploaded"):
        make_agent().push_to_hub("someone/looks")
    with pytest.raises(PretrainedError, match="no published agent"):
        upload(tmp_path, "someone/looks")


def test_a_damaged_file_is_told(tmp_path: Path, hub: LocalHub) -> None:
    make_agent().save_pretrained(tmp_path)
    files = files_of(tmp_path)
    weights = next(name for name in files if name.endswith(".safetensors"))
    damaged = bytearray(files[weights])
    damaged[-3] ^= 1
    hub.commit("someone/looks", files | {weights: bytes(damaged)})
    with pytest.raises(CheckpointError, match="someone/looks@.* to fetch it again"):
        ReinforceAgent.from_pretrained("someone/looks")
    hub.commit("someone/empty", {"README.md": b"nothing here"})
    with pytest.raises(CheckpointError, match="someone/empty"):
        ReinforceAgent.from_pretrained("someone/empty")
    record = json.loads(files["checkpoint/checkpoint.json"])
    record["metadata"]["agent"]["network"]["hidden_size"] = 10**12
    files["checkpoint/checkpoint.json"] = json.dumps(record).encode()
    hub.commit("someone/huge", files)
    with pytest.raises(CheckpointError, match="someone/huge"):
        ReinforceAgent.from_pretrained("someone/huge")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *arguments, **named):
        if name.split(".")[0] == "huggingface_hub":
            raise ImportError(name)
        return imported(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PretrainedError, match=r"glimpse-env\[hub\]"):
        ReinforceAgent.from_pretrained("someone/looks")


def test_a_folder_goes_before_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(4)
    agent.save_pretrained(tmp_path / "someone" / "looks")
    monkeypatch.chdir(tmp_path)
    assert same_weights(ReinforceAgent.from_pretrained("someone/looks"), agent)
    shutil.rmtree(tmp_path / "someone" / "looks" / "checkpoint")
    with pytest.raises(CheckpointError, match="No checkpoint"):
        ReinforceAgent.from_pretrained("someone/looks")
