"""GoogLeNet by surgery on torchvision's module: BVLC variant, stride of conv1, truncation.

The plain path: readable, slow, and the reference that `encoders.inference.engine` is tested
against.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNet, Inception

from encoders.cells import read_out
from encoders.spec import EncoderSpec


class ConvReLU(nn.Module):
    """Convolution with bias and ReLU: BVLC's block, where torchvision has batch norm."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs) -> None:
        """Take what `torch.nn.Conv2d` takes."""
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, bias=True, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution and the ReLU."""
        return F.relu(self.conv(x))


class BVLCInception(Inception):
    """Inception block whose third branch is the true 5x5 (torchvision's is 3x3, a known bug)."""

    def __init__(self, in_channels: int, *widths: int, conv_block=ConvReLU) -> None:
        """Take torchvision's arguments: input channels and the six branch widths."""
        super().__init__(in_channels, *widths, conv_block=conv_block)
        _, _, _, reduced, wide, _ = widths
        self.branch3[1] = conv_block(reduced, wide, kernel_size=5, padding=2)


def channel_window_sum(x: Float[Tensor, "N C H W"], size: int) -> Float[Tensor, "N C H W"]:
    """Sum over `size` neighbouring channels (odd), zero beyond the ends, in any dtype.

    torch's own local response norm goes through `avg_pool3d`, which has no bf16 kernel on CPU.
    """
    half = size // 2
    padded = F.pad(x, (0, 0, 0, 0, half, half))
    channels = x.shape[1]
    total = padded[:, :channels]
    for shift in range(1, size):
        total = total + padded[:, shift : shift + channels]
    return total


class _TrainedNorm(torch.autograd.Function):
    """`LocalResponseNorm` for training: x * u ** -0.75, its gradient in closed form.

    Neighbouring channels are summed by a 1x1 convolution whose kernel is a band of ones. Left to
    autograd, the way back through pad and slices keeps a dozen copies of the map; in batches as
    training has them the band takes half the time of those slices even with this gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, band: Tensor, strength: float, k: float) -> Tensor:
        r = F.conv2d(x * x, band).mul_(strength).add_(k).rsqrt_()
        scale = r * r.sqrt()
        ctx.save_for_backward(x, r, scale, band)
        ctx.strength = strength
        return x * scale

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        # dx_i = g_i u_i^-0.75 - 1.5 strength x_i * sum over neighbours j of g_j x_j u_j^-1.75
        x, r, scale, band = ctx.saved_tensors
        own = gradients[0] * scale
        around = F.conv2d((own * x).mul_(r).mul_(r), band)
        return own.addcmul_(x, around, value=-1.5 * ctx.strength), None, None, None


class LocalResponseNorm(nn.Module):
    """Across-channel LRN as in Caffe: x / (k + alpha / size * sum x^2) ** beta, beta = 0.75."""

    def __init__(self, size: int = 5, alpha: float = 1e-4, k: float = 1.0) -> None:
        """Set window, strength and offset; beta is 0.75, as in every GoogLeNet."""
        super().__init__()
        self.size, self.alpha, self.k = size, alpha, k

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Normalise; u ** -0.75 is taken as rsqrt(u) * sqrt(rsqrt(u)), far faster than pow."""
        strength = self.alpha / self.size
        if torch.is_grad_enabled() and x.requires_grad:
            channel = torch.arange(x.shape[1], device=x.device)
            near = (channel[:, None] - channel).abs() <= self.size // 2
            band = near.to(x.dtype)[:, :, None, None]
            return _TrainedNorm.apply(x, band, strength, self.k)  # type: ignore[return-value]
        u = self.k + strength * channel_window_sum(x * x, self.size)
        r = torch.rsqrt(u)
        return x * (r * torch.sqrt(r))


def resample_stem(weight: Float[Tensor, "O I 7 7"]) -> Float[Tensor, "O I 5 5"]:
    """Fold a 2x bilinear enlargement of the input into a 7x7, stride-2 kernel.

    A stride-2 convolution over an image enlarged twofold equals a stride-1 convolution over the
    image itself with this 5x5 kernel (at the image's edge the enlargement here continues into the
    zero padding). One row of `fold` is what one tap on the enlarged image reads of the image:
    even pixels (1/4, 3/4), odd ones (3/4, 1/4).

    Shapes: [O, I, 7, 7] -> [O, I, 5, 5], padding 3 -> padding 2.
    """
    fold = weight.new_tensor(
        [
            [0.75, 0.25, 0, 0, 0],
            [0.25, 0.75, 0, 0, 0],
            [0, 0.75, 0.25, 0, 0],
            [0, 0.25, 0.75, 0, 0],
            [0, 0, 0.75, 0.25, 0],
            [0, 0, 0.25, 0.75, 0],
            [0, 0, 0, 0.75, 0.25],
        ]
    )
    return torch.einsum("oiyx,yv,xu->oivu", weight, fold, fold)


def _set_stem(network: GoogLeNet, spec: EncoderSpec) -> None:
    """Give conv1 the spec's stride, once its weights are loaded (paper section 2)."""
    old: nn.Conv2d = network.conv1.conv  # type: ignore[assignment]
    if spec.stem == "resampled":
        new = nn.Conv2d(3, 64, 5, stride=1, padding=2, bias=old.bias is not None)
        with torch.no_grad():
            new.weight.copy_(resample_stem(old.weight))
            if old.bias is not None and new.bias is not None:
                new.bias.copy_(old.bias)
        network.conv1.conv = new
    else:
        old.stride = (spec.stride, spec.stride)


def build_googlenet(architecture: str, num_classes: int = 1000) -> GoogLeNet:
    """Build an unloaded network with torchvision's parameter names.

    Args:
        architecture: `googlenet_bvlc` or `googlenet_torchvision`.
        num_classes: K of the last layer, `fc`.

    Raises:
        ValueError: for another architecture.
    """
    if architecture == "googlenet_torchvision":
        # transform_input stays off: the spec's normalisation already includes it.
        return GoogLeNet(num_classes, aux_logits=False, transform_input=False, init_weights=False)
    if architecture != "googlenet_bvlc":
        raise ValueError(f"not a GoogLeNet: {architecture!r}")
    network = GoogLeNet(
        num_classes,
        aux_logits=False,
        init_weights=False,
        blocks=[ConvReLU, BVLCInception, nn.Identity],
    )
    # LRN has no parameters, so it can join the poolings without changing any tensor's name.
    network.maxpool1 = nn.Sequential(network.maxpool1, LocalResponseNorm())  # type: ignore[assignment]
    network.maxpool2 = nn.Sequential(LocalResponseNorm(), network.maxpool2)  # type: ignore[assignment]
    network.maxpool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return network


class GoogLeNetTrunk(nn.Module):
    """GoogLeNet up to the averaged features: normalised pixels -> D numbers a patch.

    At stride 1 a 96x96 patch ends in a 6x6x1024 map, averaged to 1,024 (paper section 2).

    A state dict comes in one of two forms. Files made elsewhere hold the whole network with its
    7x7 stem, on which the surgery is done once loaded. Those that `glimpse pretrain` writes hold a
    trunk after surgery, and no `fc`: its own 5x5 stem is taken as it is where it was resampled, and
    there are no `logits`.

    Attributes:
        spec: what it was built from.
        network: torchvision's module after surgery; its `fc` is kept for `logits`. Layers that the
            trunk does not run are absent.
    """

    def __init__(self, spec: EncoderSpec, state: dict[str, Tensor] | None = None) -> None:
        """Build from a spec and, unless the weights are to be random, a state dict.

        Raises:
            RuntimeError: if the tensors do not fit; the message is torch's list of differences.
        """
        super().__init__()
        self.spec = spec
        last = None if state is None else state.get("fc.weight")
        self.network = build_googlenet(spec.architecture, 1000 if last is None else len(last))
        absent = ["fc"] if state is not None and last is None else []
        if spec.depth == "truncated":
            absent = ["inception5a", "inception5b", "fc"]
        for name in absent:
            setattr(self.network, name, nn.Identity())
        # The stem of a resampled trunk must not be folded a second time.
        stem = None if state is None else state.get("conv1.conv.weight")
        after_surgery = stem is not None and stem.shape[-1] == 5
        if after_surgery:
            _set_stem(self.network, spec)
        if state is not None:
            # Auxiliary heads are dropped at inference; BVLC's file has none, torchvision's has.
            unused = ("aux1.", "aux2.", *(f"{name}." for name in absent))
            kept = {k: v.float() for k, v in state.items() if not k.startswith(unused)}
            self.network.load_state_dict(kept)
        if not after_surgery:
            _set_stem(self.network, spec)
        self.eval()

    def stem(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 192 h w"]:
        """The layers before the inception blocks."""
        n = self.network
        return n.maxpool2(n.conv3(n.conv2(n.maxpool1(n.conv1(x)))))

    def blocks(self, x: Float[Tensor, "N 192 h w"]) -> Float[Tensor, "N D h w"]:
        """The inception blocks and the poolings between them."""
        n = self.network
        x = n.maxpool3(n.inception3b(n.inception3a(x)))
        x = n.inception4e(n.inception4d(n.inception4c(n.inception4b(n.inception4a(x)))))
        if self.spec.depth == "truncated":
            return x
        return n.inception5b(n.inception5a(n.maxpool4(x)))

    def feature_map(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D h w"]:
        """The last inception block's output, before averaging."""
        return self.blocks(self.stem(x))

    def forward(self, x: Float[Tensor, "N 3 H W"], grid: int = 1) -> Float[Tensor, "N W"]:
        """Features of normalised patches, in float32, and their cells; see `read_out`."""
        return read_out(self.feature_map(x), grid)

    def logits(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N K"]:
        """Class scores of the network's own last layer (ILSVRC order for pretrained weights).

        Raises:
            ValueError: for a trunk that was cut or trained without its last layer.
        """
        if isinstance(self.network.fc, nn.Identity):
            raise ValueError(
                "a truncated or pretrained GoogLeNet has no classifier of its own: put one on its "
                "features"
            )
        return self.network.fc(self(x))
