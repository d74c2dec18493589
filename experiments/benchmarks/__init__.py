"""Measurements behind the project's claims: one module a claim, each with one function `run`."""

BENCHMARKS: dict[str, str] = {
    "retina": (
        "Glimpses a second: at least 100 times ap_gym, 10 times grid_sample, and half of a memcpy."
    ),
    "recurrent": (
        "Training steps a second of recurrent agents on a free environment: ours at least ten "
        "times sb3-contrib's RecurrentPPO."
    ),
    "agent": "A training step of the full-size agent: at least half of the matrix peak.",
}
"""Module in this package, and what it claims (which its result may refute)."""
