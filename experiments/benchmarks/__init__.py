"""Measurements behind the project's claims: one module a claim, each with one function `run`."""

BENCHMARKS: dict[str, str] = {
    "scaling": "Cost by environments, resolutions, glimpses and pictures, stage by stage.",
    "pyramids": "Building pyramids: under 3 times the decoding of the same files.",
    "encoder": (
        "Patches a second: at least 5 times torchvision in eager fp32, ahead of ONNX Runtime and "
        "OpenVINO."
    ),
    "environment": (
        "What the environment costs: at most 5% over its encoder, 1 ms alone; 200,000 glimpses a "
        "second from a bank."
    ),
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
