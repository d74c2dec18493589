"""Sweeps and banks on a real Ray of two nodes: as on one machine, whatever dies meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import BANK, command, glimpse, table, table_command, until
from tests.cluster.slurm_here import free_ports

pytest.importorskip("ray", reason="no Ray: pip install 'glimpse-env[ray]'")


NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a node, of one CPU each; their tasks do not stand back behind other programs."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        running = Cluster(initialize_head=True, head_node_args=NODE)
        running.add_node(**NODE)
        running.wait_for_nodes(timeout=600)
        yield running
        running.shutdown()


def started(out: Path) -> list[Path]:
    """Jobs that have begun."""
    logs = out.rglob("*.log")
    return [path for path in logs if "-- started on " in path.read_text()]


def test_a_node_that_dies_costs_its_jobs_another_start(
    cluster: Any, banks: Path, here: tuple[Any, Any], tmp_path: Path
) -> None:
    out = tmp_path / "table"
    words = table_command(banks, out, "--cluster", "ray", "--ray-address", cluster.address)
    sweep = command(*words)
    try:
        until(lambda: len(started(out)) >= 2, "two running jobs")
        until(lambda: list(out.glob("*/seed-*/config.json")), "a run that has begun")
        node = next(each for each in cluster.worker_nodes)
        cluster.remove_node(node, allow_graceful=False)  # SIGKILL
        said, _ = sweep.communicate(timeout=1800)
    finally:
        sweep.kill()
        cluster.add_node(**NODE)
    assert sweep.returncode == 0, said
    assert "started again" in said
    assert table(out) == here


def test_a_bank_in_shares_is_that_of_one_machine(cluster: Any, banks: Path, tmp_path: Path) -> None:
    out = tmp_path / "banks"
    where = ("--cluster", "ray", "--ray-address", cluster.address, "--jobs", 2)
    glimpse("bank", "--out", out, *BANK, *where)
    for split in ("train", "val"):
        for path in (banks / split).iterdir():
            if not path.name.startswith("."):
                assert (out / split / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_address_that_does_not_answer_is_one_sentence(banks: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    words = table_command(banks, tmp_path / "t", "--cluster", "ray", "--ray-address", address)
    sweep = command(*words)
    said, _ = sweep.communicate(timeout=1800)
    assert sweep.returncode == 1
    assert f"no Ray cluster answers at {address}" in said and "Traceback" not in said
