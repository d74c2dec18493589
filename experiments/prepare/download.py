"""`glimpse download`: images and pre-trained weights."""

from __future__ import annotations

from encoders.spec import BVLC_FILE, BVLC_SHA256, TORCHVISION_FILE, TORCHVISION_SHA256
from encoders.weights.download import download_file
from encoders.weights.files import (
    BVLC_CAFFEMODEL,
    BVLC_CAFFEMODEL_SHA1,
    default_weights_dir,
    file_digest,
)
from experiments.prepare.config import DownloadConfig
from glimpse_env.datasets.download.stanford_dogs import (
    ARCHIVES,
    OFFICIAL_URL,
    download_dogs,
    unpack_shards,
)
from glimpse_env.datasets.errors import MissingImagesError
from glimpse_env.datasets.stanford_dogs import SPLITS, StanfordDogs, default_data_dir

BVLC_URL = "http://dl.caffe.berkeleyvision.org"
TORCHVISION_URL = "https://download.pytorch.org/models"


def download(config: DownloadConfig) -> None:
    """Do what `glimpse download` was asked to, and print what is there afterwards.

    Raises:
        ValueError: If the options contradict one another.
        encoders.weights.DownloadError: If a file cannot be fetched or is not the right one.
        glimpse_env.datasets.errors.ArchiveError: If an archive is broken.
        OSError: If the disk is too small.
    """
    if "dogs" not in config.what and config.from_shards is not None:
        raise ValueError("--from-shards is about the dogs: add `dogs` to what is to be downloaded")
    if config.originals and config.from_shards is None:
        raise ValueError("--originals needs --from-shards")
    files = {*(archive.name for archive in ARCHIVES), BVLC_CAFFEMODEL, TORCHVISION_FILE}
    unknown = sorted(set(config.sha256) - files)
    if unknown:
        raise ValueError(
            f"--sha256 names {', '.join(unknown)}; the files are {', '.join(sorted(files))}"
        )
    if "dogs" in config.what:
        _download_dogs(config)
    if "weights" in config.what or "torchvision-weights" in config.what:
        _download_weights(config)


def _download_dogs(config: DownloadConfig) -> None:
    data_dir = (config.data_dir or default_data_dir()).expanduser()
    if config.from_shards is not None:
        done = unpack_shards(
            config.from_shards.expanduser(),
            data_dir,
            originals=config.originals,
            progress=config.progress,
        )
    else:
        done = download_dogs(
            data_dir,
            base_url=config.mirror or OFFICIAL_URL,
            sha256=config.sha256,
            keep_archives=config.keep_archives,
            progress=config.progress,
        )
    print(f"unpacked {', '.join(done)} in {data_dir}" if done else f"all there in {data_dir}")
    for split in SPLITS:
        if split == "trainval":
            continue
        try:
            data = StanfordDogs(data_dir, split, allow_missing=True)
        except MissingImagesError:
            print(f"  {split:5} no images")
        else:
            absent = f", {data.num_missing} absent" if data.num_missing else ""
            print(f"  {split:5} {len(data)} images of {len(data.class_names)} breeds{absent}")


def _download_weights(config: DownloadConfig) -> None:
    folder = (config.weights_dir or default_weights_dir()).expanduser()
    if "weights" in config.what:
        path = folder / BVLC_FILE  # the same weights, smaller
        if not path.is_file() or file_digest(path) != BVLC_SHA256:
            path = download_file(
                f"{(config.mirror or BVLC_URL).rstrip('/')}/{BVLC_CAFFEMODEL}",
                folder / BVLC_CAFFEMODEL,
                sha256=config.sha256.get(BVLC_CAFFEMODEL),
                sha1=None if BVLC_CAFFEMODEL in config.sha256 else BVLC_CAFFEMODEL_SHA1,
                progress=config.progress,
            )
        print(f"BVLC GoogLeNet: {path}")
    if "torchvision-weights" in config.what:
        path = download_file(
            f"{(config.mirror or TORCHVISION_URL).rstrip('/')}/{TORCHVISION_FILE}",
            folder / TORCHVISION_FILE,
            sha256=config.sha256.get(TORCHVISION_FILE, TORCHVISION_SHA256),
            progress=config.progress,
        )
        print(f"torchvision's GoogLeNet: {path}")
