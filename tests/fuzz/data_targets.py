"""Readers of images and of what belongs to them: archives, lists, boxes, folders, pyramids."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from experiments.prepare.dedup import read_leave_out, write_list
from glimpse_env.datasets.base import image_size, read_image
from glimpse_env.datasets.download.archives import file_names, is_unpacked, unpack, unpacked_size
from glimpse_env.datasets.errors import (
    AnnotationError,
    ArchiveError,
    DatasetFormatError,
    DatasetNotFoundError,
    MissingImagesError,
    UnreadableImageError,
)
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.datasets.stanford_dogs import StanfordDogs, read_list
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.mapped import (
    MappedPyramids,
    PyramidsIncompleteError,
    PyramidsMismatchError,
    open_mapped,
)
from tests.fuzz.harness import Target
from tests.fuzz.mutate import NAMES, VALUES, mutate_bytes, mutate_json, mutate_text

_KINDS = (
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.GNUTYPE_SPARSE,
    tarfile.CONTTYPE,
    tarfile.AREGTYPE,
    tarfile.DIRTYPE,
    b"Z",
)
_MODES = ("w", "w", "w", "w:gz", "w:bz2", "w:xz")


def _tar(members: list[tuple[tarfile.TarInfo, bytes]], mode: Any, form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode=mode, format=form, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.isfile() else None)
    return buffer.getvalue()


def _members(source: random.Random | None = None) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Three good members; spoilt by `source` if given."""
    members = []
    for name, content in (("Images/a.jpg", b"a" * 700), ("Images/b/c.png", b""), ("d", b"dd")):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        members.append((info, content))
    if source is None:
        return members
    for _ in range(source.choice((1, 1, 2))):
        at = source.randrange(len(members))
        info, content = members[at]
        kind = source.randrange(7)
        if kind < 2:
            info.name = source.choice(NAMES)
        elif kind == 2:
            info.name = source.choice(("Images", "Images/a.jpg", "Images/a.jpg/x", "Images/b"))
        elif kind == 3:
            info.type = source.choice(_KINDS)
            info.linkname = source.choice(("../outside.txt", "d", "Images", "/", *NAMES))
            if not info.isfile():
                info.size = 0
        elif kind == 4:
            info.mode = source.choice((0, 0o7777, 0o400, 0o222))
            info.mtime = source.choice((0, 2**33, -1, 1.5))
        elif kind == 5:
            info.pax_headers = {
                source.choice(
                    (
                        "path",
                        "size",
                        "linkpath",
                        "GNU.sparse.map",
                        "GNU.sparse.major",
                        "GNU.sparse.minor",
                        "GNU.sparse.realsize",
                        "mtime",
                        "hdrcharset",
                        "GNU.sparse.name",
                    )
                ): str(source.choice((*NAMES, 0, -1, 1, 2**40, 2**70, "0,512", "BINARY", "nan")))
                for _ in range(source.randrange(1, 4))
            }
        else:
            members.insert(at, members[source.randrange(len(members))])
    return members


def _odd_size(source: random.Random, data: bytes) -> bytes:
    """A tar whose first header states another size, with a checksum that is right."""
    header = bytearray(data[:512])
    if source.random() < 0.5:
        number = source.choice((-1, -512, -1024, -(2**62), 2**40, 2**62, 2**90))
        header[124:136] = (number % 2**96).to_bytes(12, "big")
        header[124] = 0xFF if number < 0 else 0x80
    else:
        header[124:136] = source.choice((b"77777777777\0", b"-0000000001\0", b"0000000x000\0"))
    header[156:157] = source.choice((b"0", b"0", b"L", b"K", b"x", b"g", b"S", b"5"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def _prepare_archives(folder: Path) -> list[bytes]:
    forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    return [
        _tar(_members(), mode, form) for mode in ("w", "w:gz", "w:bz2", "w:xz") for form in forms
    ]


def _draw_archive(good: list[bytes], source: random.Random) -> bytes:
    kind = source.randrange(6)
    if kind < 2:
        return mutate_bytes(source, source.choice(good), good)
    if kind == 2:
        return _odd_size(source, source.choice(good[:3]))
    members = _members(source)
    form = source.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.PAX_FORMAT))
    try:
        data = _tar(members, source.choice(_MODES), form)
    except (ValueError, UnicodeError):  # what the writer cannot express
        return mutate_bytes(source, source.choice(good), good)
    return mutate_bytes(source, data) if kind == 3 else data


def _archive(good: list[bytes], source: random.Random, inside: Path) -> None:
    archive, folder = inside / "archive.tar", inside / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    archive.write_bytes(_draw_archive(good, source))
    if source.random() < 0.2:  # something in the way
        (folder / "Images" / "a.jpg").mkdir(parents=True)
    try:
        if source.random() < 0.2:
            unpacked_size(archive)
            is_unpacked(archive, folder)
            assert all(isinstance(name, str) for name in file_names(archive))
        unpack(archive, folder)
    finally:
        for place, folders, files in os.walk(folder):
            for name in (*folders, *files):
                assert not name.startswith(".unpack-"), "left over"
                assert not Path(place, name).is_symlink(), "a link"
            assert all(Path(place, name).is_file() for name in files), "a device"


_DOGS = [f"n0208562{k}-Breed_{k}/n0208562{k}_{i}.jpg" for k in range(3) for i in range(4)]


def _mat(names: list[Any], labels: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    scipy.io.savemat(buffer, {"file_list": cells, "labels": labels}, **options)
    return buffer.getvalue()


def _dogs_folder(folder: Path) -> Path:
    """Stanford Dogs of three breeds, whole."""
    labels = np.repeat([1, 2, 3], 4)[:, None]
    (folder / "lists").mkdir(parents=True)
    for which in ("train", "test", "file"):
        (folder / "lists" / f"{which}_list.mat").write_bytes(_mat(_DOGS, labels))
    for name in _DOGS:
        for part, content in (("Images", _image("PNG")), ("Annotation", _XML.encode())):
            path = folder / part / name
            path = path if part == "Images" else path.with_suffix("")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def _prepare_lists(folder: Path) -> list[bytes]:
    _dogs_folder(folder / "dogs")
    labels = np.repeat([1.0, 2.0, 3.0], 4)[:, None]
    return [
        _mat(_DOGS, labels),
        _mat(_DOGS, labels.astype(np.uint8), do_compression=True),
        _mat(_DOGS, labels.astype(np.int32), oned_as="row"),
    ]


def _list(good: list[bytes], source: random.Random, inside: Path) -> None:
    kind = source.randrange(3)
    if kind:
        data = mutate_bytes(source, source.choice(good), good)
    else:
        names: list[Any] = list(_DOGS)
        labels: Any = np.repeat([1.0, 2.0, 3.0], 4)[:, None]
        for _ in range(source.choice((1, 2))):
            at = source.randrange(len(names))
            if source.random() < 0.5:
                head, tail = names[at][:11] if isinstance(names[at], str) else "", "/x.jpg"
                bad = source.choice(NAMES)
                names[at] = source.choice(
                    (bad, head + bad, head + bad + tail, f"../{_DOGS[at]}", 3.5)
                )
            else:
                labels[at] = source.choice((0, -1, 1, 4, 2.5, np.nan, np.inf, 1e300, 2**63))
        if source.random() < 0.2:
            labels = source.choice((labels[:-1], labels * 1j, np.array("a"), labels.T, labels > 1))
        try:
            data = _mat(names, labels)
        except (ValueError, TypeError, UnicodeError):
            data = mutate_bytes(source, source.choice(good), good)
    folder = inside / "dogs"
    path = folder / "lists" / "test_list.mat"
    path.write_bytes(data)
    names, labels = read_list(path)
    root = (folder / "Images").resolve()
    assert len(names) == len(labels) > 0 and labels.dtype == np.int64
    assert labels.min() >= 0 and labels.max() < len(names)
    assert all((root / name).resolve().is_relative_to(root) for name in names)
    dogs = StanfordDogs(folder, "test", allow_missing=True)
    assert set(dogs.labels.tolist()) <= set(range(len(dogs.class_names)))
    assert dogs.image(0).shape[2] == 3 and len(dogs.fingerprint) == 64


_XML = """<annotation>
 <folder>02085620</folder><filename>n02085620_7</filename>
 <size><width>8</width><height>6</height><depth>3</depth></size>
 <object><name>Chihuahua</name><pose>Unspecified</pose>
  <bndbox><xmin>1</xmin><ymin>0</ymin><xmax>6</xmax><ymax>5</ymax></bndbox></object>
 <object><bndbox><xmin>0</xmin><ymin>2</ymin><xmax>9</xmax><ymax>5</ymax></bndbox></object>
</annotation>"""
_DOCTYPES = (
    '<!DOCTYPE a [<!ENTITY b "8">]>',
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    '<!DOCTYPE a [<!ENTITY b SYSTEM "../../outside.txt">]>',
    "<!DOCTYPE annotation>",
    f'<!DOCTYPE a [<!ENTITY b "8"><!ENTITY c "{"&b;" * 50}"><!ENTITY d "{"&c;" * 50}">]>',
    '<!DOCTYPE a [<!ENTITY % b SYSTEM "http://127.0.0.1:9/"> %b;]>',
    '<?xml-stylesheet href="a"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="x-odd"?>',
)


def _prepare_boxes(folder: Path) -> StanfordDogs:
    return StanfordDogs(_dogs_folder(folder / "dogs"), "test")


def _boxes(dogs: StanfordDogs, source: random.Random, inside: Path) -> None:
    text, kind = _XML, source.randrange(4)
    if kind == 0:
        text = source.choice(_DOCTYPES) + text.replace(
            "<width>8", source.choice(("<width>&b;", "<width>&d;", "<width>8"))
        )
    elif kind == 1:
        tag = source.choice(("width", "height", "xmin", "ymin", "xmax", "ymax"))
        value = source.choice(VALUES)
        before, _, rest = text.partition(f"<{tag}>")
        text = f"{before}<{tag}>{value}</{tag}>{rest.partition(f'</{tag}>')[2]}"
    elif kind == 2:
        deep = source.choice((10, 100, 2_000))
        text = text.replace(
            "<object>", source.choice(("<object>", "<a>" * deep, "<bndbox>" * deep))
        )
    data = text.encode("utf-8", "replace")
    if kind == 3 or source.random() < 0.2:
        data = mutate_bytes(source, data)
    path = (dogs.data_dir / "Annotation" / dogs.name(0)).with_suffix("")
    path.write_bytes(data)
    boxes = dogs.boxes(0)
    assert boxes.dtype == np.float32 and boxes.shape[1:] == (4,)
    assert np.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= [8, 6, 8, 6]).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()


_FORMATS = (
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "PPM",
    "TIFF",
    "WEBP",
    "JPEG2000",
    "EPS",
    "ICO",
    "TGA",
    "PCX",
    "PDF",
)


def _image(form: str, mode: str = "RGB") -> bytes:
    ramp = (np.arange(8 * 6 * 3, dtype=np.uint8) * 5).reshape(6, 8, 3)
    buffer = io.BytesIO()
    Image.fromarray(ramp).convert(mode).save(buffer, form)
    return buffer.getvalue()


def _prepare_images(folder: Path) -> list[bytes]:
    good = []
    for form in _FORMATS:
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "I", "LA", "F"):
            try:
                good.append(_image(form, mode))
            except (OSError, ValueError):  # formats that have no such mode
                continue
    buffer = io.BytesIO()
    ramp = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        buffer = io.BytesIO()
        ramp.save(buffer, "TIFF", compression=compression)
        good.append(buffer.getvalue())
    buffer = io.BytesIO()
    ramp.save(buffer, "GIF", save_all=True, append_images=[ramp.rotate(90)])
    return [*good, buffer.getvalue()]


def _read_image(good: list[bytes], source: random.Random, inside: Path) -> None:
    path = inside / source.choice(("image.jpg", "image.png"))
    path.write_bytes(mutate_bytes(source, source.choice(good), good))
    width, height = image_size(path)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.size <= 3 * (Image.MAX_IMAGE_PIXELS or 0) and width > 0 and height > 0


def _prepare_cub(folder: Path) -> dict[str, str]:
    names = [f"00{k}.Bird_{k}/Bird_{k}_{i}.jpg" for k in (1, 2) for i in range(4)]
    for name in names:
        path = folder / "cub" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_image("PNG"))
    rows = list(enumerate(names, start=1))
    return {
        "images.txt": "".join(f"{i} {name}\n" for i, name in rows),
        "image_class_labels.txt": "".join(f"{i} {int(name[:3])}\n" for i, name in rows),
        "train_test_split.txt": "".join(f"{i} {i % 2}\n" for i, _ in rows),
        "classes.txt": "1 001.Bird_1\n2 002.Bird_2\n",
        "bounding_boxes.txt": "".join(f"{i} 1.0 1.0 5.0 4.0\n" for i, _ in rows),
    }


def _cub(good: dict[str, str], source: random.Random, inside: Path) -> None:
    folder = inside / "cub"
    spoilt = source.sample(sorted(good), source.choice((1, 1, 2)))
    for file, text in good.items():
        data = mutate_text(source, text) if file in spoilt else text.encode()
        (folder / file).write_bytes(data)
    birds = ImageFolder(folder, source.choice(("train", "test", "trainval")), allow_missing=True)
    root = (folder / "images").resolve()
    assert all(birds.path(i).resolve().is_relative_to(root) for i in range(len(birds)))
    assert set(birds.labels.tolist()) <= set(range(len(birds.class_names)))
    assert birds.image(0).shape == (6, 8, 3) and len(birds.fingerprint) == 64
    boxes = birds.boxes(0)
    assert np.isfinite(boxes).all() and (boxes[:, :2] <= boxes[:, 2:]).all()


def _folder(good: Any, source: random.Random, inside: Path) -> None:
    root = inside / "folder"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    names = ("train", "test", "val", "a", "b", ".hidden", "é", "\udcff", "a\nb", " ", "x.jpg")
    for _ in range(source.randrange(1, 6)):
        path = root.joinpath(*(source.choice(names) for _ in range(source.randrange(1, 4))))
        path = path / source.choice(("p.jpg", "q.PNG", "r.txt", ".s.jpg", "\udc80.jpg", "u.jpg"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = source.randrange(5)
            if kind == 0:
                path.symlink_to(source.choice((".", "..", "absent", path.name)))
            elif kind == 1:
                path.mkdir()
            else:
                path.write_bytes(good if kind > 2 else b"no image")
        except OSError:  # a file where a folder is asked for
            continue
    found = ImageFolder(
        root, source.choice(("train", "val", "trainval", "test")), allow_missing=True
    )
    assert set(found.labels.tolist()) <= set(range(len(found.class_names)))
    assert all(found.path(i).is_file() for i in range(len(found))) and len(found.fingerprint) == 64
    assert found.image(0).shape == (6, 8, 3)


def _prepare_pyramids(folder: Path) -> tuple[Any, dict[str, Any], dict[str, bytes]]:
    dogs = SyntheticDogs("val", num_images=2)
    made = MappedPyramids.create(folder / "pyramids", dogs, ("low",), chunk=1)
    list(made.build(dogs, 1))
    record = json.loads((folder / "pyramids" / "pyramids.json").read_text())
    files = {name: (folder / "pyramids" / name).read_bytes() for name in ("sizes.i32", "done.u8")}
    return dogs, record, files


def _pyramids(prepared: Any, source: random.Random, inside: Path) -> None:
    dogs, record, files = prepared
    folder = inside / "pyramids"
    spoilt = source.choice(("pyramids.json", "pyramids.json", *files))
    data = mutate_json(source, record) if spoilt.endswith("json") else json.dumps(record).encode()
    (folder / "pyramids.json").write_bytes(data)
    for name, content in files.items():
        if name == spoilt:
            content = bytearray(content)
            for _ in range(source.randrange(1, 6)):
                content[source.randrange(len(content))] = source.choice((0, 1, 127, 128, 255))
            if source.random() < 0.2:
                content = mutate_bytes(source, bytes(content))
        (folder / name).write_bytes(content)
    arena = open_mapped(folder, dogs, ("low",))
    assert len(arena) == 2 and (arena.shape > 0).all() and (arena.start >= 0).all()
    ends = arena.start + 3 * arena.shape.prod(axis=2)
    assert (ends <= record["num_bytes"]).all()


def _prepare_leave_out(folder: Path) -> str:
    names = [f"n0208562{k}/n0208562{k}_{i}.JPEG" for k in range(2) for i in range(3)]
    write_list(folder / "list.txt", names, {"test": 6})
    return (folder / "list.txt").read_text()


def _leave_out(good: str, source: random.Random, inside: Path) -> None:
    (inside / "list.txt").write_bytes(mutate_text(source, good))
    found = read_leave_out(inside / "list.txt")
    assert found.stems and len(found.sha256) == 64


_DATASET = (DatasetNotFoundError, DatasetFormatError, MissingImagesError, UnreadableImageError)

TARGETS = (
    Target("archive", (ArchiveError,), _prepare_archives, _archive),
    Target("mat_list", _DATASET, _prepare_lists, _list),
    Target("annotation_xml", (AnnotationError,), _prepare_boxes, _boxes),
    Target("image", (UnreadableImageError,), _prepare_images, _read_image),
    Target("cub_lists", (*_DATASET, AnnotationError), _prepare_cub, _cub),
    # ValueError: no such split in this layout.
    Target("image_folder", (*_DATASET, ValueError), lambda _: _image("PNG"), _folder),
    Target(
        "mapped_pyramids",
        (PyramidsMismatchError, PyramidsIncompleteError),
        _prepare_pyramids,
        _pyramids,
    ),
    Target("leave_out_list", (ValueError,), _prepare_leave_out, _leave_out),
)
