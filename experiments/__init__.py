"""Everything a person runs: training, evaluation, banks, the `glimpse` command."""
