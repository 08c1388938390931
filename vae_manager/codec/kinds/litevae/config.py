"""The shape of a LiteVAE, read from its tensors; the paper's sizes (tables 23 and 24)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from vae_manager.codec.kinds.kl.config import DEFAULT_NORM_GROUPS, KLConfig
from vae_manager.codec.kinds.shapes import Shape, compare_shapes, kernel_of
from vae_manager.errors import VaeFileError

kernel_shape = partial(kernel_of, what="LiteVAE")

LEVELS = 3
"""Wavelet levels; the latent's side is 2**LEVELS times smaller than the picture's."""

SUB_BANDS = 4


@dataclass(frozen=True)
class UNetConfig:
    """A feature extractor or the aggregator: a UNet that keeps its resolution."""

    in_channels: int
    out_channels: int
    stem: int
    """Channels after the first convolution."""
    widths: Shape
    """Output channels of each residual block on the way in; the way out mirrors them."""
    smc_mid: bool = False
    """Are the two middle blocks self-modulated? So says the default of the pseudocode, though not the text."""


@dataclass(frozen=True)
class LiteConfig:
    """Everything needed to build a LiteVAE."""

    extractor: UNetConfig
    aggregator: UNetConfig
    decoder: KLConfig
    """The decoder is Stable Diffusion's; nothing is read here of what this says about an encoder."""
    smc_decoder: bool = False
    """Are the decoder's residual blocks self-modulated, without normalisation?"""
    pre_conv: bool = False
    post_conv: bool = False
    """1×1 convolutions around the latent, which the paper advises against."""

    @property
    def latent_channels(self) -> int:
        return self.decoder.latent_channels

    @property
    def image_channels(self) -> int:
        return self.decoder.image_channels

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2**LEVELS

    @property
    def norm_groups(self) -> int:
        return self.decoder.norm_groups


SIZES = {
    # channels and multiples of the extractors, then of the aggregator (tables 23 and 24)
    "S": ((16, (1, 2, 2)), (16, (1, 2, 2))),
    "B": ((32, (1, 2, 3)), (32, (1, 2, 3))),
    "M": ((64, (1, 2, 4)), (32, (1, 2, 3))),
    "L": ((64, (1, 2, 4)), (64, (1, 2, 4))),
}

BLOCKS_PER_MULTIPLE = 2
"""Residual blocks per multiple: the pseudocode's default, and what the published parameter counts say."""


def published_config(size: str, latent_channels: int, smc_decoder: bool = False) -> LiteConfig:
    """The paper's model of size 'S', 'B', 'M' or 'L' with `latent_channels` (4 or 12 in the paper)."""
    extractor, aggregator = (
        (channels, tuple(channels * multiple for multiple in multiples for _ in range(BLOCKS_PER_MULTIPLE)))
        for channels, multiples in SIZES[size]
    )
    bands = 3 * SUB_BANDS
    return LiteConfig(
        UNetConfig(bands, bands, *extractor),
        UNetConfig(LEVELS * bands, 2 * latent_channels, *aggregator),
        KLConfig(latent_channels=latent_channels, hidden_latent_channels=latent_channels),
        smc_decoder,
    )


def read_config(shapes: Mapping[str, Shape], norm_groups: int = DEFAULT_NORM_GROUPS) -> LiteConfig:
    """The configuration from `{canonical name: shape}`.

    Raises:
        VaeFileError: the tensors do not make a whole LiteVAE; names the first that is missing or wrong.
    """
    from vae_manager.codec.kinds.litevae.network import expected_shapes  # with torch

    config = LiteConfig(
        extractor=_read_unet(shapes, "encoder.feature_extractor_L1"),
        aggregator=_read_unet(shapes, "encoder.feature_aggregator"),
        decoder=_read_decoder(shapes, norm_groups),
        smc_decoder="decoder.mid.block_1.conv1.scales" in shapes,
        pre_conv="pre_conv.weight" in shapes,
        post_conv="post_conv.weight" in shapes,
    )
    _check_fit(config)
    compare_shapes(expected_shapes(config), shapes)
    return config


def size_of(config: LiteConfig) -> str | None:
    """Which of the paper's sizes an encoder has, 'S', 'B', 'M' or 'L', or None."""
    for size in SIZES:
        published = published_config(size, config.latent_channels)
        if (config.extractor, config.aggregator) == (published.extractor, published.aggregator):
            return size
    return None


def _read_unet(shapes: Mapping[str, Shape], prefix: str) -> UNetConfig:
    stem = kernel_shape(shapes, f"{prefix}.in_layer.weight")
    out = kernel_shape(shapes, f"{prefix}.out_layer.weight")
    count = count_of(shapes, re.escape(prefix) + r"\.encoder_blocks\.(\d+)\.conv_in\.weight")
    widths = tuple(kernel_shape(shapes, f"{prefix}.encoder_blocks.{i}.conv_in.weight")[0] for i in range(count))
    return UNetConfig(stem[1], out[0], stem[0], widths, f"{prefix}.mid_block.res0.conv_in.scales" in shapes)


def _read_decoder(shapes: Mapping[str, Shape], norm_groups: int) -> KLConfig:
    latent_channels = kernel_shape(shapes, "decoder.conv_in.weight")[1]
    kernel = "conv1.conv.weight" if "decoder.mid.block_1.conv1.scales" in shapes else "conv1.weight"
    levels = count_of(shapes, rf"decoder\.up\.(\d+)\.block\.0\.{re.escape(kernel)}")
    channels = tuple(kernel_shape(shapes, f"decoder.up.{level}.block.0.{kernel}")[0] for level in range(levels))
    if norm_groups < 1 or any(width % norm_groups for width in channels):
        raise VaeFileError(
            f"its decoder's {min(channels)} channels cannot be divided into {norm_groups} norm groups; a small VAE "
            "must say its number in the safetensors metadata, key 'norm_num_groups'"
        )
    return KLConfig(
        latent_channels=latent_channels,
        hidden_latent_channels=latent_channels,
        decoder_channels=channels,
        decoder_blocks=count_of(shapes, rf"decoder\.up\.0\.block\.(\d+)\.{re.escape(kernel)}"),
        mid_attention="decoder.mid.attn_1.q.weight" in shapes,
        image_channels=kernel_shape(shapes, "decoder.conv_out.weight")[0],
        norm_groups=norm_groups,
    )


def _check_fit(config: LiteConfig) -> None:
    """Do the parts fit each other?"""
    bands, z = SUB_BANDS * config.image_channels, config.latent_channels
    if config.extractor.in_channels != bands or config.aggregator.in_channels != LEVELS * config.extractor.out_channels:
        raise VaeFileError("its feature extractors, aggregator and pictures do not fit together: it is no LiteVAE")
    if config.aggregator.out_channels != 2 * z or config.decoder.ratio != config.ratio:
        raise VaeFileError(
            f"its encoder makes {config.aggregator.out_channels} channels at 1/{config.ratio} of the size, its decoder "
            f"needs {2 * z} (mean and log-variance) at 1/{config.decoder.ratio}: they are of different VAEs"
        )


def count_of(shapes: Mapping[str, Shape], pattern: str) -> int:
    """How many consecutive indices 0, 1, … the pattern's group takes among the names.

    Raises:
        VaeFileError: none, or with gaps.
    """
    found = {int(match.group(1)) for name in shapes if (match := re.fullmatch(pattern, name))}
    if not found or found != set(range(len(found))):
        raise VaeFileError(f"its blocks are numbered {sorted(found)[:9]}, not 0, 1, …: it is no whole LiteVAE")
    return len(found)
