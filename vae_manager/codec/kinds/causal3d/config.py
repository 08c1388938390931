"""The shape of a causal 3-D autoencoder as it is on a single picture, read from its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from vae_manager.codec.kinds.shapes import Shape, compare_shapes, kernel_of
from vae_manager.errors import VaeFileError

_kernel = partial(kernel_of, what="VAE of the Wan and Qwen kind")

MAX_COUNT = 12
"""Most levels, and most blocks of a level: published ones have 4 and 3."""

PACKED = (12, 16)
"""Channels of squares of 2×2 pixels, in RGB and RGBA."""


@dataclass(frozen=True)
class Half:
    """An encoder or a decoder."""

    channels_in: int
    channels_out: int
    widths: Shape
    """Channels of the blocks at each resolution, the full one first."""
    upsampled: Shape
    """Decoder only: channels behind the upsampling of each level but the first (Wan 2.1 halves them there)."""
    blocks: int
    """Residual blocks at each resolution."""
    stem: int
    """Channels behind the first convolution."""
    mid_attention: bool = True
    times: tuple[bool, ...] = ()
    """Whether the resampling behind each level takes frames together, or apart; told where there are shortcuts."""

    def takes_frames(self, level: int) -> bool:
        return bool(self.times) and self.times[level]


@dataclass(frozen=True)
class CausalConfig:
    """Everything needed to build one."""

    encoder: Half | None
    decoder: Half
    latent_channels: int
    quant_conv: bool
    post_quant_conv: bool
    enlarges: int = 1
    """How much larger than what was encoded a decoded picture is, along one side (upscalers: 2)."""
    square: int = 1
    """Side of the squares of pixels that are the channels of one pixel inside, on both ways (Wan 2.2: 2)."""
    shortcuts: bool = False
    """Whether each level has one around it (Wan 2.2, Qwen-Image 2.1)."""

    @property
    def image_channels(self) -> int:
        return self.decoder.channels_out // (self.enlarges * self.square) ** 2

    @property
    def ratio(self) -> int:
        """Pixels that are encoded to one latent pixel, along one side."""
        return 2 ** (len(self.decoder.widths) - 1) * self.square

    @property
    def encodes(self) -> bool:
        return self.encoder is not None


def read_config(shapes: Mapping[str, Shape]) -> CausalConfig:
    """The configuration from `{canonical name: shape}`.

    Raises:
        VaeFileError: the tensors do not make a whole one; names the first that is missing, misshapen or not known.
    """
    decoder = _read_half(shapes, "decoder")
    encoder = _read_half(shapes, "encoder") if any(name.startswith("encoder.") for name in shapes) else None
    shortcuts = bool(decoder.upsampled) and decoder.upsampled == decoder.widths[1:]
    packed = decoder.channels_out in PACKED
    # without an encoder, the layout tells squares on both ways from an upscaler's
    squares = packed and (encoder.channels_in == decoder.channels_out if encoder else shortcuts)
    config = CausalConfig(
        encoder,
        decoder,
        latent_channels=latent_channels(shapes),
        quant_conv="quant_conv.weight" in shapes,
        post_quant_conv="post_quant_conv.weight" in shapes,
        enlarges=2 if packed and not squares else 1,
        square=2 if squares else 1,
        shortcuts=shortcuts,
    )
    _check_fit(config)
    compare_shapes(expected_shapes(config), shapes)
    return config


def latent_channels(shapes: Mapping[str, Shape]) -> int:
    """Channels of its latent.

    Raises:
        VaeFileError: its decoder has no beginning.
    """
    first = "post_quant_conv.weight" if "post_quant_conv.weight" in shapes else "decoder.conv_in.weight"
    return _kernel(shapes, first)[1]


def _check_fit(config: CausalConfig) -> None:
    encoder, decoder = config.encoder, config.decoder
    # shortcuts have no weights to be seen by: taken for Wan 2.1's, a picture of Wan 2.2's would be wrong
    if not config.shortcuts and any(2 * out != width for out, width in zip(decoder.upsampled, decoder.widths[1:])):
        raise VaeFileError(
            "its levels are widened neither as Wan 2.1's nor as Wan 2.2's: it is of a kind not known here"
        )
    if config.shortcuts:
        _check_shortcuts(config)
    if encoder is None:
        return
    if encoder.channels_out != 2 * config.latent_channels or len(encoder.widths) != len(decoder.widths):
        raise VaeFileError(
            f"its encoder makes {encoder.channels_out} channels on {len(encoder.widths)} levels where its decoder "
            f"needs {2 * config.latent_channels} (mean and log-variance) on {len(decoder.widths)}: they are of "
            "different VAEs"
        )
    if decoder.channels_out != encoder.channels_in * config.enlarges**2:
        raise VaeFileError(
            f"it takes {encoder.channels_in} channels and returns {decoder.channels_out}, which is not known of any"
        )


def _check_shortcuts(config: CausalConfig) -> None:
    """Channels must be shared out, or taken together, without a rest; and how many frames must be told."""
    if not any((*config.decoder.times, *(config.encoder.times if config.encoder else ()))):
        raise VaeFileError("its layers between frames are missing, by which it is known what its shortcuts do")
    whole = all(out * factor % width == 0 for width, out, factor in _around(config.decoder, reversed_=True))
    if config.encoder:
        whole = whole and all(width * factor % out == 0 for width, out, factor in _around(config.encoder, False))
    if not whole:
        raise VaeFileError("the widths of its levels have no shortcuts between them: it is of a kind not known here")


def _around(half: Half, reversed_: bool) -> Iterator[tuple[int, int, int]]:
    """Of each level with a shortcut: channels before and behind it, and how many numbers are taken together."""
    last, width = len(half.widths) - 1, half.stem
    for i in reversed(range(1, last + 1)) if reversed_ else range(last + 1):
        side = 2 if reversed_ or i < last else 1
        yield width, half.widths[i], side * side * (2 if half.takes_frames(i) else 1)
        width = half.widths[i]


def _read_half(shapes: Mapping[str, Shape], half: str) -> Half:
    levels = "down" if half == "encoder" else "up"
    first, last = _kernel(shapes, f"{half}.conv_in.weight"), _kernel(shapes, f"{half}.conv_out.weight")
    count = _count(shapes, rf"{half}\.{levels}\.(\d+)\.block\.0\.conv1\.weight")
    blocks = _count(shapes, rf"{half}\.{levels}\.0\.block\.(\d+)\.conv1\.weight")
    widths = tuple(_kernel(shapes, f"{half}.{levels}.{i}.block.0.conv1.weight")[0] for i in range(count))
    ups = tuple(_kernel(shapes, f"decoder.up.{i}.upsample.conv.weight")[0] for i in range(1, count))
    return Half(
        channels_in=first[1],
        channels_out=last[0],
        widths=widths,
        upsampled=ups if half == "decoder" else (),
        blocks=blocks,
        stem=first[0],
        mid_attention=f"{half}.mid.attn_1.to_qkv.weight" in shapes,
        times=tuple(f"{half}.{levels}.{i}.{levels}sample.time_bias" in shapes for i in range(count)),
    )


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    pattern = pattern.replace(r"(\d+)", r"(\d{1,3})")
    found = {int(match.group(1)) for name in shapes if (match := re.fullmatch(pattern, name))}
    if not found or found != set(range(len(found))) or len(found) > MAX_COUNT:
        raise VaeFileError("its blocks are not numbered 0, 1, …: it is no whole VAE of the Wan and Qwen kind")
    return len(found)


# --- the tensors, written out so that a header is judged without torch


def expected_shapes(config: CausalConfig) -> dict[str, Shape]:
    """Name and shape of every tensor, on a single picture: kernels without their temporal axis, gains flat."""
    tensors = [] if config.encoder is None else _encoder(config.encoder)
    tensors += _decoder(config.decoder)
    if config.quant_conv:
        tensors += _conv("quant_conv", 2 * config.latent_channels, 2 * config.latent_channels, 1)
    if config.post_quant_conv:
        tensors += _conv("post_quant_conv", config.latent_channels, config.decoder.channels_in, 1)
    return dict(tensors)


Tensors = list[tuple[str, Shape]]


def _encoder(half: Half) -> Tensors:
    tensors, width = _conv("encoder.conv_in", half.channels_in, half.stem), half.stem
    for i, out in enumerate(half.widths):
        tensors += _blocks(f"encoder.down.{i}", width, out, half.blocks)
        if i + 1 < len(half.widths):
            tensors += _conv(f"encoder.down.{i}.downsample.conv", out, out)
            if half.takes_frames(i):
                tensors.append((f"encoder.down.{i}.downsample.time_bias", (out,)))
        width = out
    return tensors + _ends("encoder", half, width, width)


def _decoder(half: Half) -> Tensors:
    tensors, width = _conv("decoder.conv_in", half.channels_in, half.stem), half.stem
    for i in reversed(range(len(half.widths))):
        tensors += _blocks(f"decoder.up.{i}", width, half.widths[i], half.blocks)
        width = half.widths[i]
        if i > 0:
            tensors += _conv(f"decoder.up.{i}.upsample.conv", width, half.upsampled[i - 1])
            if half.takes_frames(i):
                tensors.append((f"decoder.up.{i}.upsample.time_bias", (2 * width,)))
            width = half.upsampled[i - 1]
    return tensors + _ends("decoder", half, half.stem, width)


def _ends(name: str, half: Half, mid: int, width: int) -> Tensors:
    attention = []
    if half.mid_attention:
        attention = [(f"{name}.mid.attn_1.norm.gamma", (mid,))]
        attention += _conv(f"{name}.mid.attn_1.to_qkv", mid, 3 * mid, 1) + _conv(f"{name}.mid.attn_1.proj", mid, mid, 1)
    middle = _block(f"{name}.mid.block_1", mid, mid) + attention + _block(f"{name}.mid.block_2", mid, mid)
    return [*middle, (f"{name}.norm_out.gamma", (width,)), *_conv(f"{name}.conv_out", width, half.channels_out)]


def _blocks(name: str, width: int, out: int, count: int) -> Tensors:
    return [t for i in range(count) for t in _block(f"{name}.block.{i}", width if i == 0 else out, out)]


def _block(name: str, width: int, out: int) -> Tensors:
    tensors: Tensors = [(f"{name}.norm1.gamma", (width,)), *_conv(f"{name}.conv1", width, out)]
    tensors += [(f"{name}.norm2.gamma", (out,)), *_conv(f"{name}.conv2", out, out)]
    return tensors + (_conv(f"{name}.shortcut", width, out, 1) if width != out else [])


def _conv(name: str, width: int, out: int, side: int = 3) -> Tensors:
    return [(f"{name}.weight", (out, width, side, side)), (f"{name}.bias", (out,))]
