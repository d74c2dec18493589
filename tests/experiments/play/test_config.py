"""What `glimpse play` refuses before it opens anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import main
from experiments.play.config import PlayConfig
from experiments.play.game import OwnImages


@pytest.mark.parametrize("name", ["*", "*.example.org"])
def test_a_host_of_any_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="--allow-host names each host"):
        PlayConfig(host="0.0.0.0", allow_host=(name,))


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        OwnImages([tmp_path / "missing.jpg"], ("a", "b"))
    assert str(raised.value) == f"--image {tmp_path / 'missing.jpg'}: there is no such file"


def test_the_command_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette", reason="Starlette is not installed (the extra `play`)")
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra `play`)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLIMPSE_DEBUG", raising=False)
    assert main(["play", "--port", "0", "--image", "missing.jpg"]) == 1
    said = capsys.readouterr().err
    assert said == "glimpse play: --image missing.jpg: there is no such file\n"
