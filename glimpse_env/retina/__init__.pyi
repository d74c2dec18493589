# Public names of `glimpse_env.retina`; each is imported when it is first used.

from .batch import (
    cut_from_arena as cut_from_arena,  # cut patches of many images at once
)
from .rules import (
    cut_patches as cut_patches,  # the patches around fixations, from pyramids
    cut_scaled_patches as cut_scaled_patches,  # the same with a zoom, from images
    patch_boxes as patch_boxes,  # the places of patches in an image
    patch_origins as patch_origins,  # the corners of patches in a level
    splitmix64 as splitmix64,  # the hash behind every draw of an episode
)
