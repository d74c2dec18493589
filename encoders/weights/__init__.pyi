# Public names of `encoders.weights`; each is imported when it is first used.

from .caffe import (
    CaffeModelError as CaffeModelError,  # a file that is not a Caffe model
    read_blobs as read_blobs,  # the arrays of a Caffe model by layer
    read_caffemodel as read_caffemodel,  # a Caffe GoogLeNet as a state dict
)
from .download import (
    DownloadError as DownloadError,  # a download that failed
    download_file as download_file,  # download a file, resumable and verified
)
from .files import (
    WeightsHashError as WeightsHashError,  # a weight file of another content
    WeightsNotFoundError as WeightsNotFoundError,  # a weight file that is absent
    default_weights_dir as default_weights_dir,  # where weights are kept
    file_digest as file_digest,  # the hash of a file, remembered
    find_weights as find_weights,  # the verified weight file of a spec
    load_state as load_state,  # a state dict from any of the formats
    search_folders as search_folders,  # where weights are looked for
)
