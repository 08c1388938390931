"""The layers of a TAEHV on a single picture, as steps that stream in one pass.

Frames lie beside each other as channels. So a memory block is three convolutions whose kernels are put together from
the file's, in blocks: the same kernel for every frame, and that for the frame before one column to the left. Pools and
growths are 1×1 convolutions without a bias next to a 3×3 one, and one kernel with it. Put together anew for each pass,
in float32 at least, from the weights as they are then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vae_manager.codec.kinds.taehv.config import frames_of
from vae_manager.codec.kinds.taehv.network import Growth, MemoryBlock, Pool, TinyVideoAutoencoder
from vae_manager.codec.kinds.tiny.chain import inside, outside, squashed, without_noise
from vae_manager.codec.streaming.chain import Chain, Stage, check_complete, check_conv
from vae_manager.codec.streaming.steps import Convolve
from vae_manager.errors import VaeFileError

Part = tuple[int, int, Tensor]
"""A kernel (out, in, kh, kw) and where it stands in a larger one: its row and column of blocks."""


def is_taehv(vae: nn.Module, decodes: bool) -> bool:
    """Whether it is a whole network of ours, or that half of one."""
    return any(isinstance(module, MemoryBlock) for module in _layers(vae, decodes))


def _layers(vae: nn.Module, decodes: bool) -> list[Any]:
    half = getattr(vae, "decoder" if decodes else "encoder", None)
    return list(half) if isinstance(half, nn.Sequential) else []


def taehv_chain(vae: nn.Module, decodes: bool) -> Chain:
    """Describe that half of `vae`.

    Raises:
        VaeFileError: its structure is not understood.
    """
    if not isinstance(vae, TinyVideoAutoencoder):
        raise VaeFileError("it is a half of a tiny video VAE, which is streamed as a whole one only")
    config, layers = vae.config, _layers(vae, decodes)
    count = 1 if decodes or config.encoder is None else frames_of(config.encoder)
    steps = list(_steps(layers, [0] * count, decodes))
    return Chain(
        decodes,
        (Stage(tuple(steps)),),
        check_complete(vae.get_submodule("decoder" if decodes else "encoder"), steps),
        enter=squashed if decodes else inside,
        leave=outside if decodes else without_noise,
        leaves_channels=None if decodes else 2 * config.latent_channels,
        modes=("D",),
        rescales=False,
        square=config.square,
    )


def _steps(layers: list[Any], frames: list[int], only_last: bool) -> Iterator[Convolve]:
    """`frames`: for each frame, which block of channels holds it; `only_last`: all but the last that leaves are cut."""
    remembers = [i for i, layer in enumerate(layers) if isinstance(layer, MemoryBlock)]
    pending: Convolve | None = None
    for i, layer in enumerate(layers):
        if isinstance(layer, MemoryBlock):
            if pending is not None:
                yield pending
                pending = None
            kept = range(len(frames))[-1:] if only_last and i == remembers[-1] else range(len(frames))
            yield from _memory(layer, frames, kept, recuts=isinstance(layers[i + 1], nn.Upsample))
            frames = list(range(len(kept)))
        elif isinstance(layer, (Pool, Growth)):
            last = only_last and i > remembers[-1]
            if pending is not None:
                yield pending
            pending, frames = _folded(layer, layers[i + 1], frames, last)
        elif isinstance(layer, nn.Conv2d) and not isinstance(layers[i - 1], (Pool, Growth)):
            if pending is not None:
                yield pending
            pending = Convolve(check_conv(layer, 3))
        elif isinstance(layer, nn.ReLU) and pending is not None:
            pending = replace(pending, relu=True)
    if pending is None:
        raise VaeFileError("it has no last convolution: not a tiny video VAE")
    yield pending


def _memory(block: MemoryBlock, frames: list[int], kept: Sequence[int], recuts: bool) -> Iterator[Convolve]:
    first, second, third = (check_conv(block.conv[i], 3) for i in (0, 2, 4))
    width = int(first.weight.shape[0])

    def seen() -> Iterator[Part]:
        present, past = _wide(first.weight).split(width, dim=1)
        for row, t in enumerate(kept):
            yield row, frames[t], present
            if t > 0:
                yield row, frames[t - 1], past

    def apart(conv: Any) -> Iterator[Part]:
        return ((row, row, _wide(conv.weight)) for row in range(len(kept)))

    def same() -> Iterator[Part]:
        identity = torch.eye(width, dtype=_wide(first.weight).dtype, device=first.weight.device)
        return ((row, frames[t], identity[:, :, None, None]) for row, t in enumerate(kept))

    rows, columns = len(kept), max(frames) + 1
    waits = (
        None if [frames[t] for t in kept] == list(range(columns)) else Kernel((), rows, columns, width, width, 1, same)
    )
    yield Convolve(Kernel((first,), rows, columns, width, width, 3, seen, first), opens=True)
    inner = partial(apart, second)
    yield Convolve(Kernel((second,), rows, rows, width, width, 3, inner, second), activation="relu")
    inner = partial(apart, third)
    yield Convolve(
        Kernel((third,), rows, rows, width, width, 3, inner, third),
        activation="relu",
        closes=True,
        skip=waits,
        relu=True,
        recuts=recuts,
    )


def _folded(time: Any, conv: Any, frames: list[int], last: bool) -> tuple[Convolve, list[int]]:
    """A pool or a growth and the convolution behind it, and where the frames are then."""
    pools = isinstance(time, Pool)
    check_conv(time.conv, 1)
    check_conv(conv, 3, 2 if pools else 1)
    width = int(conv.weight.shape[1])
    sources: list[tuple[int, ...]] = []
    """For each frame that leaves, the blocks of channels that it is made of."""
    if pools:
        sources = [tuple(frames[t : t + time.frames]) for t in range(0, len(frames), time.frames)]
    else:
        sources = [(frame, part) for frame in frames for part in range(time.frames)][-1 if last else 0 :]
    distinct = list(dict.fromkeys(sources))

    def parts() -> Iterator[Part]:
        kernel, ones = _wide(conv.weight), _wide(time.conv.weight).flatten(1)
        for row, source in enumerate(distinct):
            if pools:
                for column, of in zip(source, ones.split(width, dim=1), strict=True):
                    yield row, column, _behind(kernel, of)
            else:
                yield row, source[0], _behind(kernel, ones[source[1] * width : (source[1] + 1) * width])

    out = int(conv.weight.shape[0])
    kernel = Kernel((conv, time.conv), len(distinct), max(frames) + 1, out, width, 3, parts)
    return Convolve(kernel, resample="down" if pools else "up"), [distinct.index(source) for source in sources]


def _behind(kernel: Tensor, ones: Tensor) -> Tensor:
    """A 3×3 convolution of what a 1×1 one (middle, in) makes, as one kernel."""
    return torch.einsum("omyx,mi->oiyx", kernel, ones)


def _wide(weight: Tensor) -> Tensor:
    return weight.detach() if weight.dtype == torch.float64 else weight.detach().float()


@dataclass(frozen=True, eq=False)
class Kernel:
    """A convolution whose kernel is put together from a module's when it is asked for."""

    of: tuple[Any, ...]
    """The modules whose weights it is made of; the first one pads as it does."""
    rows: int
    columns: int
    out: int
    width: int
    """Channels of a block."""
    side: int
    parts: Callable[[], Iterator[Part]]
    biased: Any = None
    """The module whose bias every row has."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.rows * self.out, self.columns * self.width, self.side, self.side

    @property
    def weight(self) -> Tensor:
        found: Tensor | None = None
        for row, column, kernel in self.parts():
            found = kernel.new_zeros(self.shape) if found is None else found
            block = found[row * self.out : (row + 1) * self.out, column * self.width : (column + 1) * self.width]
            block += kernel  # the first frame's own past may stand in the same place
        assert found is not None
        return found

    @property
    def bias(self) -> Tensor | None:
        return None if self.biased is None else self.biased.bias.repeat(self.rows)

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self.side, self.side

    @property
    def padding(self) -> tuple[int, int]:
        return self.side // 2, self.side // 2

    @property
    def padding_mode(self) -> str:
        return self.of[0].padding_mode

    def parameters(self) -> Iterator[nn.Parameter]:
        for module in self.of:
            yield from module.parameters()
