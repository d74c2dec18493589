# Public names of `glimpse_env.wrappers`; each is imported when it is first used.

from .answered import (
    REWARDS as REWARDS,  # rewards of `FixationOnly`
    Classifier as Classifier,  # what `FixationOnly` asks for
    FixationOnly as FixationOnly,  # Box(2) or a lattice: a classifier gives the label
    VectorAnswered as VectorAnswered,  # own Dict actions, but a classifier gives the label
    VectorFixationOnly as VectorFixationOnly,  # `FixationOnly` for vector environments
)
from .ap_gym import (
    from_ap_gym as from_ap_gym,  # ap_gym's image classifications in our form
)
from .env_wrappers import (
    FlatAction as FlatAction,  # Box(2 + K): the fixation, then the logits of the label
    FlatObservation as FlatObservation,  # one Box
    LatticeAction as LatticeAction,  # MultiDiscrete: points of a lattice, and the label
    VectorFlatAction as VectorFlatAction,  # the same for vector environments
    VectorFlatObservation as VectorFlatObservation,
    VectorLatticeAction as VectorLatticeAction,
)
