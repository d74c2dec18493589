"""GoogLeNet surgery, each cut against an independent statement of what it should do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.models import GoogLeNet_Weights
from torchvision.models.googlenet import GoogLeNet

from encoders.googlenet import (
    GoogLeNetTrunk,
    LocalResponseNorm,
    build_googlenet,
    channel_window_sum,
    resample_stem,
)
from encoders.spec import get_spec
from encoders.weights.files import load_state

# ILSVRC's own category names, in its order.
CATEGORIES = GoogLeNet_Weights.IMAGENET1K_V1.meta["categories"]


def randomly(architecture: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of the right names and shapes, scaled so that activations stay alive."""
    torch.manual_seed(seed)
    network = build_googlenet(architecture)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.normal_(1 if name.endswith("bn.weight") else 0, 0.1)
    return network.state_dict()


def test_lrn_equals_torch() -> None:
    x = torch.randn(2, 64, 7, 5) * 100
    torch.testing.assert_close(
        LocalResponseNorm()(x), F.local_response_norm(x, 5, 1e-4, 0.75, 1.0), rtol=1e-5, atol=1e-5
    )


def test_lrn_runs_in_bf16_on_cpu() -> None:
    x = torch.randn(1, 64, 9, 9) * 100
    low = LocalResponseNorm()(x.bfloat16()).float()
    assert ((low - LocalResponseNorm()(x)).norm() / low.norm()) < 2e-2


def test_the_gradient_of_lrn_is_torchs() -> None:
    x = (torch.randn(2, 9, 3, 4, dtype=torch.float64) * 100).requires_grad_()
    (expected,) = torch.autograd.grad(
        F.local_response_norm(x, 5, 1e-4, 0.75, 1.0).square().sum(), x
    )
    (got,) = torch.autograd.grad(LocalResponseNorm()(x).square().sum(), x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(LocalResponseNorm(), x)


@pytest.mark.parametrize("channels", [3, 7])
def test_lrn_is_the_same_with_and_without_gradient(channels: int) -> None:
    """Where the neighbours count for much, and where there are fewer channels than the window."""
    x = torch.randn(2, channels, 3, 2, dtype=torch.float64).requires_grad_()
    strong = LocalResponseNorm(size=5, alpha=0.7, k=1.3)
    with torch.no_grad():
        expected = strong(x)
    torch.testing.assert_close(strong(x), expected)
    assert torch.autograd.gradcheck(strong, x)


def test_lrn_trains_in_bf16() -> None:
    x = torch.randn(1, 64, 9, 9, generator=torch.Generator().manual_seed(0)) * 100
    low = x.bfloat16().requires_grad_()
    output = LocalResponseNorm()(low)
    with torch.no_grad():
        # The two sum the window in another order: single values may differ by two units of bf16.
        served = LocalResponseNorm()(low)
        assert (output - served).float().norm() / served.float().norm() < 1e-2
    output.float().sum().backward()
    exact = x.requires_grad_()
    LocalResponseNorm()(exact).sum().backward()
    assert low.grad is not None and low.grad.dtype == torch.bfloat16
    assert ((low.grad.float() - exact.grad).norm() / exact.grad.norm()) < 2e-2


def test_channel_window_sum_by_hand() -> None:
    x = torch.arange(1.0, 7.0).reshape(1, 6, 1, 1)
    #  1+2+3, 1+2+3+4, 1+..+5, 2+..+6, 3+..+6, 4+5+6
    assert channel_window_sum(x, 5).flatten().tolist() == [6, 10, 15, 20, 18, 15]


def test_resampled_stem_is_a_stride_two_convolution_on_the_enlarged_image() -> None:
    weight = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    image = torch.rand(1, 3, 20, 24, dtype=torch.float64)
    enlarged = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(enlarged, weight, stride=2, padding=3)
    got = F.conv2d(image, resample_stem(weight), stride=1, padding=2)
    assert got.shape == expected.shape
    # At the image's edge the enlargement replicates, the folded kernel meets zero padding.
    torch.testing.assert_close(got[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


@pytest.mark.parametrize(
    "name, side, shape",
    [
        ("googlenet_native", 96, (1024, 6, 6)),  # paper section 2: 96x96 ends in 6x6x1024
        ("googlenet", 96, (1024, 6, 6)),
        ("googlenet_224", 224, (1024, 7, 7)),
        ("googlenet_truncated", 96, (832, 6, 6)),
        ("googlenet_torchvision", 96, (1024, 6, 6)),
    ],
)
def test_map_sizes(name: str, side: int, shape: tuple[int, ...]) -> None:
    trunk = GoogLeNetTrunk(get_spec(name), None)
    with torch.inference_mode():
        assert trunk.feature_map(torch.zeros(1, 3, side, side)).shape[1:] == shape


def test_arithmetic_of_a_patch_is_1_16_gmac() -> None:
    """model.md counts 1.16 GMAC a patch at stride 1 with the 7x7 stem."""
    macs = 0

    def count(module, inputs, output) -> None:
        nonlocal macs
        macs += output[0].numel() * module.weight[0].numel()

    trunk = GoogLeNetTrunk(get_spec("googlenet_native"), None)
    for module in trunk.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        trunk(torch.zeros(1, 3, 96, 96))
    assert macs == pytest.approx(1.16e9, rel=0.02)


def test_torchvision_weights_give_torchvisions_logits() -> None:
    """Loading torchvision's weights switches `transform_input` on; our input scale includes it."""
    state = randomly("googlenet_torchvision")
    theirs = GoogLeNet(aux_logits=False, transform_input=True, init_weights=False).eval()
    theirs.load_state_dict(state)
    pixels = torch.randint(0, 256, (2, 3, 224, 224)).float()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    spec = get_spec("googlenet_torchvision_224")
    scale = spec.normalisation
    ours = (pixels - torch.tensor(scale.mean)[:, None, None]) / torch.tensor(scale.std)[
        :, None, None
    ]
    with torch.inference_mode():
        expected = theirs((pixels / 255 - mean) / std)
        got = GoogLeNetTrunk(spec, state).logits(ours)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_auxiliary_heads_in_a_file_are_ignored() -> None:
    state = randomly("googlenet_torchvision") | {"aux1.fc1.bias": torch.zeros(3)}
    GoogLeNetTrunk(get_spec("googlenet_torchvision"), state)


def test_a_file_that_does_not_fit_is_refused() -> None:
    state = randomly("googlenet_bvlc")
    del state["inception4c.branch2.1.conv.bias"]
    with pytest.raises(RuntimeError, match="inception4c.branch2.1.conv.bias"):
        GoogLeNetTrunk(get_spec("googlenet"), state)


def test_truncated_has_no_classifier() -> None:
    with pytest.raises(ValueError, match="no classifier"):
        GoogLeNetTrunk(get_spec("googlenet_truncated"), None).logits(torch.zeros(1, 3, 96, 96))


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet"):
        build_googlenet("resnet")


def _crop(path: Path, resize: int, side: int) -> np.ndarray:
    """Resize the short side, crop the centre: ILSVRC's usual evaluation."""
    image = Image.open(path).convert("RGB")
    scale = resize / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _breed_category(folder: str) -> int:
    def plain(name: str) -> str:
        return name.lower().replace("-", " ").replace("_", " ").replace("'", "")

    return [plain(c) for c in CATEGORIES].index(plain(folder.split("-", 1)[1]))


def _top1(spec_name: str, state: dict, files: list[Path], resize: int, side: int) -> float:
    spec = get_spec(spec_name)
    trunk = GoogLeNetTrunk(spec, state)
    pixels = torch.from_numpy(np.stack([_crop(file, resize, side) for file in files]))
    x = (pixels.float() - torch.tensor(spec.normalisation.mean)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        guesses = torch.cat([trunk.logits(part).argmax(1) for part in x.split(16)])
    truth = torch.tensor([_breed_category(file.parent.name) for file in files])
    return (guesses == truth).float().mean().item()


@pytest.fixture(scope="module")
def dog_files(dogs_dir: Path) -> list[Path]:
    files = sorted((dogs_dir / "Images").rglob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(files))[:80]
    return [files[i] for i in order]


def test_bvlc_classifies_dogs(bvlc_weights: Path, dog_files: list[Path]) -> None:
    """ILSVRC accuracy of these weights is 69%; a wrong LRN, pooling or colour order costs tens."""
    assert _top1("googlenet_224", load_state(bvlc_weights), dog_files, 256, 224) > 0.62


def test_resampled_stem_keeps_more_than_the_native_one(
    bvlc_weights: Path, dog_files: list[Path]
) -> None:
    """The reason why the default spec resamples: nothing is fine-tuned here."""
    state = load_state(bvlc_weights)
    native = _top1("googlenet_native", state, dog_files, 96, 96)
    resampled = _top1("googlenet", state, dog_files, 96, 96)
    assert resampled > native + 0.02
    assert resampled > 0.5


def test_stride_is_the_specs(bvlc_weights: Path) -> None:
    state = load_state(bvlc_weights)
    native = GoogLeNetTrunk(get_spec("googlenet_native"), state)
    assert native.network.conv1.conv.stride == (1, 1)
    wide = GoogLeNetTrunk(replace(get_spec("googlenet_native"), stride=2), state)
    assert wide.network.conv1.conv.stride == (2, 2)
