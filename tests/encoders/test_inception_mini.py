"""The small encoder: its pooling in closed form, and the folding of batch norm."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import encoders
from encoders.inception_mini import InceptionMini, average_quarters

DATA = Path(encoders.__file__).parent / "data"


def quarters(x: torch.Tensor) -> torch.Tensor:
    """The averages by place: [N, C, upper/lower, left/right]."""
    return average_quarters(x).reshape(*x.shape[:2], 2, 2)


def test_the_mean_of_the_quarters_is_plain_average_pooling():
    x = torch.rand(3, 5, 7, 12)
    torch.testing.assert_close(quarters(x).mean((2, 3)), x.mean((2, 3)))


def test_quarters_tell_where_a_single_active_cell_is():
    x = torch.zeros(1, 1, 12, 12)
    x[0, 0, 2, 9] = 144.0  # an average of 1, at (9.5, 2.5) / 12 of the patch
    right, down = 9.5 / 12, 2.5 / 12
    expected = torch.tensor(
        [[(1 - down) * (1 - right), (1 - down) * right], [down * (1 - right), down * right]]
    )
    torch.testing.assert_close(quarters(x)[0, 0], 4 * expected)


def test_mirrored_maps_swap_left_and_right():
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(quarters(x.flip(-1)), quarters(x).flip(-1))


def test_features_are_scaled_roots_of_the_averages():
    torch.manual_seed(0)
    network = InceptionMini().eval()
    network.gain.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        averages, features = network.averages(x), network(x)
    torch.testing.assert_close((features / network.gain + 0.06) ** 2, averages + 0.06**2)


def test_a_silent_channel_gives_zeros():
    network = InceptionMini().eval()
    with torch.no_grad():
        network.project.conv.bias.fill_(-1e6)
        assert network(torch.randn(2, 3, 96, 96)).abs().max() < 1e-7


@pytest.fixture(scope="module")
def trained_a_little() -> InceptionMini:
    """A network whose batch norms have seen something, so that folding has something to fold."""
    torch.manual_seed(0)
    network = InceptionMini(batch_norm=True).train()
    for _ in range(3):
        network(torch.randn(8, 3, 96, 96) * 2 + 0.5)
    network.gain.uniform_(0.5, 2.0)
    return network


def test_folding_keeps_the_function(trained_a_little):
    x = torch.randn(4, 3, 96, 96)
    folded = trained_a_little.folded()
    assert not any("bn" in name for name in folded.state_dict())
    assert not folded.training and trained_a_little.training
    trained_a_little.eval()
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), trained_a_little(x), rtol=1e-4, atol=1e-5)
    trained_a_little.train()


def test_folding_a_plain_network_copies_it():
    network = InceptionMini()
    x = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(network.folded()(x), network.eval()(x))


@pytest.mark.parametrize("side", [48, 96, 97, 224])
def test_any_patch_side_gives_128_features(side):
    with torch.inference_mode():
        features = InceptionMini().eval()(torch.randn(2, 3, side, side))
    assert features.shape == (2, 128)
    assert (features >= -1e-6).all()


def test_no_patches_give_no_features():
    with torch.inference_mode():
        assert InceptionMini().eval()(torch.randn(0, 3, 96, 96)).shape == (0, 128)


def test_bf16_agrees_with_fp32():
    torch.manual_seed(0)
    network = InceptionMini().eval()
    x = torch.randn(4, 3, 96, 96)
    with torch.inference_mode():
        exact = network(x)
        rough = network.to(torch.bfloat16)(x.to(torch.bfloat16)).float()
    assert (rough - exact).norm() / exact.norm() < 2e-2


def test_it_is_small():
    assert sum(p.numel() for p in InceptionMini().parameters()) < 250_000


def test_the_shipped_weights_are_those_of_their_record():
    record = json.loads((DATA / "inception_mini.json").read_text())
    content = (DATA / "inception_mini.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert len(content) < 1_200_000
    network = InceptionMini()
    network.load_state_dict(load_file(DATA / "inception_mini.safetensors"))
    assert record["feature_size"] == network.feature_size
    assert record["parameters"] == sum(p.numel() for p in network.parameters())
