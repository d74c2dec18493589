"""Shares of a bank by processes, one of which is killed and begun again."""

from __future__ import annotations

import signal
from pathlib import Path

from encoders.bank.chunks import read_done
from tests.cluster.conftest import BANK, command, until


def test_three_shares_one_of_them_killed_are_the_whole(banks: Path, tmp_path: Path) -> None:
    out = tmp_path / "banks"
    words = [["bank", "--out", out, *BANK, "--share", f"{i}/3"] for i in (1, 2, 3)]
    running = [command(*each) for each in words]
    until((out / "train" / "bank.json").exists, "a bank")
    until(lambda: read_done(out / "train").any(), "a chunk")
    running[1].send_signal(signal.SIGKILL)
    running[1].communicate()
    running[1] = command(*words[1])
    for each in running:
        said, _ = each.communicate(timeout=600)
        assert each.returncode == 0, said
    for split in ("train", "val"):
        assert not (out / split / "leases").exists()
        for path in (banks / split).iterdir():
            if not path.name.startswith("."):
                assert (out / split / path.name).read_bytes() == path.read_bytes(), path.name
