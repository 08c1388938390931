"""The shape of a TAEHV, read from its tensors. Its halves are lists of layers, numbered in the files.

    encoder   convolution, ReLU, levels, convolution; a level: pool over frames, strided convolution, memory blocks
    decoder   clamp, convolution, ReLU, levels, ReLU, convolution; a level: memory blocks, upsampling, growth into
              frames, convolution

Pool and growth are 1×1 convolutions from and to the channels of several frames (`N.conv.weight`); a memory block takes
its input beside the frame before (`N.conv.0.weight` has twice the channels).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt, prod

from vae_manager.codec.kinds.shapes import Shape, compare_shapes, kernel_of
from vae_manager.errors import VaeFileError

_kernel = partial(kernel_of, what="tiny video VAE")

MAX_LAYERS = 100
"""Of a half; published ones have 23 at most."""

H3 = 24
"""Latent channels of MiniMax H3's, which takes frames in groups of 17 and drops some of what it makes of them."""


@dataclass(frozen=True)
class Half:
    """An encoder or a decoder, in the order of its layers."""

    channels_in: int
    channels_out: int
    widths: Shape
    """Channels behind the first convolution, and behind each level."""
    blocks: Shape
    """Memory blocks of each level."""
    frames: Shape
    """Frames that each level makes one of (encoder), or one frame into (decoder)."""


@dataclass(frozen=True)
class TaehvConfig:
    """Everything needed to build one."""

    encoder: Half | None
    decoder: Half

    @property
    def latent_channels(self) -> int:
        return self.decoder.channels_in

    @property
    def square(self) -> int:
        """Side of the squares of pixels that are the channels of one pixel inside."""
        return isqrt(self.decoder.channels_out // 3)

    @property
    def image_channels(self) -> int:
        return self.decoder.channels_out // self.square**2

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** len(self.decoder.blocks) * self.square

    @property
    def encodes(self) -> bool:
        return self.encoder is not None


def is_taehv(names: Iterable[str]) -> bool:
    """Memory blocks, and growth into frames, stand in no other list of layers."""
    names = set(names)
    return any(_TIME.fullmatch(name) for name in names) and any(_MEMORY.fullmatch(name) for name in names)


def is_super(names: Iterable[str]) -> bool:
    """Its decoder begins with a convolution without a clamp before it."""
    names = set(names)
    return is_taehv(names) and "decoder.0.weight" in names


_TIME = re.compile(r"decoder\.\d{1,3}\.conv\.weight")
_MEMORY = re.compile(r"decoder\.\d{1,3}\.conv\.0\.weight")


def read_config(shapes: Mapping[str, Shape]) -> TaehvConfig:
    """The configuration from `{name: shape}`.

    Raises:
        VaeFileError: the tensors do not make a whole one; names the first that is missing, misshapen or not known.
    """
    encoder, decoder = _read_half(shapes, "encoder"), _read_half(shapes, "decoder")
    if decoder is None:
        raise VaeFileError("its decoder is missing: it is no whole tiny video VAE")
    config = TaehvConfig(encoder, decoder)
    if 3 * config.square**2 != decoder.channels_out:
        raise VaeFileError(f"its pictures have {decoder.channels_out} channels, which make no squares of pixels")
    if encoder and (encoder.channels_out, encoder.channels_in) != (decoder.channels_in, decoder.channels_out):
        raise VaeFileError(
            f"its encoder makes {encoder.channels_out} channels of {encoder.channels_in}, its decoder "
            f"{decoder.channels_out} of {decoder.channels_in}: they are halves of different VAEs"
        )
    if encoder and len(encoder.blocks) != len(decoder.blocks):
        raise VaeFileError("its encoder and its decoder have different numbers of levels")
    if decoder.channels_in == H3:
        raise VaeFileError("it is MiniMax H3's, which makes no single pictures")
    return config


def frames_of(half: Half) -> int:
    """Frames that one latent frame stands for."""
    return prod(half.frames)


def _read_half(shapes: Mapping[str, Shape], half: str) -> Half | None:
    own = {name.removeprefix(f"{half}."): shape for name, shape in shapes.items() if name.startswith(f"{half}.")}
    if not own:
        return None
    found = _encoder(own) if half == "encoder" else _decoder(own)
    compare_shapes(expected_shapes(found, half == "decoder"), own, f"its {half}'s")
    return found


Kinds = list[tuple[int, str]]
"""Number of a layer that has weights, and what it is: 'c' a convolution, 't' pool or growth, 'm' a memory block."""


def _layers(shapes: Mapping[str, Shape], pattern: str) -> Kinds:
    numbers = {int(match.group(1)) for name in shapes if (match := re.match(r"(\d{1,3})\.", name))}
    if len(numbers) > MAX_LAYERS:
        raise VaeFileError("it has more layers than any tiny video VAE")

    def kind(number: int) -> str:
        return "m" if f"{number}.conv.0.weight" in shapes else "t" if f"{number}.conv.weight" in shapes else "c"

    layers = [(number, kind(number)) for number in sorted(numbers)]
    if not re.fullmatch(pattern, "".join(kind for _, kind in layers)):
        raise VaeFileError("its layers do not follow each other as a tiny video VAE's: the file is incomplete")
    return layers


def _encoder(shapes: Mapping[str, Shape]) -> Half:
    layers = _layers(shapes, "c(tcm+)+c")
    first, last = (_kernel(shapes, f"{layers[i][0]}.weight") for i in (0, -1))
    widths, frames, blocks = [first[0]], list[int](), list[int]()
    for i, (number, kind) in enumerate(layers):
        if kind == "t":
            pool = _kernel(shapes, f"{number}.conv.weight")
            frames.append(max(1, pool[1] // pool[0]))
            widths.append(_kernel(shapes, f"{layers[i + 1][0]}.weight")[0])
            blocks.append(0)
        elif kind == "m":
            blocks[-1] += 1
    return Half(first[1], last[0], tuple(widths), tuple(blocks), tuple(frames))


def _decoder(shapes: Mapping[str, Shape]) -> Half:
    layers = _layers(shapes, "c(m+tc)+c")
    first, last = (_kernel(shapes, f"{layers[i][0]}.weight") for i in (0, -1))
    widths, frames, blocks = [first[0]], list[int](), [0]
    for i, (number, kind) in enumerate(layers):
        if kind == "m":
            blocks[-1] += 1
        elif kind == "t":
            growth = _kernel(shapes, f"{number}.conv.weight")
            frames.append(max(1, growth[0] // growth[1]))
            widths.append(_kernel(shapes, f"{layers[i + 1][0]}.weight")[0])
            blocks.append(0)
    return Half(first[1], last[0], tuple(widths), tuple(blocks[:-1]), tuple(frames))


# --- the tensors, written out so that a header is judged without torch


def expected_shapes(half: Half, decodes: bool) -> dict[str, Shape]:
    """Name, behind 'encoder.' or 'decoder.', and shape of every tensor of a half."""
    return dict(_decoder_tensors(half) if decodes else _encoder_tensors(half))


Tensors = list[tuple[str, Shape]]


def _encoder_tensors(half: Half) -> Tensors:
    tensors, n = _conv(0, half.channels_in, half.widths[0]), 2
    for width, out, blocks, frames in zip(half.widths[:-1], half.widths[1:], half.blocks, half.frames, strict=True):
        tensors += [(f"{n}.conv.weight", (width, width * frames, 1, 1)), *_conv(n + 1, width, out, bias=False)]
        n += 2
        tensors += _memories(n, blocks, out)
        n += blocks
    return tensors + _conv(n, half.widths[-1], half.channels_out)


def _decoder_tensors(half: Half) -> Tensors:
    tensors, n = _conv(1, half.channels_in, half.widths[0]), 3
    for width, out, blocks, frames in zip(half.widths[:-1], half.widths[1:], half.blocks, half.frames, strict=True):
        tensors += _memories(n, blocks, width)
        n += blocks + 1  # the upsampling has no weights
        tensors += [(f"{n}.conv.weight", (width * frames, width, 1, 1)), *_conv(n + 1, width, out, bias=False)]
        n += 2
    return tensors + _conv(n + 1, half.widths[-1], half.channels_out)


def _memories(number: int, count: int, width: int) -> Tensors:
    return [
        tensor
        for block in range(number, number + count)
        for layer, channels in ((0, 2 * width), (2, width), (4, width))
        for tensor in _conv(f"{block}.conv.{layer}", channels, width)
    ]


def _conv(name: str | int, width: int, out: int, bias: bool = True) -> Tensors:
    return [(f"{name}.weight", (out, width, 3, 3)), *([(f"{name}.bias", (out,))] if bias else [])]
