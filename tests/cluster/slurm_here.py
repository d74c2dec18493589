"""A real SLURM of two nodes on this machine, started and stopped as a context.

By hand, from the root of the repository: `python -m tests.cluster.slurm_here` starts one, prints
the variable that `sbatch` and `squeue` find it by, and stops it on Ctrl-C.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "scancel", "sinfo")

_CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/ctld
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
SlurmdTimeout=10
KillWait=5
InactiveLimit=0
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=p Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why SLURM cannot run here, or None."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd starts jobs as root alone"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class SlurmHere:
    """Nodes n1 and n2 of one CPU each."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        # Not in a test's folder: the path of a socket is 108 letters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.conf = self.folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of SLURM need to find it."""
        return {"SLURM_CONF": str(self.conf)}

    def __enter__(self) -> SlurmHere:
        """Start munge, the controller and both nodes; return when both are idle."""
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        folder = self.folder
        folder.chmod(0o755)
        for name in ("ctld", "spool-n1", "spool-n2"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.conf.write_text(_CONF.format(host=host, user=user, folder=folder, ports=free_ports(3)))
        files = ("socket", "pid", "log", "seed")
        flags = {"socket": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}",
            *(f"--{flags[name]}={folder}/munge.{name}" for name in files),
        )  # fmt: skip
        self._wait(lambda: (folder / "munge.socket").exists(), "munge")
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        for node in ("n1", "n2"):
            self.start_node(node)
        self._wait(lambda: self.nodes() == {"n1": "idle", "n2": "idle"}, "nodes")

    def _daemon(self, program: str, *arguments: str, name: str | None = None) -> None:
        path = _program(program)
        assert path is not None
        with open(self.folder / f"{name or program}.out", "ab") as out:
            self._daemons[name or program] = subprocess.Popen(
                [path, *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment,
                start_new_session=True,
            )

    def start_node(self, node: str) -> None:
        """Start a node, or start it again."""
        self._daemon("slurmd", "-D", "-N", node, "-f", str(self.conf), name=node)

    def nodes(self) -> dict[str, str]:
        """State of each node."""
        found = self.run("sinfo", "-h", "-N", "-o", "%N %T")
        return dict(line.split()[:2] for line in found.splitlines())

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State and node of each job in the queue."""
        found = self.run("squeue", "-h", "-r", "-o", "%i|%T|%N")
        rows = (line.split("|") for line in found.splitlines())
        return {row[0]: (row[1], row[2]) for row in rows}

    def run(self, *command: str) -> str:
        """What a command of SLURM says."""
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | self.environment, timeout=60
        ).stdout

    def kill_node(self, node: str) -> None:
        """SIGKILL to a node and to all that runs there, as when its power fails."""
        self._daemons.pop(node).kill()
        jobs = set(self._processes_of(node))
        parents = {_parent(pid) for pid in jobs}
        steps = {pid for pid in parents if "slurmstepd" in _name(pid)}
        for pid in steps | jobs:
            _kill(pid)

    def _processes_of(self, node: str) -> list[int]:
        marks = (f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.conf}".encode())
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and all(mark in _environment(entry) for mark in marks)
        ]

    def _wait(self, done, what: str) -> None:  # noqa: ANN001
        deadline = time.monotonic() + 60
        while not done():
            if time.monotonic() > deadline:
                logs = [path.read_text(errors="replace")[-800:] for path in self._logs()]
                raise RuntimeError(f"SLURM's {what} did not come up:\n" + "\n".join(logs))
            time.sleep(0.3)

    def _logs(self) -> list[Path]:
        return sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])

    def __exit__(self, *error: object) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self._daemons:
            user = pwd.getpwuid(os.geteuid()).pw_name
            self.run("scancel", "-u", user)
            time.sleep(1)
        for node in ("n1", "n2"):
            if node in self._daemons:
                self.kill_node(node)
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _environment(entry: Path) -> list[bytes]:
    try:
        return (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> None:
    """Run one until Ctrl-C."""
    with SlurmHere() as slurm:
        print(f"export SLURM_CONF={slurm.conf}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
