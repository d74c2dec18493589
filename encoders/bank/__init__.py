"""Feature banks: the features of a data set at lattice points, computed once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
