"""The causal 3-D autoencoders of Wan and Qwen-Image on single pictures, where they are 2-D networks, exactly.

Wan 2.2's and Qwen-Image 2.1's are the same with shortcuts around their levels (`shortcuts.py`), Wan 2.2's with squares
of 2×2 pixels for one; Qwen-Image 2.1's has a fourth channel of pictures, opacity.

In front of the first frame there is nothing but zeros, so that of every temporal kernel the last tap alone acts:
W[:, :, -1]. Layers that mix frames (`time_conv`) leave a first frame as it is. Written from the structure of the Wan
modules (github.com/Wan-Video/Wan2.1, Wan2.2) and checked in the tests against a plain 3-D implementation and, where it
is installed, diffusers' `AutoencoderKLWan` and `AutoencoderKLQwenImage`.

Every norm is one of a pixel's own channels: x / ‖x‖ · √C · gamma. Nothing is measured over the picture.

Shapes: pictures (N, 3 or 4, H, W) in [-1, 1]; latents (N, C, h, w), **unscaled** (mean and std per channel belong to
the diffusion model). With four levels H = 8h; with squares of 2×2 pixels or a fifth level 16h.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.kinds.causal3d.config import CausalConfig, Half, read_config
from vae_manager.codec.kinds.causal3d.shortcuts import Averaged, Repeated
from vae_manager.codec.kinds.network import Network, built_around
from vae_manager.codec.streaming.squares import as_pixels, as_squares

NORM_EPS = 1e-12
"""Least length by which a pixel is divided (that of `torch.nn.functional.normalize`)."""

MAX_SCORES = 1 << 26
"""Attention scores (queries × keys) to compute at a time."""


class PixelNorm(nn.Module):
    """Each pixel's channels brought to length √C, times a gain for each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    @property
    def gain(self) -> Tensor:
        """(C,): what a pixel of length 1 is multiplied by."""
        return self.gamma * self.gamma.shape[0] ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1, eps=NORM_EPS) * self.gain[:, None, None]


class Block(nn.Module):
    """norm → SiLU → conv, twice, added to the input (through a 1×1 convolution when the width changes)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = PixelNorm(width), nn.Conv2d(width, out, 3, padding=1)
        self.norm2, self.conv2 = PixelNorm(out), nn.Conv2d(out, out, 3, padding=1)
        if width != out:
            self.shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class Attention(nn.Module):
    """One-head self-attention over all positions of the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(n, 1, 3 * c, height * width).transpose(2, 3)
        q, k, v = (part.contiguous() for part in qkv.chunk(3, dim=-1))
        # each query's row is independent of the others: chunks bound the scores that some backends write out
        chunks = q.split(max(1, MAX_SCORES // (n * height * width)), dim=2)
        h = torch.cat([F.scaled_dot_product_attention(chunk, k, v) for chunk in chunks], dim=2)
        return x + self.proj(h.transpose(2, 3).reshape(n, c, height, width))


class Mid(nn.Module):
    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.block_1 = Block(channels, channels)
        if attention:
            self.attn_1 = Attention(channels)
        self.block_2 = Block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_1(x)
        return self.block_2(self.attn_1(x) if hasattr(self, "attn_1") else x)


class Resample(nn.Module):
    """Double the resolution by repetition, or halve it by a stride, with a convolution."""

    time_bias: Tensor
    """Of the layer that mixes frames, where that is there and tells something; nothing is computed with it."""

    def __init__(self, width: int, out: int, up: bool, time: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=1) if up else nn.Conv2d(width, out, 3, stride=2)
        if time:
            self.register_buffer("time_bias", torch.zeros(2 * width if up else width))
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest-exact") if self.up else F.pad(x, (0, 1, 0, 1))
        return self.conv(x)


class Level(nn.Module):
    """The blocks of one resolution, and the resampling behind them; perhaps with a shortcut around both."""

    def __init__(
        self, width: int, out: int, blocks: int, resample: Resample | None, shortcut: Averaged | Repeated | None
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.block = nn.ModuleList(Block(width if i == 0 else out, out) for i in range(blocks))
        if resample is not None:
            self.add_module("upsample" if resample.up else "downsample", resample)

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for block in self.block:
            x = block(x)
        for name in ("upsample", "downsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x if self.shortcut is None else x + self.shortcut(before.movedim(1, -1)).movedim(-1, 1)


class Encoder(nn.Module):
    """(N, C, H, W) → (N, 2·Z, h, w), before `quant_conv`."""

    def __init__(self, half: Half, shortcuts: bool) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(half.channels_in, half.stem, 3, padding=1)
        self.down = nn.ModuleList()
        width, last = half.stem, len(half.widths) - 1
        for i, out in enumerate(half.widths):
            down = Resample(out, out, up=False, time=half.takes_frames(i)) if i < last else None
            around = Averaged(width, out, 2 if down else 1, half.takes_frames(i)) if shortcuts else None
            self.down.append(Level(width, out, half.blocks, down, around))
            width = out
        self.mid = Mid(width, half.mid_attention)
        self.norm_out, self.conv_out = PixelNorm(width), nn.Conv2d(width, half.channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """(N, Z, h, w) → (N, C, H, W), after `post_quant_conv`; `up.0` is the full-resolution level."""

    def __init__(self, half: Half, shortcuts: bool) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(half.channels_in, half.stem, 3, padding=1)
        self.mid = Mid(half.stem, half.mid_attention)
        levels: list[nn.Module] = []
        width = half.stem
        for i in reversed(range(len(half.widths))):
            out = half.widths[i]
            up = Resample(out, half.upsampled[i - 1], up=True, time=half.takes_frames(i)) if i > 0 else None
            around = Repeated(width, out, half.takes_frames(i)) if shortcuts and up else None
            levels.insert(0, Level(width, out, half.blocks, up, around))
            width = half.upsampled[i - 1] if i > 0 else out
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = PixelNorm(width), nn.Conv2d(width, half.channels_out, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class CausalAutoencoder(Network[CausalConfig]):
    """Encoder, decoder and the two 1×1 convolutions around the latent."""

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.config = config
        if config.encoder is not None:
            self.encoder = Encoder(config.encoder, config.shortcuts)
        self.decoder = Decoder(config.decoder, config.shortcuts)
        if config.quant_conv:
            self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        if config.post_quant_conv:
            self.post_quant_conv = nn.Conv2d(config.latent_channels, config.decoder.channels_in, 1)

    def encode_moments(self, x: Tensor) -> Tensor:
        return super().encode_moments(as_squares(x, self.config.square, columns_first=True))

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latent (N, Z, h, w) → picture, about [-1, 1], not clamped; twice as large where it `enlarges`."""
        x = self.decoder(self.post_quant_conv(z) if self.config.post_quant_conv else z)
        return as_pixels(as_pixels(x, self.config.square, columns_first=True), self.config.enlarges)


def build_causal(state: Mapping[str, Tensor]) -> CausalAutoencoder:
    """Build it around the tensors of a canonical state dict, without copying them.

    The module is in evaluation mode, asks for no gradients, and shares memory with `state`.

    Raises:
        VaeFileError: the tensors do not make a whole one.
    """
    config = read_config({name: tuple(tensor.shape) for name, tensor in state.items()})
    return built_around(state, lambda: CausalAutoencoder(config))
