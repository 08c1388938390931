"""The KL autoencoder of latent diffusion, in ldm's key layout.

Written from the architecture of Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion
Models" (2022), appendix E, and checked against diffusers' `AutoencoderKL` in the tests. The module tree's
attribute names *are* the state dict's keys, so `load_state_dict` of a canonical VAE file needs no mapping.

Shapes: pictures are (N, 3, H, W) in [-1, 1]; latents (N, C, h, w), **unscaled** (the scale factor and shift
belong to the diffusion model, not to the autoencoder). With four levels H = 8h and W = 8w.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.kinds.kl.config import KLConfig, check_shapes
from vae_manager.codec.kinds.network import Network, built_around

NORM_EPS = 1e-6
"""GroupNorm epsilon of ldm and diffusers VAEs (torch's own default is 1e-5)."""

MAX_SCORES = 1 << 26
"""Attention scores (queries × keys) to compute at a time: 256 MiB in fp32, the whole of a 720-pixel square."""


class ResnetBlock(nn.Module):
    """norm → SiLU → conv, twice, added to the input (through a 1×1 convolution when the width changes)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return shortcut + h


class AttnBlock(nn.Module):
    """One-head self-attention over all positions, with 1×1 convolutions for q, k, v and the output."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        h = self.norm(x)
        # (N, C, H, W) → (N, heads = 1, positions, C), as scaled_dot_product_attention wants it
        q, k, v = (
            conv(h).reshape(n, 1, c, height * width).transpose(2, 3).contiguous() for conv in (self.q, self.k, self.v)
        )
        # each query's row is independent of the others: chunks bound the N² scores that some backends write out
        chunks = q.split(max(1, MAX_SCORES // (n * height * width)), dim=2)
        h = torch.cat([F.scaled_dot_product_attention(chunk, k, v) for chunk in chunks], dim=2)
        return x + self.proj_out(h.transpose(2, 3).reshape(n, c, height, width))


class Downsample(nn.Module):
    """Halve the resolution by a strided convolution, padded at the right and bottom only (as ldm does)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution by repetition, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution; `downsample` or `upsample` follows where there is one.

    With `attention` each block is followed by it.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int, groups: int, attention: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResnetBlock(widths[i], widths[i + 1], groups) for i in range(blocks))
        if attention:
            self.attn = nn.ModuleList(AttnBlock(out_channels, groups) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if i < len(getattr(self, "attn", ())):  # ldm's own levels have an empty list where there is none
                x = self.attn[i](x)
        for resample in ("downsample", "upsample"):
            if hasattr(self, resample):
                x = getattr(self, resample)(x)
        return x


class Mid(nn.Module):
    """Two residual blocks around self-attention, at the lowest resolution."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        if attention:
            self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_1(x)
        if hasattr(self, "attn_1"):
            x = self.attn_1(x)
        return self.block_2(x)


class Encoder(nn.Module):
    """(N, 3, H, W) → (N, 2·C, h, w): mean and log-variance, before `quant_conv`."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        groups, channels = config.norm_groups, config.encoder_channels
        self.conv_in = nn.Conv2d(config.image_channels, config.encoder_stem, 3, padding=1)
        self.down = nn.ModuleList()
        width = config.encoder_stem
        for i, out in enumerate(channels):
            level = Level(width, out, config.encoder_blocks, groups, i in config.encoder_attention)
            if i + 1 < len(channels):
                level.downsample = Downsample(out)
            self.down.append(level)
            width = out
        self.mid = Mid(width, groups, config.mid_attention)
        self.norm_out = nn.GroupNorm(groups, width, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(width, 2 * config.hidden_latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """(N, C, h, w) → (N, 3, H, W), after `post_quant_conv`; `up.0` is the full-resolution level."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        groups, channels = config.norm_groups, config.decoder_channels
        width = channels[-1]
        self.conv_in = nn.Conv2d(config.hidden_latent_channels, width, 3, padding=1)
        self.mid = Mid(width, groups, config.mid_attention)
        levels: list[nn.Module] = []
        for i in reversed(range(len(channels))):
            level = Level(width, channels[i], config.decoder_blocks, groups, i in config.decoder_attention)
            if i > 0:
                level.upsample = Upsample(channels[i])
            levels.insert(0, level)
            width = channels[i]
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(groups, width, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(width, config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoencoderKL(Network[KLConfig]):
    """Encoder, decoder and the two optional 1×1 convolutions around the latent."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        if config.encodes:
            self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        hidden, latent = config.hidden_latent_channels, config.latent_channels
        if config.quant_conv:
            self.quant_conv = nn.Conv2d(2 * hidden, 2 * latent, 1)
        if config.post_quant_conv:
            self.post_quant_conv = nn.Conv2d(latent, hidden, 1)

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latent (N, C, h, w) → (N, 3, H, W), about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(z) if self.config.post_quant_conv else z)


def build_kl(state: Mapping[str, Tensor], norm_groups: int) -> AutoencoderKL:
    """Build the autoencoder around the tensors of a canonical ldm state dict, without copying them.

    The module is in evaluation mode, asks for no gradients, and shares memory with `state`.

    Raises:
        VaeFileError: the tensors do not make a whole KL autoencoder.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    config = KLConfig.from_shapes(shapes, norm_groups)
    check_shapes(config, shapes)
    return built_around(state, lambda: AutoencoderKL(config))
