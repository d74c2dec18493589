"""Everything a person runs: training, evaluation, banks, the `glimpse` command."""

from glimpse_env.ownership import require_own

__distribution__ = "glimpse-env"

require_own("agents", "encoders")
