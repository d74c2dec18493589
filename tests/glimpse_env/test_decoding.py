"""Image files of every make: turned by one rule, scaled by what they say, and named in errors."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from glimpse_env.datasets.base import image_size, read_image
from glimpse_env.datasets.errors import DatasetWarning, UnreadableImageError
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.datasets.stanford_dogs import StanfordDogs
from glimpse_env.pyramids.pyramid import dataset_pyramid
from tests.unprivileged import run_unprivileged

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 60, 3), dtype=np.uint8)
RAMP = np.arange(256).reshape(16, 16)


def save_tagged(path: Path, tag: int) -> None:
    image = Image.fromarray(PIXELS)
    if path.suffix == ".tif":
        image.save(path, tiffinfo={274: tag})
        return
    exif = Image.Exif()
    exif[274] = tag
    image.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_the_orientation_tag_means_the_same_in_every_format(
    tmp_path: Path, suffix: str, tag: int
) -> None:
    path = tmp_path / f"x.{suffix}"
    save_tagged(path, tag)
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(PIXELS).save(tmp_path / "same.png", exif=exif)
    turned = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "same.png")))
    for upright, expected in ((False, PIXELS), (True, turned)):
        pixels = read_image(path, upright=upright)
        assert image_size(path, upright=upright) == (pixels.shape[1], pixels.shape[0])
        if suffix == "jpg":  # loses detail
            assert pixels.shape == expected.shape
        else:
            assert np.array_equal(pixels, expected)


def test_image_folders_stand_upright_and_boxes_keep_the_stored_pixels(tmp_path: Path) -> None:
    for name in ("a/x.tif", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        save_tagged(tmp_path / name, 6)
    data = ImageFolder(tmp_path, "trainval")
    assert [data.image(i).shape[:2] for i in range(2)] == [(60, 20)] * 2
    assert [data.size(i) for i in range(2)] == [(20, 60)] * 2
    assert StanfordDogs.upright is False and read_image(data.path(0)).shape == (20, 60, 3)


def test_a_tag_that_cannot_be_read_turns_nothing(tmp_path: Path) -> None:
    for number, exif in enumerate((b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"")):
        path = tmp_path / f"{number}.png"
        Image.fromarray(PIXELS).save(path, exif=exif)
        assert np.array_equal(read_image(path, upright=True), PIXELS)


def tiff(path: Path, values: np.ndarray, tags: dict[int, int] | None = None) -> Path:
    info = ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        info.tagtype[tag] = 4  # LONG
        info[tag] = value
    Image.fromarray(values).save(path, tiffinfo=info)
    return path


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ((RAMP * 16).astype(np.uint16), {281: 4080}),
        ((RAMP * 1000).astype(np.int32), {281: 255_000}),
        ((RAMP * 1000 + 7000).astype(np.int32), {280: 7000, 281: 262_000}),
        ((RAMP * 257).astype(np.uint16), None),
        ((RAMP * 257).astype(np.int32), None),
    ],
)
def test_integers_are_scaled_by_their_tags(tmp_path: Path, values, tags) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(tiff(tmp_path / "x.tif", values, tags))
    assert np.abs(pixels[..., 0].astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize(
    ("values", "suffix", "bits"),
    [
        (RAMP.astype(np.int32), "tif", 8),
        (RAMP.astype(np.uint16), "tif", 8),
        ((RAMP * 4).astype(np.uint16), "png", 10),
        ((RAMP * 16).astype(np.uint16), "tif", 12),
        ((RAMP * 16).astype(np.uint16), "png", 12),
    ],
)
def test_integers_without_tags_are_warned_of(
    tmp_path: Path, values, suffix: str, bits: int
) -> None:
    path = tmp_path / f"scan.{suffix}"
    Image.fromarray(values).save(path)
    with pytest.warns(DatasetWarning, match=rf"scan\.{suffix}.*read as {bits} bits"):
        pixels = read_image(path)
    assert np.abs(pixels[..., 0].astype(int) - RAMP).max() <= 1


def test_a_packed_twelve_bit_tiff_is_scaled(tmp_path: Path) -> None:
    values = (RAMP * 16).astype(np.uint32).reshape(-1, 2)
    packed = np.stack(
        [values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1
    )
    content = packed.astype(np.uint8).tobytes()
    entries = [
        (256, 3, 1, 16),
        (257, 3, 1, 16),
        (258, 3, 1, 12),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 3, 1, 16),
        (279, 4, 1, len(content)),
    ]
    head = b"II*\0" + (8 + len(content)).to_bytes(4, "little")
    table = len(entries).to_bytes(2, "little") + b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + n.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, n, value in entries
    )
    (tmp_path / "x.tif").write_bytes(head + content + table + bytes(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(tmp_path / "x.tif")
    assert np.abs(pixels[..., 0].astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize("values", [RAMP * 1000, RAMP - 9])
def test_integers_of_no_known_range_are_refused_by_name(tmp_path: Path, values) -> None:
    path = tiff(tmp_path / "survey.tif", values.astype(np.int32))
    with pytest.raises(UnreadableImageError, match=r"survey\.tif.*MaxSampleValue"):
        read_image(path)


def test_a_dark_image_of_sixteen_bits_a_channel_is_warned_of(tmp_path: Path) -> None:
    # Pillow cannot write these; big-endian P6 with a maximum of 65535 is as easy by hand as any.
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = b"".join(
        b"\0" + (np.repeat(row, 3) * 16).astype(">u2").tobytes() for row in RAMP.astype(np.uint16)
    )
    (tmp_path / "dark.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    with pytest.warns(DatasetWarning, match=r"dark\.png.*nearly black"):
        read_image(tmp_path / "dark.png")


@pytest.mark.parametrize("form", ["gif", "tiff", "webp"])
def test_further_frames_are_told_of(tmp_path: Path, form: str) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / f"x.{form}", save_all=True, append_images=frames[1:])
    with pytest.warns(DatasetWarning, match=rf"x\.{form} has several frames"):
        read_image(tmp_path / f"x.{form}")


# -- errors name the file ----------------------------------------------------------------------


def folder(tmp_path: Path, bad: Image.Image) -> ImageFolder:
    for name in ("a/0.png", "b/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 50)).save(tmp_path / name)
    bad.save(tmp_path / "a" / "scan_strip.png")
    return ImageFolder(tmp_path, "trainval")


def test_an_elongated_image_is_named(tmp_path: Path) -> None:
    data = folder(tmp_path, Image.new("RGB", (4000, 2)))
    with pytest.raises(ValueError, match=r"scan_strip\.png.*4000x2.*1024:1"):
        dataset_pyramid(data, 1, ("low",))


def test_it_is_named_by_an_environment_too(tmp_path: Path) -> None:
    import glimpse_env.vector_env as vector_env

    data = folder(tmp_path, Image.new("RGB", (4000, 2)))
    envs = vector_env.DogsGlimpseVectorEnv(3, dataset=data, observation="pixels")
    with pytest.raises(ValueError, match=r"scan_strip\.png"):
        envs.reset(seed=0)


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)]
)
def test_an_array_that_is_no_image_is_named(array: np.ndarray) -> None:
    class Own:
        def __len__(self) -> int:
            return 1

        def name(self, index: int) -> str:
            return "own/7.npy"

        def image(self, index: int) -> np.ndarray:
            return array

    with pytest.raises(ValueError, match=r"own/7\.npy: an image is uint8"):
        dataset_pyramid(Own(), 0)


def test_an_error_of_the_disk_keeps_its_number_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder(tmp_path, Image.new("RGB", (40, 20)))

    def fail(*given: object, **more: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(OSError, match=r"scan_strip\.png") as caught:
        data.image(1)
    assert caught.value.errno == errno.EIO and "replace" not in str(caught.value)


def test_no_memory_is_not_taken_for_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder(tmp_path, Image.new("RGB", (40, 20)))

    def fail(*given: object, **more: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError, match=r"scan_strip\.png"):
        data.image(1)


def test_a_file_that_may_not_be_read_is_named_at_once() -> None:
    shown = run_unprivileged(
        """
        draw("a/0.png", "a/1.png", "b/0.png")
        os.chmod(top / "a" / "1.png", 0o600 if os.getuid() == 0 else 0)
        drop()
        tell(lambda: ImageFolder(top, "trainval"))
        tell(lambda: read_image(top / "a" / "1.png"))
        """
    )
    first, second = shown.splitlines()
    assert first.startswith("PermissionError: 1 of the 3 files") and "a/1.png" in first
    assert second.startswith("PermissionError") and "a/1.png" in second


def test_filling_up_what_is_cut_short_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path, Image.new("RGB", (40, 20)))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.warns(DatasetWarning, match="LOAD_TRUNCATED_IMAGES"):
        ImageFolder(tmp_path, "trainval")


def test_empty_files_are_told_of_at_once(tmp_path: Path) -> None:
    folder(tmp_path, Image.new("RGB", (40, 20)))
    (tmp_path / "b" / "1.jpg").touch()
    with pytest.warns(DatasetWarning, match=r"1 of the 4 files .* empty.*b/1\.jpg"):
        ImageFolder(tmp_path, "trainval")
