"""Many jobs on one machine, on SLURM or on Ray: options, executors, and the sweep that watches."""
