"""Weight files: where they are found, how they are downloaded, and Caffe's format."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
