"""`make gpu`: everything that needs an NVIDIA GPU, on a machine never seen, stage by stage.

`python -m experiments.gpu --list` names the stages. This package and `stages.plan` need Python
alone, since packages that are absent on the machine can be brought as wheels (`--wheels`); the
stages import torch and the project. It is run in a checkout and is in no wheel.
"""
