"""Reference agents: fixed ways of looking, under a classifier that learns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
