# Public names of `glimpse_env.wrappers`; each is imported when it is first used.

from .env_wrappers import (
    REWARDS as REWARDS,  # rewards of `FixationOnly`
    Classifier as Classifier,  # what `FixationOnly` asks for
    FixationOnly as FixationOnly,  # Box(2): a classifier gives the label
    FlatAction as FlatAction,  # Box(2 + K): the fixation, then the logits of the label
    FlatObservation as FlatObservation,  # one Box
    LatticeAction as LatticeAction,  # MultiDiscrete: points of a lattice, and the label
    VectorFixationOnly as VectorFixationOnly,  # the same for vector environments
    VectorFlatAction as VectorFlatAction,
    VectorFlatObservation as VectorFlatObservation,
    VectorLatticeAction as VectorLatticeAction,
)
