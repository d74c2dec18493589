"""Everything a person runs: training, evaluation, banks, the `glimpse` command."""

from importlib.util import find_spec
from pathlib import Path

__distribution__ = "glimpse-env"


def _marked(name: str) -> bool:
    """Return whether a package's own text names this distribution, without an import."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return False
    return __distribution__ in Path(spec.origin).read_text(encoding="utf-8", errors="replace")


if not all(map(_marked, ("agents", "encoders"))):
    from glimpse_env.ownership import require_own

    require_own("agents", "encoders")
