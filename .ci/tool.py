#!/usr/bin/env python3
"""Run a tool of the development environment: of the active one, else of `.venv`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment() -> Path:
    """Folder of scripts to look in first: the active environment's, else that of `.venv`."""
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    root = Path(active) if active else ROOT / ".venv"
    return root / ("Scripts" if os.name == "nt" else "bin")


def main(name: str, *arguments: str) -> int:
    """Run the tool; returns its exit status, or 1 with a sentence if it is nowhere."""
    scripts = environment()
    found = shutil.which(name, path=f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        print(f'no {name}: pip install -e ".[dev]", or make install', file=sys.stderr)
        return 1
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    if name == "pyright" and python.exists():
        arguments = ("--pythonpath", str(python), *arguments)
    return subprocess.run([found, *arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
