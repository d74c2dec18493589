"""What every command runs on: run folders, signals, ranks, sweeps, determinism."""
