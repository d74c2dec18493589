# Public names of `agents.recurrent`; each is imported when it is first used.

from .canvit import (
    CanViTGlimpses as CanViTGlimpses,  # a CanViT, called as a glimpse model is
    canvit as canvit,  # build one with new or published weights
)
from .model import (
    GlimpseModel as GlimpseModel,  # what a recurrent module must have
)
from .policy import (
    LearningRecurrentPolicy as LearningRecurrentPolicy,  # one that trains its module
    RecurrentPolicy as RecurrentPolicy,  # plays with a recurrent module
    recurrent as recurrent,  # a policy by the import path of its module
)
