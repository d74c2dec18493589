"""Banks to and from other places: whatever address fsspec knows, S3, GCS or a folder.

Beside a bank's files lies `sha256.json`, written last, so that what can be fetched is whole; what
was fetched is held against it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from encoders.bank.chunks import DONE
from encoders.bank.description import BankMismatchError
from encoders.bank.feature_bank import FeatureBank
from experiments.runtime.runs import RunError, sole_user

_DESCRIPTION = "bank.json"
_HASHES = "sha256.json"
_BLOCK = 2**22


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    """Tell in one sentence what went wrong at an address."""
    try:
        yield
    except (RunError, BankMismatchError):
        raise
    except ImportError as error:
        raise RunError(
            f"{address} needs another package ({error}): pip install 'glimpse-env[remote]'"
        ) from error
    except Exception as error:  # each store has exceptions of its own
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"{address} cannot be used: {said[0]}") from error


def _open(address: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise RunError("copying banks needs fsspec: pip install 'glimpse-env[remote]'") from error
    store, root = url_to_fs(address)
    return store, root.rstrip("/")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def send(bank: FeatureBank, address: str) -> None:
    """Copy a finished bank to `<address>/<split>`; files that are there already are left alone.

    Raises:
        RunError: The address cannot be used.
    """
    names = [_DESCRIPTION, DONE, *bank.description.array_shapes]
    hashes = {name: _sha256(bank.folder / name) for name in names}
    with _reaching(address):
        store, root = _open(address)
        there = _hashes(store, f"{root}/{bank.split}")
        store.makedirs(f"{root}/{bank.split}", exist_ok=True)
        if there != hashes:
            for name in names:
                if there.get(name) != hashes[name]:
                    store.put_file(str(bank.folder / name), f"{root}/{bank.split}/{name}")
            text = json.dumps(hashes, indent=1).encode()
            store.pipe_file(f"{root}/{bank.split}/{_HASHES}", text)


def fetch(address: str, out: Path, split: str) -> FeatureBank:
    """Copy a bank from `<address>/<split>` to `<out>/<split>`.

    Interrupted, it goes on with the files that are missing.

    Raises:
        BankMismatchError: The folder holds another bank.
        RunError: The address cannot be used, holds no such bank, or what came is damaged.
    """
    folder = out / split
    with sole_user(folder), _reaching(address):
        store, root = _open(address)
        hashes = _hashes(store, f"{root}/{split}")
        if not hashes:
            raise RunError(
                f"{address} holds no whole bank of {split}: copy one there with `glimpse bank --to`"
            )
        for name in hashes:
            if Path(name).name != name:
                raise RunError(f"{address} names a file outside the bank: {name}")
        description = folder / _DESCRIPTION
        if description.exists() and _sha256(description) != hashes.get(_DESCRIPTION):
            raise BankMismatchError(
                f"{folder} holds another bank than {address}/{split}: give another --out, or "
                "delete the folder"
            )
        missing = [
            name
            for name in hashes
            if not (folder / name).exists() or _sha256(folder / name) != hashes[name]
        ]
        if missing and description.exists():
            description.unlink()
            missing = list(dict.fromkeys([*missing, _DESCRIPTION]))
        # The description last: a folder with one is a bank.
        for name in sorted(missing, key=lambda each: each == _DESCRIPTION):
            path = folder / name
            partial = path.with_name(f"{name}.part")
            store.get_file(f"{root}/{split}/{name}", str(partial))
            if _sha256(partial) != hashes[name]:
                partial.unlink()
                raise RunError(f"{address}/{split}/{name} is damaged: copy the bank there again")
            os.replace(partial, path)
    return FeatureBank.open(folder)


def _hashes(store: Any, folder: str) -> dict[str, str]:
    """Return the hashes that `send` has written there; nothing if it has not."""
    try:
        found = json.loads(store.cat_file(f"{folder}/{_HASHES}"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
