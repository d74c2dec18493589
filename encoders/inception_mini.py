"""A small network of GoogLeNet's make, for the synthetic dogs and for quick trials on a CPU.

Stem, three inception blocks, average pooling: 26 million multiply-adds a patch, where GoogLeNet at
stride 1 takes 1,160 million. Trained by `glimpse pretrain` and shipped with the package.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from encoders.cells import average_cells

ROOT_OFFSET = 0.06  # below this, squared, an average counts as silence


class ConvUnit(nn.Module):
    """Convolution, batch norm if asked for, ReLU; padded so that stride 1 keeps the size."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, batch_norm: bool
    ) -> None:
        """Make the unit; with batch norm the convolution has no bias of its own."""
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not batch_norm
        )
        self.bn = nn.BatchNorm2d(out_channels) if batch_norm else None
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Float[Tensor, "N I H W"]) -> Float[Tensor, "N O h w"]:
        """Apply the convolution, the normalisation and the ReLU."""
        x = self.conv(x)
        return F.relu(x if self.bn is None else self.bn(x), inplace=True)


class InceptionUnit(nn.Module):
    """GoogLeNet's inception block: 1x1, 3x3, 5x5 (as two 3x3) and pooled, side by side."""

    def __init__(
        self,
        in_channels: int,
        one: int,
        reduce_three: int,
        three: int,
        reduce_five: int,
        five: int,
        pooled: int,
        batch_norm: bool,
    ) -> None:
        """Take the widths of the branches, in the order of GoogLeNet's table."""
        super().__init__()
        # The three reductions read the same input: one convolution computes them together.
        self.widths = (one, reduce_three, reduce_five)
        self.reduce = ConvUnit(in_channels, sum(self.widths), 1, 1, batch_norm)
        self.three = ConvUnit(reduce_three, three, 3, 1, batch_norm)
        self.five = nn.Sequential(
            ConvUnit(reduce_five, five, 3, 1, batch_norm), ConvUnit(five, five, 3, 1, batch_norm)
        )
        self.pooled = ConvUnit(in_channels, pooled, 1, 1, batch_norm)

    def forward(self, x: Float[Tensor, "N I H W"]) -> Float[Tensor, "N O H W"]:
        """Concatenate the four branches."""
        one, three, five = self.reduce(x).split(self.widths, dim=1)
        around = F.max_pool2d(x, 3, 1, 1)
        return torch.cat([one, self.three(three), self.five(five), self.pooled(around)], dim=1)


def average_quarters(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
    """Average each channel under four bilinear windows that add up to 4: D = 4 C, in float32.

    Order: for each channel upper left, upper right, lower left, lower right. Their mean is plain
    average pooling. Float32 whatever the network's arithmetic: a sum of many small values.
    """
    x = x.float()
    height, width = x.shape[-2:]
    down = (torch.arange(height, dtype=x.dtype, device=x.device) + 0.5) / height
    right = (torch.arange(width, dtype=x.dtype, device=x.device) + 0.5) / width
    rows = torch.stack([1 - down, down]) * (2 / height)
    columns = torch.stack([1 - right, right]) * (2 / width)
    # Two small matrix products: [2, H] [N, C, H, W] [W, 2] -> [N, C, 2, 2].
    return (rows @ (x @ columns.T)).flatten(1)


def _root(averages: Tensor) -> Tensor:
    """Root of averages, offset so that silence gives zero and a finite slope."""
    return torch.sqrt(averages + ROOT_OFFSET**2) - ROOT_OFFSET


class InceptionMini(nn.Module):
    """Patches to 128 features: 32 channels, each pooled over four overlapping quarters.

    The windows of the pooling are bilinear, (1 - x or x) times (1 - y or y) across the last map,
    so that the four together cover it evenly, and their differences say where in the patch a
    channel was active. GoogLeNet's 1,024 features tell as much by their number; 128 need the help:
    a location network has nothing but these features to find its next fixation from. The root of
    each average is taken, which brings what is small in the patch, such as a head in a context, to
    the size of what fills it.

    Args:
        batch_norm: Build with batch norm, for training. `folded()` then gives the network of plain
            convolutions that is shipped and used.
    """

    channels = 32
    feature_size = 128

    def __init__(self, batch_norm: bool = False) -> None:
        """Make the network with random weights."""
        super().__init__()
        bn = batch_norm
        self.stem = nn.Sequential(
            ConvUnit(3, 16, 5, 2, bn),  # 48 x 48
            nn.MaxPool2d(3, 2, 1),  # 24 x 24
            ConvUnit(16, 48, 3, 1, bn),
        )
        self.block_a = InceptionUnit(48, 16, 24, 32, 8, 16, 16, bn)
        self.pool = nn.MaxPool2d(3, 2, 1)  # 12 x 12
        self.block_b = InceptionUnit(80, 32, 32, 48, 12, 24, 24, bn)
        self.block_c = InceptionUnit(128, 32, 32, 48, 12, 24, 24, bn)
        self.project = ConvUnit(128, self.channels, 1, 1, bn)
        # Set after training, so that features have unit size; agents learn sooner from such.
        self.gain: Tensor
        self.register_buffer("gain", torch.ones(self.feature_size))

    def feature_map(self, patches: Float[Tensor, "N 3 P P"]) -> Float[Tensor, "N C h w"]:
        """Last map of normalised patches, 12 x 12 of C = 32 channels for patches of 96 x 96."""
        x = self.block_a(self.stem(patches))
        return self.project(self.block_c(self.block_b(self.pool(x))))

    def averages(self, patches: Float[Tensor, "N 3 P P"]) -> Float[Tensor, "N D"]:
        """Features of normalised patches before the root; training heads learn faster on these."""
        return average_quarters(self.feature_map(patches))

    def forward(self, patches: Float[Tensor, "N 3 P P"], grid: int = 1) -> Float[Tensor, "N W"]:
        """Encode normalised patches; order of the features: see `average_quarters`.

        Args:
            patches: What to encode.
            grid: G; above 1 the G x G cells of the map follow the features, flattened. A cell is
                scaled as the features are: the root of its average, times the mean of the gains of
                its channel's four features.
        """
        last = self.feature_map(patches)
        features = self.gain * _root(average_quarters(last))
        if grid == 1:
            return features
        gain = self.gain.view(self.channels, -1).mean(1)
        return torch.cat([features, (gain * _root(average_cells(last, grid))).flatten(1)], 1)

    @torch.no_grad()
    def folded(self) -> InceptionMini:
        """Return the evaluation form: the same function, batch norm folded into convolutions."""
        trained = dict(copy.deepcopy(self).eval().named_modules())
        plain = InceptionMini().eval()
        for name, unit in plain.named_modules():
            if isinstance(unit, ConvUnit):
                source = trained[name]
                assert isinstance(source, ConvUnit)
                conv = (
                    source.conv if source.bn is None else fuse_conv_bn_eval(source.conv, source.bn)
                )
                unit.conv.load_state_dict(conv.state_dict())
        plain.gain.copy_(self.gain)
        return plain
