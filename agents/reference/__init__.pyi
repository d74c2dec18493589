# Public names of `agents.reference`; each is imported when it is first used.

from .agent import (
    ReferenceAgent as ReferenceAgent,  # a two-deck agent whose fixations are not learned
    center as center,  # look at the centre
    given as given,  # look at given places
    lattice_points as lattice_points,  # the points of a square lattice
    lattice_scan as lattice_scan,  # visit the points of a lattice in order
    oracle_fixations as oracle_fixations,  # the places that serve a classifier best
    scripted as scripted,  # look at the same places in every episode
    uniform as uniform,  # look at random
)
from .registered import (
    two_deck as two_deck,  # the paper's agent, by its registered name
)
from .saliency import (
    by_saliency as by_saliency,  # look where the context is salient
)
