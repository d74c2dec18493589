# Public names of `glimpse_env.observers`; each is imported when it is first used.

from .bank import (
    BankObserver as BankObserver,  # observations from a feature bank
)
from .base import (
    Gaze as Gaze,  # where a number of environments look
    Observer as Observer,  # the protocol
)
from .factory import (
    make_observer as make_observer,  # the observer that the options describe
)
from .live import (
    LiveObserver as LiveObserver,  # observations from a retina and an encoder
)
from .patches import (
    PatchSource as PatchSource,  # patches cut from the images of a data set
)
from .recurrent import (
    RecurrentObserver as RecurrentObserver,  # observations from a recurrent encoder
)
