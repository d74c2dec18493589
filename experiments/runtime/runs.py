"""A run is a folder: what was asked for, what happened, and where and from what it came."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from filelock import FileLock, Timeout

from agents.configs import ReinforceConfig, check_types
from encoders.folders import write_whole
from experiments.runtime.old_names import renamed

Config = TypeVar("Config")

_PACKAGES = (
    "glimpse-env",
    "torch",
    "torchvision",
    "numpy",
    "gymnasium",
    "pillow",
    "safetensors",
    "stable-baselines3",
    "sb3-contrib",
)


LOCK = ".lock"
"""Name of the file that is locked; the system gives it free when its process ends, however."""


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What locking fails with where there are none, as on some network file systems."""


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what to do."""


@contextmanager
def sole_user(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder, made if need be, as long as the context lasts.

    Args:
        folder: The folder.
        wait: Whether to wait for another process that holds it.

    Raises:
        RunError: Another process holds it.
        OSError: The folder cannot be made or written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder / LOCK), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"another process is at work in {folder}: wait until it ends, or give another --out"
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        raise RunError(
            f"the file system of {folder} has no locks ({error}), so two runs there could write "
            "over one another: give an --out on another file system"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_unfinished(out: Path, own: Collection[str]) -> None:
    """Check that a folder holds nothing, or what a run cut short left.

    Args:
        out: The folder; it need not be there.
        own: Names of what such a run leaves.

    Raises:
        RunError: It holds a finished run, or something else.
    """
    if not out.exists():
        return
    # A file that was being written is called so, with a suffix.
    names = sorted(path.name for path in out.iterdir() if path.suffix != ".part")
    if any(name.startswith("evaluation-") for name in names):
        raise RunError(f"{out} holds a finished run: give another --out")
    others = [name for name in names if name not in (*own, LOCK)]
    if others:
        raise RunError(f"{out} holds other files ({', '.join(others[:3])}): give another --out")


def remove_unfinished(out: Path, own: Collection[str]) -> None:
    """Remove what a run cut short left in a folder, all but the lock held on it.

    Args:
        out: The folder.
        own: See `check_unfinished`.

    Raises:
        RunError: See `check_unfinished`.
    """
    check_unfinished(out, own)
    for path in out.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path: Path, record: Any) -> None:
    """Write JSON, moved into place only when whole."""
    write_whole(path, (_dump(record) + "\n").encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a record of a run.

    Args:
        path: Its file.
        remedy: What to do if it is missing or damaged, to end a sentence with.

    Raises:
        RunError: there is no such file, or no JSON object in it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: {remedy}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): {remedy}") from error
    if not isinstance(record, dict):
        raise RunError(f"{path} is not the record of a run: {remedy}")
    return renamed(record)


def _dump(record: Any) -> str:
    return json.dumps(record, indent=1, default=_plain, allow_nan=False)


_RESTORE = "restore it from a copy, or begin the run again in another --out"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def to_record(config: Any) -> dict[str, Any]:
    """A configuration as JSON will give it back."""
    return json.loads(json.dumps(asdict(config), default=_plain))


def from_record(kind: type[Config], record: Mapping[str, Any]) -> Config:
    """Read a (nested) frozen dataclass back from its record.

    Raises:
        RunError: for a field that this version does not know.
        TypeError: for a value of another type than its field's.
        ValueError: for one that the configuration refuses.
    """
    if not isinstance(record, Mapping):
        raise TypeError(f"{kind.__name__} is no object of settings: {record!r}")
    hints = get_type_hints(kind)
    unknown = sorted(set(record) - set(hints))
    if unknown:
        raise RunError(f"unknown settings {', '.join(unknown)}: the run is of another version")
    values = {}
    for name, value in record.items():
        hint = hints[name]
        if is_dataclass(hint) and isinstance(hint, type):
            values[name] = from_record(hint, value)
        elif get_origin(hint) is tuple and isinstance(value, list):
            paths = Path in get_args(hint)
            values[name] = tuple(map(Path, value)) if paths else tuple(value)
        elif value is not None and (hint is Path or Path in get_args(hint)):
            values[name] = Path(value)
        else:
            values[name] = value
    config = kind(**values)
    check_types(config)
    return config


def git_revision() -> str | None:
    """Revision of the checkout that this code lies in, `+` appended if it has changes."""
    here = Path(__file__).parents[1]
    try:
        top = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return top.stdout.strip() or None


def environment_record(**facts: Any) -> dict[str, Any]:
    """Versions, machine, revision, and the facts given (seed, hashes)."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": versions,
        "git_revision": git_revision(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "cuda": cuda,
        },
        **facts,
    }


class RunFolder:
    """A run folder in use: config.json, environment.json, metrics.jsonl, checkpoint/."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """Name the folder; nothing is touched yet.

        Args:
            path: The folder.
            writes: Whether this process writes; of several that train together one does.
        """
        self.path, self.writes = Path(path), writes
        self.metrics = self.path / "metrics.jsonl"

    def begin(self, config: Any, environment: dict[str, Any], *, resume: bool) -> None:
        """Make the folder, or check that it holds the interrupted run of the same configuration.

        Paths and the device may change on resuming; what lies at the paths may not.

        Raises:
            RunError: there is a run already, or none to resume, or one of another configuration,
                or one that stands on other images, another encoder or other banks.
        """
        if not self.writes:
            return
        record, path = to_record(replace(config, resume=False)), self.path / "config.json"
        if resume:
            if not path.is_file():
                raise RunError(f"no run in {self.path} to resume: leave --resume out to begin one")
            self._check_same(type(config), record, environment)
            write_json(path, record)  # paths may have moved
            return
        if path.exists():
            raise RunError(
                f"{self.path} holds a run already: continue it with --resume, or give another --out"
            )
        write_json(self.path / "environment.json", environment)
        write_json(path, record)

    def _check_same(
        self, kind: type[Any], record: dict[str, Any], environment: dict[str, Any]
    ) -> None:
        # Read and written again: settings that are newer than the run get their defaults, which
        # are what it was begun with.
        found = to_record(load_config(kind, self.path))
        names = differences(settings_of(found), settings_of(record))
        if names:
            raise RunError(
                f"the run in {self.path} was begun with other settings ({', '.join(names)}): "
                "resume it with its own, or begin another in another --out"
            )
        begun = read_json(self.path / "environment.json", _RESTORE)
        if "bank" in environment and "bank" not in begun:
            warnings.warn(
                f"{self.path}/environment.json is of a version that did not record banks: whether "
                "these are the same cannot be told",
                stacklevel=3,
            )
            begun = begun | {"bank": environment["bank"]}
        names = differences(stands_on(begun), stands_on(json.loads(_dump(environment))))
        if names == ["threads"]:
            raise RunError(
                f"the run in {self.path} was begun with --deterministic and {begun['threads']} "
                f"thread(s), and there are {environment['threads']} now: set "
                f"OMP_NUM_THREADS={begun['threads']}"
            )
        if names:
            raise RunError(
                f"the run in {self.path} stands on something else than what is here now "
                f"({', '.join(names)}): resume it with its own images, encoder and banks, or "
                "begin another in another --out"
            )

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row of metrics."""
        if not self.writes:
            return
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row), default=_plain) + "\n")

    def is_best(self, agent: str, ma: float | None) -> bool:
        """Return whether no evaluation of an agent was better than this one; False without one."""
        if ma is None:
            return False
        rows = self._rows()
        return all(row.get("eval_ma", ma) <= ma for row in rows if row["agent"] == agent)

    def rewind(self, agent: str, epoch: int) -> None:
        """Drop the rows of `agent` from `epoch` on: they will be computed again."""
        if not (self.writes and self.metrics.exists()):
            return
        kept = [row for row in self._rows() if row["agent"] != agent or row["epoch"] < epoch]
        write_rows(self.metrics, kept)

    def _rows(self) -> list[dict[str, Any]]:
        """Rows of metrics that were written to the end; RunError if one is none of ours."""
        rows = read_rows(self.metrics, {"agent": str, "epoch": int})
        if not all(isinstance(row.get("eval_ma", 0.0), (int, float)) for row in rows):
            raise RunError(f"{self.metrics} is damaged (eval_ma is a number): {_RESTORE}")
        return rows


def read_rows(path: Path, kinds: Mapping[str, type]) -> list[dict[str, Any]]:
    """Rows of JSON lines that were written to the end; a killed run may leave half of one.

    Args:
        path: The file.
        kinds: What every row has, and of which type.

    Raises:
        RunError: The file cannot be read, or holds other rows.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [renamed(json.loads(line)) for line in lines if line.endswith("\n")]
        for row in rows:
            for name, kind in kinds.items():
                if not isinstance(row[name], kind):
                    raise TypeError(f"{name} is of type {kind.__name__}")
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): {_RESTORE}") from error
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines."""
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Select what determines a run's course in its config.json: no paths, device or copies kept.

    Of the bank only whether there is one is left; its content is among what a run stands on.
    """
    free = ("out", "device", "storage", "keep_last", "keep_best", "study", "logger")
    settings = {key: value for key, value in record.items() if key not in free}
    settings["bank"] = settings.get("bank") is not None
    if isinstance(settings.get("data"), dict):
        settings["data"] = {k: v for k, v in settings["data"].items() if k != "data_dir"}
    if isinstance(settings.get("learning"), dict):
        # What `auto` stands for: runs of before there was an `auto` name it.
        learning = from_record(ReinforceConfig, settings["learning"])
        settings["learning"] = to_record(
            replace(learning, reward=learning.reward_kind, baseline=learning.baseline_kind)
        )
    return settings


def stands_on(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Images, encoder, banks and threads in an environment.json, as far as they determine a run.

    The weight file counts where the encoder ran; with banks it need not even be there.
    """
    encoder, bank = environment.get("encoder") or {}, environment.get("bank")
    facts = {"fingerprint": encoder.get("fingerprint")}
    if bank is None:
        facts["weights_sha256"] = encoder.get("weights_sha256")
    return {
        "datasets": environment.get("datasets"),
        "encoder": facts,
        "bank": bank,
        # Sums over other parts differ in their last bits; told only where that was ruled out.
        "threads": environment.get("threads"),
    }


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Names, dotted and sorted, of what differs between two records."""
    return sorted(_differences(one, two))


def _differences(one: Mapping[str, Any], two: Mapping[str, Any], prefix: str = "") -> set[str]:
    names = set()
    for key in one.keys() | two.keys():
        a, b = one.get(key), two.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names |= _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.add(prefix + key)
    return names


def load_config(kind: type[Config], folder: Path) -> Config:
    """Read a run's configuration.

    Raises:
        RunError: no run there, or its record is damaged or of another version.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise RunError(f"no run in {folder} (no config.json): give the --out of a `glimpse train`")
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    record = read_json(path, _RESTORE)
    if not names & record.keys():
        raise RunError(f"{path} is not the configuration of a run")
    try:
        return from_record(kind, record)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunError(f"{path} is damaged ({error}): {_RESTORE}") from error
