"""Run code as a user who may not read everything, which root may."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

# Imports come first: another user may not be allowed to read where Python lies.
_HEAD = """
import os, tempfile
from pathlib import Path
from PIL import Image
Image.init()
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.datasets.base import read_image
top = Path(tempfile.mkdtemp())
os.chmod(top, 0o755)
def draw(*names):
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (1, 2, 3)).save(top / name)
def drop():
    if os.getuid() == 0:
        try:
            os.setgid(12345), os.setuid(12345)
        except OSError:  # a container that has no other user
            os._exit(77)
def tell(function):
    try:
        print(function())
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


def run_unprivileged(code: str, *flags: str) -> str:
    """Standard output of code that draws images below `top`, calls `drop()`, and tells."""
    if not hasattr(os, "setuid"):
        pytest.skip("this system has no numbered users")
    command = [sys.executable, *flags, "-c", _HEAD + textwrap.dedent(code)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if found.returncode == 77:
        pytest.skip("root cannot become another user here")
    assert found.returncode == 0, found.stderr
    return found.stdout
