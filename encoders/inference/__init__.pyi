# Public names of `encoders.inference`; each is imported when it is first used.

from .devices import (
    DeviceNotAvailableError as DeviceNotAvailableError,  # a device that torch does not find
)
from .engine import (
    Encoder as Encoder,  # patches in, features out
    Precision as Precision,  # names of the precisions
    build_network as build_network,  # the plain network of a spec
    make_encoder as make_encoder,  # the fast form of a spec or module
)
