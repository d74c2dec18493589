"""Completion in a shell: the script that `glimpse` prints, run by bash."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.commands import COMMANDS
from tests.children import run_command

ASK = """
source "$1"
shift
complete -p glimpse > /dev/null || exit 9
function=$(complete -p glimpse | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "glimpse.sh"
    with pytest.raises(SystemExit):
        main(["--tyro-write-completion", "bash", str(path)])
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.skipif(shutil.which("python3") is None, reason="bash would find no python3")
@pytest.mark.parametrize(
    "words, expected",
    [
        ([""], list(COMMANDS)),
        (["wh"], ["whole-image"]),
        (["bank", "--si"], ["--side"]),
        (["train", "medium-1-p"], ["medium-1-paper"]),
        (["train", "medium-1", "--ep"], ["--epochs"]),
        (["evaluate", "--split", ""], ["train", "val", "trainval", "test"]),
    ],
    ids=" ".join,
)
def test_bash_completes(script: Path, words: list[str], expected: list[str]) -> None:
    shown = run_command(["bash", "-c", ASK, "bash", str(script), "glimpse", *words])
    assert shown.returncode == 0, shown.stderr
    assert set(expected) <= set(shown.stdout.split())


@pytest.mark.parametrize("shell, sign", [("bash", "complete -F"), ("zsh", "#compdef glimpse")])
def test_a_script_is_printed(shell: str, sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", shell])
    assert end.value.code in (0, None) and sign in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["powershell"], ["bash", "too", "many"]])
def test_another_shell_is_refused_in_a_sentence(words, capsys) -> None:
    assert main(["--tyro-print-completion", *words]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "bash, zsh, fish" in shown
