"""`glimpse publish`: a folder that others can use, free of this machine, and its card."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from agents.pretrained import find_pretrained
from agents.reinforce import ReinforceAgent
from experiments.cli import main
from experiments.play.command import PlayConfig, prepare
from experiments.publish.command import PublishConfig, publish
from experiments.runtime.hub_runs import local_run, results_folder
from experiments.runtime.runs import RunError
from experiments.train.playback import open_run, play_back
from tests.agents.local_hub import LocalHub
from tests.agents.test_pretrained import files_of, hub  # noqa: F401  a fixture

Runs = dict[str, Path]


def change(folder: Path, name: str, **values) -> None:
    record = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(record | values))


def test_the_folder_reads_like_a_run(watched_runs: Runs, tmp_path: Path) -> None:
    run, out = watched_runs["high"], tmp_path / "mine"
    assert publish(PublishConfig(run, out=out)) == out
    names = set(files_of(out))
    assert {"README.md", "config.json", "environment.json", "evaluation-val.json"} < names
    assert {name.rpartition(".")[2] for name in names} == {"md", "json", "safetensors"}
    opened = open_run(out, "val", num_images=4)
    seen = play_back(opened.agents["learned"], opened.env)
    assert seen.log_probs.shape[1] == len(opened.dataset)
    agent = ReinforceAgent.from_pretrained(out)
    whole = ReinforceAgent.load(run / "checkpoint")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(agent.network.state_dict()[name].cpu(), tensor.cpu())


def test_nothing_of_this_machine_is_in_it(watched_runs: Runs, tmp_path: Path) -> None:
    run = shutil.copytree(watched_runs["high"], tmp_path / "run")
    command = ["/usr/bin/glimpse", "train", "--bank", "/secret/b", "--out=/secret/out"]
    change(run, "environment.json", command=command)
    out = publish(PublishConfig(run, out=tmp_path / "mine", half=True))
    for name, content in files_of(out).items():
        if not name.endswith(".safetensors"):
            assert str(tmp_path).encode() not in content, name
            assert b"/secret" not in content and b"/usr/bin" not in content, name
    assert json.loads((out / "config.json").read_text())["bank"] is None


def test_the_card_is_written_from_the_record(watched_runs: Runs, tmp_path: Path) -> None:
    run = watched_runs["high"]
    out = publish(PublishConfig(run, out=tmp_path / "mine"))
    card = (out / "README.md").read_text()
    environment = json.loads((run / "environment.json").read_text())
    evaluation = json.loads((run / "evaluation-val.json").read_text())
    assert card.startswith("---\nlicense: mit\n")
    row = evaluation["learned"]
    assert f"| {row['ma']:.1f} | {row['low']:.1f} to {row['high']:.1f} |" in card
    for fact in (
        environment["encoder"]["seen"],
        environment["encoder"]["weights_sha256"],
        environment["datasets"]["train"]["fingerprint"],
        environment["datasets"]["val"]["fingerprint"],
        f"**Seed**: {environment['seed']}",
        json.loads((out / "checkpoint" / "checkpoint.json").read_text())["sha256"],
    ):
        assert str(fact) in card, fact
    assert not re.search(r"\bNone\b", card.replace("revision `None`", ""))


def test_what_cannot_be_published(watched_runs: Runs, tmp_path: Path) -> None:
    run = shutil.copytree(watched_runs["high"], tmp_path / "run")
    data = json.loads((run / "config.json").read_text())["data"]
    for changes, words in (
        ({"policy": "center"}, "mean nothing"),
        ({"encoder": "mine.json"}, "encoder of your own"),
        ({"data": data | {"dataset": "stanford_dogs"}}, "--license"),
        ({"data": data | {"dataset": "mine:open_dogs"}}, "data set of your own"),
    ):
        change(run, "config.json", **changes)
        with pytest.raises(RunError, match=words):
            publish(PublishConfig(run, out=tmp_path / "out"))
        shutil.copy(watched_runs["high"] / "config.json", run / "config.json")
    (run / "evaluation-val.json").unlink()
    with pytest.raises(RunError, match="no evaluation"):
        publish(PublishConfig(run, out=tmp_path / "out"))
    with pytest.raises(RunError, match="no run in"):
        publish(PublishConfig(tmp_path / "nothing"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(RunError, match="is not empty"):
        publish(PublishConfig(watched_runs["high"], out=tmp_path / "full"))
    for options in ({"license": "my own: words"}, {"push": "nobody"}, {"title": "a\nb"}):
        with pytest.raises(ValueError):
            PublishConfig(run, **options)


def test_to_the_hub_and_back(
    watched_runs: Runs,
    tmp_path: Path,
    hub: LocalHub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = publish(PublishConfig(watched_runs["high"], out=tmp_path / "mine", push="me/looks"))
    assert "uploaded: hf://me/looks@" in capsys.readouterr().out
    folder = local_run(Path("hf://me/looks"))
    assert files_of(folder) == files_of(out)
    assert "hf://me/looks@" in capsys.readouterr().out
    assert open_run(folder, "val", num_images=2).title == "high only, 2 glimpses"
    assert local_run(out) == out
    assert results_folder(Path("hf://me/looks@main")) == Path("published/me-looks-main")
    assert results_folder(out) == out


def test_the_commands_take_it_by_its_name(
    watched_runs: Runs,
    tmp_path: Path,
    hub: LocalHub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(PublishConfig(watched_runs["high"], out=tmp_path / "mine", push="me/all"))
    commit = hub.branches["me/all"]["main"]
    before = files_of(local_run(Path("hf://me/all")))
    assert main(["evaluate", "--run", "hf://me/all", "--examples", "1"]) == 0
    (written,) = (tmp_path / "published/me-all").glob("evaluation-val*.json")
    record = json.loads(written.read_text())
    assert record["settings"]["source"] == {"live": "float32"}
    assert files_of(local_run(Path("hf://me/all"))) == before, "the cache is not written to"
    assert main(["attention", "hf://me/all", "--count", "4"]) == 0
    record = json.loads((tmp_path / "attention/attention.json").read_text())
    assert record["runs"][0]["run"] == f"hf://me/all@{commit}"
    assert main(["figures", "--run", "hf://me/all", "--which", "6", "--count", "1"]) == 0
    served = prepare(PlayConfig(run=Path("hf://me/all"), out=tmp_path / "play"))
    assert served.title == f"high only, 2 glimpses, against hf://me/all@{commit}"
    assert served.store.header["run"] == f"hf://me/all@{commit}"


@pytest.mark.parametrize("command", [["evaluate", "--run"], ["figures", "--run"], ["attention"]])
def test_an_address_that_leads_nowhere_is_one_sentence(
    command: list[str],
    hub: LocalHub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GLIMPSE_DEBUG", raising=False)
    assert main([*command, "hf://nobody/nothing"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no repository 'nobody/nothing'" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "os:system"},
        {"policy": "center"},
        {"policy_options": {"x": "y"}},
        {"bank": "/etc"},
        {"storage": "/etc"},
        {"encoder": "/tmp/evil.json"},
        {"data": None},
        {"data": {"dataset": "synthetic", "data_dir": "/etc"}},
        {"data": {"dataset": "os:system"}},
    ],
)
def test_a_stranger_cannot_have_code_or_paths_opened(
    changes: dict,
    watched_runs: Runs,
    tmp_path: Path,
    hub: LocalHub,  # noqa: F811
) -> None:
    out = publish(PublishConfig(watched_runs["high"], out=tmp_path / "mine"))
    change(out, "config.json", **changes)
    hub.commit("evil/agent", files_of(out))
    with pytest.raises(RunError, match="asks for code or files"):
        local_run(Path("hf://evil/agent"))
    assert find_pretrained("evil/agent").remote


def test_an_agent_without_its_record(tmp_path: Path, hub: LocalHub) -> None:  # noqa: F811
    from tests.agents.test_pretrained import make_agent

    make_agent().push_to_hub("me/bare")
    with pytest.raises(RunError, match="without the record"):
        local_run(Path("hf://me/bare"))
