"""TAEHV, the tiny autoencoders of video models, on single pictures.

The architecture is that of madebyollin/taehv (MIT): TAESD's convolutions and ReLUs, with blocks that see the frame
before (zeros before the first one), pools that make one frame of several, and growths that make several of one. What
one picture means there (`TAEHV.encode_video`, `decode_video`):

- encoding, it is repeated until there are as many frames as make one latent frame. They are alike up to the first
  memory block, of which the first frame has no past and the others have themselves;
- decoding, of the frames that one latent frame makes the last is the picture; the others, which stand before the
  video's beginning, are cut off. Behind the last memory block nothing else has to be computed.

As with TAESD, pictures are in [0, 1] inside and in [-1, 1] at this module's border, and latents are **scaled**: the
very numbers that the diffusion model works on. Shapes: pictures (N, 3, H, W), latents (N, C, H/8, W/8), H/16 where
squares of 2×2 pixels are one inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.kinds.network import Network, built_around
from vae_manager.codec.kinds.taehv.config import Half, TaehvConfig, frames_of, read_config
from vae_manager.codec.kinds.tiny.network import NO_NOISE, Clamp, conv, relu
from vae_manager.errors import BadInputError

Frames = list[Tensor]
"""Frames (N, C, h, w) in their order; equal ones are the same object, and computed once."""


class MemoryBlock(nn.Module):
    """Three convolutions of a frame and the one before, added to the frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(2 * channels, channels), relu(), conv(channels, channels), relu(), conv(channels, channels)
        )
        self.act = relu()

    def forward(self, x: Tensor, past: Tensor | None) -> Tensor:
        """`past` None: before the first frame, where there are zeros."""
        first: nn.Conv2d = self.conv[0]  # pyright: ignore[reportAssignmentType]
        if past is None and first.padding_mode == "zeros":
            h = F.conv2d(x, first.weight[:, : x.shape[1]], first.bias, padding=1)
        else:
            h = first(torch.cat([x, torch.zeros_like(x) if past is None else past], dim=1))
        return self.act(self.conv[1:](h) + x)


class Pool(nn.Module):
    """Several frames → one."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(frames * channels, channels, 1, bias=False)
        self.frames = frames


class Growth(nn.Module):
    """One frame → several."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, frames * channels, 1, bias=False)
        self.frames = frames


def make_encoder(half: Half) -> nn.Sequential:
    """The layers' numbers are the files' keys."""
    layers: list[nn.Module] = [conv(half.channels_in, half.widths[0]), relu()]
    for width, out, blocks, frames in zip(half.widths[:-1], half.widths[1:], half.blocks, half.frames, strict=True):
        layers += [Pool(width, frames), conv(width, out, stride=2, bias=False)]
        layers += [MemoryBlock(out) for _ in range(blocks)]
    return nn.Sequential(*layers, conv(half.widths[-1], half.channels_out))


def make_decoder(half: Half) -> nn.Sequential:
    """The layers' numbers are the files' keys."""
    layers: list[nn.Module] = [Clamp(), conv(half.channels_in, half.widths[0]), relu()]
    for width, out, blocks, frames in zip(half.widths[:-1], half.widths[1:], half.blocks, half.frames, strict=True):
        layers += [MemoryBlock(width) for _ in range(blocks)]
        layers += [nn.Upsample(scale_factor=2.0), Growth(width, frames), conv(width, out, bias=False)]
    return nn.Sequential(*layers, relu(), conv(half.widths[-1], half.channels_out))


class TinyVideoAutoencoder(Network[TaehvConfig]):
    """Encoder, where the file has one, and decoder."""

    latent_is_scaled = True
    """Latents are the diffusion model's, not the full VAE's."""

    def __init__(self, config: TaehvConfig) -> None:
        super().__init__()
        self.config = config
        if config.encoder is not None:
            self.encoder = make_encoder(config.encoder)
        self.decoder = make_decoder(config.decoder)

    def encode(self, x: Tensor) -> Tensor:
        """Picture (N, 3, H, W) in [-1, 1] → scaled latent (N, C, h, w); nothing is sampled.

        Raises:
            BadInputError: the file has a decoder only.
        """
        if self.config.encoder is None:
            raise BadInputError("this tiny VAE has only its decoder, so it cannot encode pictures; choose a whole one")
        first = F.pixel_unshuffle((x + 1) / 2, self.config.square)
        (z,) = _through(self.encoder, [first] * frames_of(self.config.encoder))
        return z

    def encode_moments(self, x: Tensor) -> Tensor:
        """Like `AutoencoderKL.encode_moments`: the latent, then a log-variance that makes no noise."""
        z = self.encode(x)
        return torch.cat([z, torch.full_like(z, NO_NOISE)], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latent (N, C, h, w) → picture (N, 3, H, W), about [-1, 1], not clamped."""
        (picture,) = _through(self.decoder, [z], only_last=True)
        return F.pixel_shuffle(picture, self.config.square) * 2 - 1


def _through(layers: nn.Sequential, frames: Frames, only_last: bool = False) -> Frames:
    """Take frames through the layers; `only_last`: all but the last one that leaves are cut off."""
    modules = list(layers)
    remembers = [i for i, layer in enumerate(modules) if isinstance(layer, MemoryBlock)]
    for i, layer in enumerate(modules):
        if isinstance(layer, MemoryBlock):
            groups = [(x, past) for x, past in zip(frames, [None, *frames[:-1]])]
            frames = _each(layer, groups[-1:] if only_last and i == remembers[-1] else groups)
        elif isinstance(layer, Pool):
            groups = [tuple(frames[j : j + layer.frames]) for j in range(0, len(frames), layer.frames)]
            frames = _each(lambda *group, layer=layer: layer.conv(torch.cat(group, dim=1)), groups)
        elif isinstance(layer, Growth):
            grown = [part for frame in frames for part in layer.conv(frame).chunk(layer.frames, dim=1)]
            frames = grown[-1:] if only_last and i > remembers[-1] else grown
        else:
            frames = _each(layer, [(frame,) for frame in frames])
    return frames


def _each(compute: Callable[..., Tensor], groups: Sequence[tuple[Tensor | None, ...]]) -> Frames:
    """What is computed of each group of frames; of the very same frames once."""
    done: dict[tuple[int, ...], Tensor] = {}
    for group in groups:
        key = tuple(map(id, group))
        if key not in done:
            done[key] = compute(*group)
    return [done[tuple(map(id, group))] for group in groups]


def build_taehv(state: Mapping[str, Tensor]) -> TinyVideoAutoencoder:
    """Build it around the tensors of a file, without copying them.

    The module is in evaluation mode, asks for no gradients, and shares memory with `state`.

    Raises:
        VaeFileError: the tensors do not make a whole one.
    """
    config = read_config({name: tuple(tensor.shape) for name, tensor in state.items()})
    return built_around(state, lambda: TinyVideoAutoencoder(config))
