# Public names of `glimpse_env.pyramids`; each is imported when it is first used.

from .arena import (
    PyramidArena as PyramidArena,  # the pyramids of a data set in one array
)
from .mapped import (
    MappedPyramids as MappedPyramids,  # pyramids on disk, shared between processes
    PyramidsIncompleteError as PyramidsIncompleteError,  # a file whose building was interrupted
    PyramidsMismatchError as PyramidsMismatchError,  # a file that is damaged, or does not fit
    open_mapped as open_mapped,  # open the pyramids that `glimpse pyramids` has written
)
from .pyramid import (
    PATCH_SIDE as PATCH_SIDE,  # P where none is asked for, in pixels
    PATCH_SIDES as PATCH_SIDES,  # smallest and largest P
    RESOLUTIONS as RESOLUTIONS,  # low, medium, high
    Pyramid as Pyramid,  # an image at three sizes
    build_pyramid as build_pyramid,  # resize an image to the three sizes
)
from .storage import (
    STORAGES as STORAGES,  # names of the kinds of storage
    choose_storage as choose_storage,  # where the pyramids of a data set fit
)
