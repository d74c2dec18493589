"""Command line of `experiments.gpu`: `python -m experiments.gpu --help`."""

from __future__ import annotations

import sys

from experiments.gpu.plan import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
