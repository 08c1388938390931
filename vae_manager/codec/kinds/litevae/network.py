"""LiteVAE: an autoencoder whose encoder looks at a picture's wavelet levels instead of its pixels.

Written from Sadat et al., "LiteVAE: Lightweight and Efficient Variational Autoencoders for Latent Diffusion Models"
(NeurIPS 2024, arXiv 2405.14477): section 4, tables 23 and 24, and the pseudocode of appendix G, whose attribute
names are the keys here.

    picture ─ Haar level 1 / 2 ─ UNet ─ mean over 4×4 ─┐
            ─ Haar level 2 / 4 ─ UNet ─ mean over 2×2 ─┼─ UNet ─ mean, log-variance ─ decoder ─ picture
            ─ Haar level 3 / 8 ─ UNet ─────────────────┘

Where the paper leaves a choice open, this is ours: the downsampling has no weights (a mean; the published parameter
counts leave no room for any), normalisation takes the largest number of groups that divides both 32 and the
channels (32 cannot divide LiteVAE-S's 16), and its epsilon is that of the ADM UNet that the paper follows.

A LiteVAE has a **latent space of its own**: it cannot take the place of any checkpoint's VAE.

Shapes: pictures are (N, 3, H, W) in [-1, 1] with H and W multiples of 8; latents (N, C, H/8, W/8), as they come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.kinds.kl.config import DEFAULT_NORM_GROUPS
from vae_manager.codec.kinds.kl.network import Decoder, ResnetBlock
from vae_manager.codec.kinds.litevae.config import LEVELS, LiteConfig, UNetConfig, read_config
from vae_manager.codec.kinds.litevae.names import litevae_names
from vae_manager.codec.kinds.network import Network, built_around
from vae_manager.codec.kinds.shapes import Shape

UNET_NORM_EPS = 1e-5
"""GroupNorm epsilon of the ADM UNet (Dhariwal and Nichol 2021), which is torch's default."""

SMC_EPS = 1e-8
"""ε of the paper's equation 3, at the value that StyleGAN3's modulated convolution has."""


def haar(x: Tensor) -> Tensor:
    """One level of the orthonormal Haar transform: (N, C, H, W) → (N, 4·C, H/2, W/2), H and W even.

    The bands LL, H, V and D one after the other, in the signs of PyWavelets, which the paper uses: of the pixels
    a b / c d, LL = (a+b+c+d)/2, H = (a+b-c-d)/2, V = (a-b+c-d)/2, D = (a-b-c+d)/2.
    """
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], dim=1) / 2


def wavelet_levels(x: Tensor) -> list[Tensor]:
    """(N, C, H, W) → for l = 1 … `LEVELS` the bands of level l, (N, 4·C, H/2**l, W/2**l), divided by 2**l.

    Each level of the transform doubles the range of LL; the division brings it back to the picture's. Computed in
    float32 as in the paper, returned in the precision of `x`.
    """
    low, levels = x.float(), []
    for level in range(1, LEVELS + 1):
        bands = haar(low)
        low = bands[:, : x.shape[1]]
        levels.append((bands / 2**level).to(x.dtype))
    return levels


class SelfModulatedConv(nn.Module):
    """A convolution that scales its input channels and keeps the size of its output, instead of normalising it.

    Equation 3: w'[o, i, k] = s[i]·w[o, i, k] / √(Σ over i and k of (s[i]·w[o, i, k])² + ε), times a gain, where s and
    the gain are learned. The pseudocode's StyleGAN3 function also normalises w and s beforehand, which the division
    makes no difference to.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.gain = nn.Parameter(torch.ones(1))
        self.scales = nn.Parameter(torch.ones(in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.conv.bias, padding=self.conv.padding)

    def weight(self) -> Tensor:
        """The modulated kernel (out, in, k, k). Summed in float32: half precision would overflow."""
        w = self.conv.weight.float() * self.scales.float()[:, None, None]
        w = w * torch.rsqrt(w.square().sum(dim=(1, 2, 3), keepdim=True) + SMC_EPS)
        return (w * self.gain.float()).to(self.conv.weight.dtype)


class ResBlock(nn.Module):
    """norm → SiLU → conv, twice, added to the input; the self-modulated kind has no norm."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, smc: bool = False) -> None:
        super().__init__()
        convolution = SelfModulatedConv if smc else conv
        self.norm_in = nn.Identity() if smc else norm(groups, in_channels)
        self.conv_in = convolution(in_channels, out_channels)
        self.norm_out = nn.Identity() if smc else norm(groups, out_channels)
        self.conv_out = convolution(out_channels, out_channels)
        self.skip_connection = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return self.skip_connection(x) + h


def conv(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=UNET_NORM_EPS)


class MidBlock(nn.Module):
    """Two residual blocks, no attention."""

    def __init__(self, channels: int, groups: int, smc: bool) -> None:
        super().__init__()
        self.res0 = ResBlock(channels, channels, groups, smc)
        self.res1 = ResBlock(channels, channels, groups, smc)

    def forward(self, x: Tensor) -> Tensor:
        return self.res1(self.res0(x))


class UNet(nn.Module):
    """(N, in, h, w) → (N, out, h, w): residual blocks in and out again, with skips between, at one resolution."""

    def __init__(self, config: UNetConfig, groups: int) -> None:
        super().__init__()
        self.in_layer = conv(config.in_channels, config.stem)
        ins = (config.stem, *config.widths[:-1])
        self.encoder_blocks = nn.ModuleList(
            ResBlock(width_in, width, groups) for width_in, width in zip(ins, config.widths, strict=True)
        )
        self.mid_block = MidBlock(config.widths[-1], groups, config.smc_mid)
        # each block on the way out takes what its mirror image gave; the first convolution's output stays unused
        outs = config.widths[::-1]
        before = (config.widths[-1], *outs[:-1])
        self.decoder_blocks = nn.ModuleList(
            ResBlock(width_in + width, width, groups) for width_in, width in zip(before, outs, strict=True)
        )
        self.out_layer = conv(outs[-1], config.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_layer(x)
        skips = []
        for block in self.encoder_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.decoder_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1))
        return self.out_layer(x)


class LiteEncoder(nn.Module):
    """(N, 3, H, W) → (N, 2·C, H/8, W/8): mean and log-variance."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        for level in range(1, LEVELS + 1):
            self.add_module(f"feature_extractor_L{level}", UNet(config.extractor, config.norm_groups))
        self.feature_aggregator = UNet(config.aggregator, config.norm_groups)

    def forward(self, x: Tensor) -> Tensor:
        features = []
        for level, bands in enumerate(wavelet_levels(x), start=1):
            h = self.get_submodule(f"feature_extractor_L{level}")(bands)
            features.append(F.avg_pool2d(h, 2 ** (LEVELS - level)))
        return self.feature_aggregator(torch.cat(features, dim=1))


class LiteVAE(Network[LiteConfig]):
    """The wavelet encoder with Stable Diffusion's decoder, or with its self-modulated variant."""

    latent_is_scaled = False

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = LiteEncoder(config)
        self.decoder = Decoder(config.decoder)
        if config.smc_decoder:
            self_modulate(self.decoder)
        if config.pre_conv:
            self.pre_conv = conv(2 * config.latent_channels, 2 * config.latent_channels, 1)
        if config.post_conv:
            self.post_conv = conv(config.latent_channels, config.latent_channels, 1)

    def encode_moments(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] → (N, 2·C, H/8, W/8): mean, then log-variance."""
        h = self.encoder(x)
        return self.pre_conv(h) if self.config.pre_conv else h

    def decode(self, z: Tensor) -> Tensor:
        """Latent (N, C, h, w) → (N, 3, 8h, 8w), about [-1, 1], not clamped."""
        return self.decoder(self.post_conv(z) if self.config.post_conv else z)


def self_modulate(decoder: Decoder) -> None:
    """Take the normalisation out of a decoder's residual blocks and make their 3×3 convolutions self-modulated.

    The attention in the middle and the last layer keep their norms, of which the paper says nothing.
    """
    for block in decoder.modules():
        if isinstance(block, ResnetBlock):
            for i in (1, 2):
                plain = block.get_submodule(f"conv{i}")
                assert isinstance(plain, nn.Conv2d)
                block.add_module(f"norm{i}", nn.Identity())
                block.add_module(f"conv{i}", SelfModulatedConv(plain.in_channels, plain.out_channels))


def build_litevae(state: Mapping[str, Tensor], norm_groups: int = DEFAULT_NORM_GROUPS) -> LiteVAE:
    """Build a LiteVAE around the tensors of its state dict, without copying them.

    The module is in evaluation mode, asks for no gradients, and shares memory with `state`.

    Raises:
        VaeFileError: the tensors do not make a whole LiteVAE.
    """
    tensors = {name: state[own] for name, own in litevae_names(state).items()}
    config = read_config({name: tuple(tensor.shape) for name, tensor in tensors.items()}, norm_groups)
    return built_around(tensors, lambda: LiteVAE(config))


def expected_shapes(config: LiteConfig) -> dict[str, Shape]:
    """Name and shape of every tensor."""
    with torch.device("meta"):
        vae = LiteVAE(config)
    return {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
