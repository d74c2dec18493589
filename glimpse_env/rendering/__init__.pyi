# Public names of `glimpse_env.rendering`; each is imported when it is first used.

from .scanpath import (
    composite as composite,  # an image as the glimpses showed it
    draw_scanpath as draw_scanpath,  # an image with the fixations drawn in
    glimpse_strip as glimpse_strip,  # the patches of all glimpses
    scanpath_panel as scanpath_panel,  # all three
)
from .window import (
    Window as Window,  # the window of render_mode="human"
)
