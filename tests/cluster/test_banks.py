"""Shares of a bank by processes, one of which is killed and begun again."""

from __future__ import annotations

import signal
from pathlib import Path

from encoders.bank.chunks import read_done
from tests.cluster.conftest import BANK, command, until


def test_three_shares_one_of_them_killed_are_the_whole(banks: Path, tmp_path: Path) -> None:
    out = tmp_path / "banks"
    words = [["bank", "--out", out, *BANK, "--share", f"{i}/3"] for i in (1, 2, 3)]
    log = tmp_path / "log"
    running = [command(*each, log=log) for each in words]
    try:
        until((out / "train" / "bank.json").exists, "a bank")
        until(lambda: read_done(out / "train").any(), "a chunk")
        running[1].kill()
        assert running[1].wait(60) == -signal.SIGKILL, "it came to its end before"
        running[1] = command(*words[1], log=log)
        for each in running:
            assert each.wait(1800) == 0, log.read_text()
    finally:
        for each in running:
            each.kill()
            each.wait()
    for split in ("train", "val"):
        assert not (out / split / "leases").exists()
        for path in (banks / split).iterdir():
            if not path.name.startswith("."):
                assert (out / split / path.name).read_bytes() == path.read_bytes(), path.name
