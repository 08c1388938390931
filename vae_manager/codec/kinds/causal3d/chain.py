"""The layers of a causal 3-D autoencoder on a single picture, as steps that stream.

Its norms are a pixel's own, so that nothing has to be measured before the next layer: one pass could go from the
attention to the pixels. But each pass holds the weights of its layers made ready, which are larger than the maps where
these are small and wide. So a map is kept behind every block of the lower resolutions, and one pass goes through the
two highest, whose maps would be the largest. Where a level has a shortcut around it, its input is kept too until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder
from vae_manager.codec.streaming.chain import Chain, Stage, check_complete, check_conv
from vae_manager.codec.streaming.steps import Attend, Convolve, Step
from vae_manager.errors import VaeFileError

LARGEST, NARROW = 2, 320
"""So many of the highest resolutions are gone through without a map that is kept in between, if they are no wider."""


def causal_chain(vae: nn.Module, decodes: bool) -> Chain:
    """Describe that half of `vae`, which may be all that it has.

    Raises:
        VaeFileError: there is no such half, or something in it cannot be streamed.
    """
    coder: Any = getattr(vae, "decoder" if decodes else "encoder", None)
    if coder is None:
        raise VaeFileError("it has no encoder: not an autoencoder that can be streamed")
    stages = _decoder_stages(coder) if decodes else _encoder_stages(coder)
    padding = check_complete(coder, (step for stage in stages for step in stage.steps))
    if padding == "circular" and any(step.begins for stage in stages for step in stage.steps):
        raise VaeFileError("it pads circularly and has shortcuts around its levels: not supported by streaming")
    square, columns_first = _squares(vae, decodes)
    return Chain(
        decodes,
        stages,
        padding,
        pre=_around(vae, "post_quant_conv") if decodes else None,
        post=None if decodes else _around(vae, "quant_conv"),
        modes=("D",),
        rescales=False,
        frugal=True,
        square=square,
        columns_first=columns_first,
    )


def _squares(vae: nn.Module, decodes: bool) -> tuple[int, bool]:
    """Side of the squares of pixels inside, and their order; a half alone takes and gives them as channels."""
    if not isinstance(vae, CausalAutoencoder):
        return 1, False
    square = vae.config.square
    return (square, True) if square > 1 else (vae.config.enlarges if decodes else 1, False)


def _decoder_stages(decoder: Any) -> tuple[Stage, ...]:
    parts: list[list[Step]] = [[Convolve(check_conv(decoder.conv_in, 3))], *_mid(decoder.mid)]
    merged = len(parts)
    for i, level in reversed(list(enumerate(decoder.up))):
        blocks = [_block(block) for block in level.block]
        if hasattr(level, "upsample"):
            blocks.append([Convolve(check_conv(level.upsample.conv, 3), resample="up")])
        if not _is_large(i, blocks):
            merged = len(parts) + len(blocks) - 1  # what enlarges the map for those that follow is theirs
        parts += _around_level(blocks, level)
    parts[-1].append(_out(decoder))
    parts[merged:] = [_all(parts[merged:])]
    return tuple(Stage(tuple(part)) for part in parts)


def _encoder_stages(encoder: Any) -> tuple[Stage, ...]:
    parts: list[list[Step]] = []
    for i, level in enumerate(encoder.down):
        blocks = [_block(block) for block in level.block]
        if hasattr(level, "downsample"):
            conv = check_conv(level.downsample.conv, 3, stride=2, padding=0)
            blocks.append([Convolve(conv, resample="down", border=False)])
        around = _around_level(blocks, level)
        parts += [_all(around)] if _is_large(i, blocks) else around
    first: list[Step] = [Convolve(check_conv(encoder.conv_in, 3))]
    if len(parts) > 1 and _is_large(0, parts[:1]):
        parts[0] = [*first, *parts[0]]
    else:
        parts.insert(0, first)
    last = _mid(encoder.mid)
    last[-1].append(_out(encoder))
    return tuple(Stage(tuple(part)) for part in (*parts, *last))


def _is_large(i: int, blocks: Sequence[Sequence[Any]]) -> bool:
    """Whether a level's maps weigh more than its weights."""
    return i < LARGEST and max(step.c_out for step in blocks[0]) <= NARROW


def _all(parts: Sequence[Sequence[Any]]) -> list[Any]:
    return [step for part in parts for step in part]


def _around_level(blocks: list[list[Any]], level: Any) -> list[list[Any]]:
    """A level's parts, from the first step of which to the last its shortcut goes, where there is one."""
    if level.shortcut is not None:
        blocks[0] = [replace(blocks[0][0], begins=True), *blocks[0][1:]]
        blocks[-1] = [*blocks[-1][:-1], replace(blocks[-1][-1], ends=level.shortcut)]
    return blocks


def _mid(mid: Any) -> list[list[Step]]:
    between: list[list[Step]] = [[_attention(mid.attn_1)]] if hasattr(mid, "attn_1") else []
    return [_block(mid.block_1), *between, _block(mid.block_2)]


def _block(block: Any) -> list[Any]:
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
