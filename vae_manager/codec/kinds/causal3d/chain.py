"""The layers of a causal 3-D autoencoder on a single picture, as steps that stream.

Its norms are a pixel's own, so that nothing has to be measured before the next layer: where no attention stands, one
pass goes through all levels. Maps are kept around the attention and between the levels where they are small.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder
from vae_manager.codec.streaming.chain import Chain, Stage, check_complete, check_conv
from vae_manager.codec.streaming.steps import Attend, Convolve, Step
from vae_manager.errors import VaeFileError


def causal_chain(vae: nn.Module, decodes: bool) -> Chain:
    """Describe that half of `vae`, which may be all that it has.

    Raises:
        VaeFileError: there is no such half, or something in it cannot be streamed.
    """
    coder: Any = getattr(vae, "decoder" if decodes else "encoder", None)
    if coder is None:
        raise VaeFileError("it has no encoder: not an autoencoder that can be streamed")
    stages = _decoder_stages(coder) if decodes else _encoder_stages(coder)
    return Chain(
        decodes,
        stages,
        check_complete(coder, (step for stage in stages for step in stage.steps)),
        pre=_around(vae, "post_quant_conv") if decodes else None,
        post=None if decodes else _around(vae, "quant_conv"),
        modes=("D",),
        rescales=False,
        enlarges=vae.config.enlarges if decodes and isinstance(vae, CausalAutoencoder) else 1,
    )


def _decoder_stages(decoder: Any) -> tuple[Stage, ...]:
    """A stage for each level; the last two are one, so that the largest map that is kept is of a quarter's side."""
    levels: list[list[Step]] = []
    steps: list[Step] = [Convolve(check_conv(decoder.conv_in, 3)), *_mid(decoder.mid)]
    for level in reversed(list(decoder.up)):
        steps += [step for block in level.block for step in _block(block)]
        levels.append(steps)
        if hasattr(level, "upsample"):
            steps = [Convolve(check_conv(level.upsample.conv, 3), resample="up")]
    levels[-1].append(_out(decoder))
    if len(levels) > 2:
        levels[-2:] = [levels[-2] + levels[-1]]
    return tuple(Stage(tuple(level)) for level in levels)


def _encoder_stages(encoder: Any) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    steps: list[Step] = [Convolve(check_conv(encoder.conv_in, 3))]
    for level in encoder.down:
        steps += [step for block in level.block for step in _block(block)]
        if hasattr(level, "downsample"):
            conv = check_conv(level.downsample.conv, 3, stride=2, padding=0)
            stages.append(Stage((*steps, Convolve(conv, resample="down", border=False))))
            steps = []
    return (*stages, Stage((*steps, *_mid(encoder.mid), _out(encoder))))


def _mid(mid: Any) -> list[Step]:
    between = [_attention(mid.attn_1)] if hasattr(mid, "attn_1") else []
    return [*_block(mid.block_1), *between, *_block(mid.block_2)]


def _block(block: Any) -> list[Step]:
    skip = check_conv(block.shortcut, 1) if hasattr(block, "shortcut") else None
    return [
        Convolve(check_conv(block.conv1, 3), pixel_norm=block.norm1, activation="silu", opens=True),
        Convolve(
            check_conv(block.conv2, 3),
            pixel_norm=block.norm2,
            activation="silu",
            closes=True,
            skip=skip,
            recuts=True,
        ),
    ]


def _out(coder: Any) -> Step:
    return Convolve(check_conv(coder.conv_out, 3), pixel_norm=coder.norm_out, activation="silu")


def _attention(attention: Any) -> Attend:
    qkv = check_conv(attention.to_qkv, 1)
    q, k, v = (_Third(qkv, i) for i in range(3))
    return Attend(None, q, k, v, check_conv(attention.proj, 1), pixel_norm=attention.norm)


class _Third:
    """The rows of a 1×1 convolution that make queries, keys or values."""

    def __init__(self, conv: Any, part: int) -> None:
        self._conv, self._part = conv, part

    @property
    def weight(self) -> Tensor:
        return self._conv.weight.chunk(3)[self._part]

    @property
    def bias(self) -> Tensor | None:
        return None if self._conv.bias is None else self._conv.bias.chunk(3)[self._part]

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._conv.parameters()


def _around(vae: nn.Module, name: str) -> Any:
    conv = getattr(vae, name, None)
    return None if conv is None else check_conv(conv, 1)
