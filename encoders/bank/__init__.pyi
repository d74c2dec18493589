# Public names of `encoders.bank`; each is imported when it is first used.

from .description import (
    BankDescription as BankDescription,  # what a bank holds, and of what it was made
    BankMismatchError as BankMismatchError,  # a bank that is damaged, or does not fit
)
from .feature_bank import (
    BankIncompleteError as BankIncompleteError,  # a bank whose building was interrupted
    FeatureBank as FeatureBank,  # the features of a data set at lattice points, on disk
)
from .points import (
    lattice as lattice,  # the points of a square lattice of fixations
    noise_keys as noise_keys,  # the keys of the noise around each patch of a bank
)
from .prefetch import Prefetch as Prefetch  # fetches features of the images that come next
