"""open-litevae: LiteVAE's idea, built before the paper's pseudocode was published, as another network.

Written from the structure of its published modules (github.com/RGenDiff/open-litevae, README and tensor names); what
differs from `litevae`, whose wavelet transform and self-modulated convolution it shares:

- the bands go into the networks undivided: level l has 2**l times the picture's range, in the order LL, V, H, D;
- a residual block is conv → norm → SiLU, twice, added to the input, which goes through a 1×1 convolution where the
  width changes; always 8 norm groups;
- a UNet has `blocks` residual blocks at each of its widths on the way in, in the middle and out, 1×1 convolutions
  between the widths, and at its end a 1×1 convolution; every block's output on the way in is a skip;
- the decoder has no norm and no attention: self-modulated convolution → SiLU, twice, added to the input;
- 1×1 convolutions around the latent are called `quantizer`, and are left out of the published model.

A picture's latent is that of this autoencoder alone: it cannot take the place of any checkpoint's VAE.

Shapes: pictures are (N, 3, H, W) in [-1, 1] with H and W multiples of 2**levels; latents (N, C, H/8, W/8) for three
levels, as they come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.kinds.kl.network import Upsample
from vae_manager.codec.kinds.litevae.config import SUB_BANDS, count_of, kernel_shape
from vae_manager.codec.kinds.litevae.names import litevae_names
from vae_manager.codec.kinds.litevae.network import SelfModulatedConv, conv, haar, norm
from vae_manager.codec.kinds.network import Network, built_around
from vae_manager.codec.kinds.shapes import Shape, compare_shapes
from vae_manager.errors import VaeFileError

NORM_GROUPS = 8

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class OpenUNetConfig:
    """A feature extractor or the aggregator."""

    in_channels: int
    out_channels: int
    widths: Shape
    """Channels from the outside to the middle."""
    blocks: int
    """Residual blocks at each width, and in the middle."""


@dataclass(frozen=True)
class OpenConfig:
    """Everything needed to build an open-litevae autoencoder."""

    levels: int
    """Wavelet levels."""
    extractor: OpenUNetConfig
    aggregator: OpenUNetConfig
    latent_channels: int
    decoder_widths: Shape
    """From the picture's resolution to the latent's."""
    decoder_blocks: int
    """At each resolution, and in the middle."""
    quant: bool = False
    """Are there 1×1 convolutions around the latent?"""

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2**self.levels

    @property
    def image_channels(self) -> int:
        return IMAGE_CHANNELS

    @property
    def norm_groups(self) -> int:
        return NORM_GROUPS


SIZES = {
    # channels, multiples and blocks of the extractors, then of the aggregator (the README's first table)
    "S": ((16, (1, 2, 2), 3), (16, (1, 2, 2), 3)),
    "B": ((32, (1, 2, 3), 4), (32, (1, 2, 3), 4)),
    "M": ((64, (1, 2, 4), 5), (32, (1, 2, 3), 4)),
    "L": ((64, (1, 2, 4), 5), (64, (1, 2, 4), 4)),
}

LEVELS = 3


def published_open_config(size: str, latent_channels: int = 12) -> OpenConfig:
    """The README's model of size 'S', 'B', 'M' or 'L'; weights are published of B with 12 channels."""
    bands = SUB_BANDS * IMAGE_CHANNELS
    (stem, multiples, blocks), (stem2, multiples2, blocks2) = SIZES[size]
    return OpenConfig(
        LEVELS,
        OpenUNetConfig(bands, bands, tuple(stem * multiple for multiple in multiples), blocks),
        OpenUNetConfig(LEVELS * bands, 2 * latent_channels, tuple(stem2 * m for m in multiples2), blocks2),
        latent_channels,
        (128, 256, 512, 512),
        decoder_blocks=3,
    )


class PostNormBlock(nn.Module):
    """conv → norm → SiLU, twice, added to the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels)
        self.norm1 = norm(NORM_GROUPS, out_channels)
        self.conv2 = conv(out_channels, out_channels)
        self.norm2 = norm(NORM_GROUPS, out_channels)
        self.residual_conv = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)))
        return self.residual_conv(x) + F.silu(self.norm2(self.conv2(h)))


class OpenUNet(nn.Module):
    """(N, in, h, w) → (N, out, h, w): residual blocks in and out again, with skips between, at one resolution."""

    def __init__(self, config: OpenUNetConfig) -> None:
        super().__init__()
        widths, blocks = config.widths, range(config.blocks)
        steps = list(pairwise(widths))
        self.init_conv = conv(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList(
            nn.ModuleList([*(PostNormBlock(width, width) for _ in blocks), conv(width, inner, 1)])
            for width, inner in steps
        )
        self.mid_block = nn.ModuleList(PostNormBlock(widths[-1], widths[-1]) for _ in blocks)
        self.up_blocks = nn.ModuleList(
            nn.ModuleList([conv(inner, width, 1), *(PostNormBlock(2 * width, width) for _ in blocks)])
            for width, inner in reversed(steps)
        )
        self.conv_out = conv(widths[0], config.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.init_conv(x), []
        for level in self.down_blocks:
            *blocks, inwards = level.children()
            for block in blocks:
                x = block(x)
                skips.append(x)
            x = inwards(x)
        for block in self.mid_block:
            x = block(x)
        for level in self.up_blocks:
            outwards, *blocks = level.children()
            x = outwards(x)
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=1))
        return self.conv_out(x)


class OpenEncoder(nn.Module):
    """(N, 3, H, W) → (N, 2·C, H/8, W/8): mean and log-variance; (N, C, H/8, W/8) where a `quantizer` follows."""

    def __init__(self, config: OpenConfig) -> None:
        super().__init__()
        self.levels = config.levels
        self.extractors = nn.ModuleList(OpenUNet(config.extractor) for _ in range(config.levels))
        self.aggregator = OpenUNet(config.aggregator)

    def forward(self, x: Tensor) -> Tensor:
        features = [
            F.avg_pool2d(extractor(bands), 2**above)
            for extractor, bands, above in zip(
                self.extractors, raw_levels(x, self.levels), reversed(range(self.levels)), strict=True
            )
        ]
        return self.aggregator(torch.cat(features, dim=1))


def raw_levels(x: Tensor, levels: int) -> list[Tensor]:
    """(N, C, H, W) → for l = 1 … `levels` the bands of level l, (N, 4·C, H/2**l, W/2**l), in the order LL, V, H, D.

    Computed in float32, returned in the precision of `x`.
    """
    low, found = x.float(), []
    for _ in range(levels):
        low, horizontal, vertical, diagonal = haar(low).chunk(SUB_BANDS, dim=1)
        found.append(torch.cat([low, vertical, horizontal, diagonal], dim=1).to(x.dtype))
    return found


class SmcBlock(nn.Module):
    """self-modulated convolution → SiLU, twice, added to the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = SelfModulatedConv(in_channels, out_channels)
        self.conv2 = SelfModulatedConv(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv2(F.silu(self.conv1(x))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class Level(nn.Module):
    """The decoder's blocks of one resolution, and what doubles it behind them."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, upsamples: bool) -> None:
        super().__init__()
        ins = (in_channels, *[out_channels] * (blocks - 1))
        self.block = nn.ModuleList(SmcBlock(width, out_channels) for width in ins)
        self.upsample = Upsample(out_channels) if upsamples else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample(x)


class OpenDecoder(nn.Module):
    """(N, C, h, w) → (N, 3, 8h, 8w)."""

    def __init__(self, config: OpenConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.conv_in = conv(config.latent_channels, widths[-1])
        self.mid = nn.ModuleList(SmcBlock(widths[-1], widths[-1]) for _ in range(config.decoder_blocks))
        ins = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            Level(inner, width, config.decoder_blocks, upsamples=level > 0)
            for level, (inner, width) in enumerate(zip(ins, widths, strict=True))
        )
        self.conv_norm = SelfModulatedConv(widths[0], widths[0])
        self.conv_out = conv(widths[0], IMAGE_CHANNELS)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for block in self.mid:
            h = block(h)
        for level in reversed(list(self.up)):
            h = level(h)
        return self.conv_out(F.silu(self.conv_norm(h)))


class OpenLiteVAE(Network[OpenConfig]):
    """Its encoder and decoder, with or without the 1×1 convolutions between."""

    latent_is_scaled = False

    def __init__(self, config: OpenConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = OpenEncoder(config)
        self.decoder = OpenDecoder(config)
        if config.quant:
            c = config.latent_channels
            self.quantizer = nn.ModuleDict({"quant_conv": conv(c, 2 * c, 1), "post_quant_conv": conv(c, c, 1)})

    def encode_moments(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] → (N, 2·C, H/8, W/8): mean, then log-variance."""
        h = self.encoder(x)
        return self.quantizer["quant_conv"](h) if self.config.quant else h

    def decode(self, z: Tensor) -> Tensor:
        """Latent (N, C, h, w) → (N, 3, 8h, 8w), about [-1, 1], not clamped."""
        return self.decoder(self.quantizer["post_quant_conv"](z) if self.config.quant else z)


def build_open_litevae(state: Mapping[str, Tensor]) -> OpenLiteVAE:
    """Build the autoencoder around the tensors of its state dict, without copying them.

    The module is in evaluation mode, asks for no gradients, and shares memory with `state`.

    Raises:
        VaeFileError: the tensors do not make a whole one.
    """
    tensors = {name: state[own] for name, own in litevae_names(state).items()}
    config = read_open_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return built_around(tensors, lambda: OpenLiteVAE(config))


def read_open_config(shapes: Mapping[str, Shape]) -> OpenConfig:
    """The configuration from `{canonical name: shape}`.

    Raises:
        VaeFileError: the tensors do not make a whole autoencoder; names the first that is missing or wrong.
    """
    levels = count_of(shapes, r"decoder\.up\.(\d+)\.block\.0\.conv1\.conv\.weight")
    config = OpenConfig(
        count_of(shapes, r"encoder\.extractors\.(\d+)\.init_conv\.weight"),
        _read_unet(shapes, "encoder.extractors.0"),
        _read_unet(shapes, "encoder.aggregator"),
        kernel_shape(shapes, "decoder.conv_in.weight")[1],
        tuple(kernel_shape(shapes, f"decoder.up.{level}.block.0.conv1.conv.weight")[0] for level in range(levels)),
        count_of(shapes, r"decoder\.mid\.(\d+)\.conv1\.conv\.weight"),
        quant="quantizer.quant_conv.weight" in shapes,
    )
    _check_fit(config)
    with torch.device("meta"):
        expected = OpenLiteVAE(config).state_dict()
    compare_shapes({name: tuple(tensor.shape) for name, tensor in expected.items()}, shapes)
    return config


def _read_unet(shapes: Mapping[str, Shape], prefix: str) -> OpenUNetConfig:
    stem = kernel_shape(shapes, f"{prefix}.init_conv.weight")
    blocks = count_of(shapes, re.escape(prefix) + r"\.mid_block\.(\d+)\.conv1\.weight")
    steps = count_of(shapes, re.escape(prefix) + r"\.down_blocks\.(\d+)\.0\.conv1\.weight")
    inner = (kernel_shape(shapes, f"{prefix}.down_blocks.{step}.{blocks}.weight")[0] for step in range(steps))
    widths = (stem[0], *inner)
    if any(width % NORM_GROUPS for width in widths):
        raise VaeFileError(f"its channels {list(widths)} cannot be divided into {NORM_GROUPS} norm groups")
    return OpenUNetConfig(stem[1], kernel_shape(shapes, f"{prefix}.conv_out.weight")[0], widths, blocks)


def _check_fit(config: OpenConfig) -> None:
    """Do the parts fit each other?"""
    bands, z = SUB_BANDS * IMAGE_CHANNELS, config.latent_channels
    if (config.extractor.in_channels, config.aggregator.in_channels) != (
        bands,
        config.levels * config.extractor.out_channels,
    ):
        raise VaeFileError("its feature extractors, aggregator and pictures do not fit together: it is no open-litevae")
    needed = z if config.quant else 2 * z
    if config.aggregator.out_channels != needed or 2 ** (len(config.decoder_widths) - 1) != config.ratio:
        raise VaeFileError(
            f"its encoder makes {config.aggregator.out_channels} channels at 1/{config.ratio} of the size, its decoder "
            f"needs {needed} at 1/{2 ** (len(config.decoder_widths) - 1)}: they are of different VAEs"
        )
