"""Read the layers of a KL autoencoder from whatever module tree holds them.

Three layouts are in the field, and all of them are the same network:

- ldm (CompVis): A1111, Forge's `IntegratedAutoencoderKL`, ldm_patched, and our own `AutoencoderKL`;
- diffusers: `AutoencoderKL`.

`decoder_chain` and `encoder_chain` describe either as stages of one resolution each. The description refers to
the live modules: no weight is copied. What is not understood is refused by a sentence, and a parameter that no
layer of the description uses is "not understood": nothing can be left out silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from vae_manager.errors import VaeFileError


@dataclass(frozen=True, eq=False)
class Block:
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), the x through `skip` (1×1) where the width changes."""

    norm1: nn.Module
    conv1: nn.Module
    norm2: nn.Module
    conv2: nn.Module
    skip: nn.Module | None


@dataclass(frozen=True, eq=False)
class Attention:
    """x + out(softmax(q·k / √C) v) over all positions, one head; q, k, v, out are 1×1 convolutions or linear."""

    norm: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    out: nn.Module


Item = Block | Attention


@dataclass(frozen=True, eq=False)
class Stage:
    """The layers of one resolution: a head that brings the map there, the items, and a tail that leaves it."""

    head: nn.Module | None
    """3×3 convolution: `conv_in`, or the one behind a nearest upsampling; None when the map arrives as it is."""
    upsamples: bool
    """The head doubles the resolution before its convolution."""
    items: tuple[Item, ...]
    norm_out: nn.Module | None
    """The norm before a last convolution."""
    tail: nn.Module | None
    """`conv_out` behind `norm_out`, or the strided convolution of a downsampling; None: the map leaves as it is."""

    @property
    def downsamples(self) -> bool:
        return self.tail is not None and self.norm_out is None


@dataclass(frozen=True, eq=False)
class Chain:
    """A decoder or an encoder: its stages in order, and the 1×1 convolution on the latent's side of it."""

    decodes: bool
    stages: tuple[Stage, ...]
    pre: nn.Module | None
    """`post_quant_conv`, before a decoder."""
    post: nn.Module | None
    """`quant_conv`, behind an encoder."""
    tanh: bool
    """The decoder ends in a tanh (ldm's `tanh_out`)."""
    wraps: bool
    """Seamless tiling: the convolutions pad circularly, along both axes."""

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** (len(self.stages) - 1)


def decoder_chain(vae: nn.Module) -> Chain:
    """Describe `vae.decoder` (and `vae.post_quant_conv`, where there is one).

    Raises:
        VaeFileError: there is no decoder, or something in it is not a plain KL decoder's.
    """
    decoder = _part(vae, "decoder")
    if hasattr(decoder, "up_blocks"):
        levels = [(u.resnets, u.attentions, u.upsamplers) for u in map(_Level, decoder.up_blocks)]
        mid, norm_out = _diffusers_mid(decoder), decoder.conv_norm_out
    elif hasattr(decoder, "up"):
        levels = [(u.block, getattr(u, "attn", ()), _maybe(u, "upsample")) for u in reversed(list(decoder.up))]
        mid, norm_out = _ldm_mid(decoder), decoder.norm_out
    else:
        raise VaeFileError("its decoder has neither 'up' (ldm) nor 'up_blocks' (diffusers): not a KL autoencoder")
    if getattr(decoder, "give_pre_end", False):
        raise VaeFileError("its decoder is set to stop before its last layers ('give_pre_end')")

    stages: list[Stage] = []
    head, items = decoder.conv_in, mid
    for i, (blocks, attentions, resamplers) in enumerate(levels):
        last = i + 1 == len(levels)
        items += _blocks(blocks, attentions)
        stages.append(
            Stage(
                head=head,
                upsamples=i > 0,
                items=tuple(items),
                norm_out=norm_out if last else None,
                tail=decoder.conv_out if last else None,
            )
        )
        if last:
            _expect_none(resamplers, "an upsampling behind the last level")
        else:
            head, items = _resample_conv(resamplers, "upsampling"), []
    pre = _maybe_module(vae, "post_quant_conv") or _maybe_module(vae, "post_conv")  # the latter in a LiteVAE
    return _checked(True, decoder, stages, pre, None)


def encoder_chain(vae: nn.Module) -> Chain:
    """Describe `vae.encoder` (and `vae.quant_conv`, where there is one).

    Raises:
        VaeFileError: there is no encoder, or something in it is not a plain KL encoder's.
    """
    encoder = _part(vae, "encoder")
    if hasattr(encoder, "down_blocks"):
        levels = [(d.resnets, d.attentions, d.downsamplers) for d in map(_Level, encoder.down_blocks)]
        mid, norm_out = _diffusers_mid(encoder), encoder.conv_norm_out
    elif hasattr(encoder, "down"):
        levels = [(d.block, getattr(d, "attn", ()), _maybe(d, "downsample")) for d in encoder.down]
        mid, norm_out = _ldm_mid(encoder), encoder.norm_out
    else:
        raise VaeFileError("its encoder has neither 'down' (ldm) nor 'down_blocks' (diffusers): not a KL autoencoder")

    stages: list[Stage] = []
    for i, (blocks, attentions, resamplers) in enumerate(levels):
        last = i + 1 == len(levels)
        if last:
            _expect_none(resamplers, "a downsampling behind the last level")
        stages.append(
            Stage(
                head=encoder.conv_in if i == 0 else None,
                upsamples=False,
                items=tuple(_blocks(blocks, attentions) + (mid if last else [])),
                norm_out=norm_out if last else None,
                tail=encoder.conv_out if last else _resample_conv(resamplers, "downsampling"),
            )
        )
    return _checked(False, encoder, stages, None, _maybe_module(vae, "quant_conv"))


# --- the parts of the two layouts


def _part(vae: nn.Module, name: str) -> Any:
    part = getattr(vae, name, None)
    if not isinstance(part, nn.Module):
        raise VaeFileError(f"it has no {name}: not an autoencoder that can be streamed")
    for attribute in ("conv_in", "conv_out"):
        if not hasattr(part, attribute):
            raise VaeFileError(f"its {name} has no {attribute!r}: not a KL autoencoder")
    return part


def _maybe(module: nn.Module, name: str) -> list[Any]:
    found = getattr(module, name, None)
    return [] if found is None else [found]


def _maybe_module(module: nn.Module, name: str) -> nn.Module | None:
    found = getattr(module, name, None)
    return found if isinstance(found, nn.Module) and not isinstance(found, nn.Identity) else None


def _ldm_mid(coder: Any) -> list[Item]:
    mid = coder.mid
    if not hasattr(mid, "block_1"):
        raise VaeFileError("its mid block is not ldm's: not a plain KL autoencoder")
    items: list[Item] = [_block(mid.block_1)]
    attention = _maybe_module(mid, "attn_1")
    if attention is not None:
        items.append(_attention(attention))
    return [*items, _block(mid.block_2)]


def _diffusers_mid(coder: Any) -> list[Item]:
    mid = coder.mid_block
    resnets, attentions = list(mid.resnets), list(mid.attentions)
    if len(resnets) != 2 or len(attentions) > 1:
        raise VaeFileError(f"its mid block has {len(resnets)} residual blocks and {len(attentions)} attentions")
    between = [_attention(a) for a in attentions if a is not None]
    return [_block(resnets[0]), *between, _block(resnets[1])]


class _Level:
    """A diffusers level with the lists that it may lack read as empty."""

    def __init__(self, block: Any) -> None:
        self.resnets = block.resnets
        self.attentions = getattr(block, "attentions", None) or ()
        self.upsamplers = list(getattr(block, "upsamplers", None) or ())
        self.downsamplers = list(getattr(block, "downsamplers", None) or ())


def _blocks(blocks: Any, attentions: Any) -> list[Item]:
    if len(list(attentions)):
        raise VaeFileError("it has attention at another resolution than the lowest: not supported by streaming")
    return [_block(block) for block in blocks]


def _block(block: Any) -> Block:
    for name in ("temb_proj", "time_emb_proj"):
        if _maybe_module(block, name) is not None:
            raise VaeFileError("its residual blocks take a time embedding: not a KL autoencoder")
    if getattr(block, "output_scale_factor", 1.0) != 1.0:
        raise VaeFileError("its residual blocks scale their output: not supported by streaming")
    dropout = getattr(block, "dropout", None)
    if block.training and getattr(dropout, "p", 0.0):
        raise VaeFileError("its dropout is active: call eval() on it first")
    skip = _maybe_module(block, "nin_shortcut") or _maybe_module(block, "conv_shortcut")
    for conv in (block.conv1, block.conv2):
        check_conv(conv, 3)
    if skip is not None:
        check_conv(skip, 1)
    return Block(_norm(block.norm1), block.conv1, _norm(block.norm2), block.conv2, skip)


def _attention(attention: Any) -> Attention:
    if hasattr(attention, "to_q"):
        if getattr(attention, "heads", 1) != 1:
            raise VaeFileError(f"its attention has {attention.heads} heads: not supported by streaming")
        if getattr(attention, "spatial_norm", None) is not None or getattr(attention, "rescale_output_factor", 1) != 1:
            raise VaeFileError("its attention has a spatial norm or a scaled output: not supported by streaming")
        return Attention(
            _norm(attention.group_norm), attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]
        )
    if not all(hasattr(attention, name) for name in ("norm", "q", "k", "v", "proj_out")):
        raise VaeFileError(f"its mid attention {type(attention).__name__!r} has no q, k, v, proj_out")
    for conv in (attention.q, attention.k, attention.v, attention.proj_out):
        check_conv(conv, 1)
    return Attention(_norm(attention.norm), attention.q, attention.k, attention.v, attention.proj_out)


def _norm(norm: Any) -> nn.Module:
    if not all(hasattr(norm, name) for name in ("num_groups", "eps", "weight", "bias")):
        raise VaeFileError(f"its norm {type(norm).__name__!r} is not a GroupNorm: not supported by streaming")
    return norm


def _resample_conv(resamplers: list[Any], what: str) -> nn.Module:
    if len(resamplers) != 1 or _maybe_module(resamplers[0], "conv") is None:
        raise VaeFileError(f"its {what} has no convolution of its own: not supported by streaming")
    return resamplers[0].conv


def _expect_none(resamplers: list[Any], what: str) -> None:
    if resamplers:
        raise VaeFileError(f"it has {what}: not supported by streaming")


# --- checks


def check_conv(conv: Any, kernel: int, stride: int = 1, padding: int | None = None) -> None:
    padding = kernel // 2 if padding is None else padding
    facts = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    if facts != ((kernel,) * 2, (stride,) * 2, (padding,) * 2, (1, 1), 1):
        raise VaeFileError(
            f"a convolution of it has kernel, stride, padding, dilation, groups {facts}: not supported by streaming"
        )
    if conv.padding_mode not in ("zeros", "circular"):
        raise VaeFileError(f"a convolution of it pads with {conv.padding_mode!r}: not supported by streaming")
    for name in ("weight_function", "bias_function", "forge_online_loras"):
        if getattr(conv, name, None):
            raise VaeFileError(f"a convolution of it is patched at call time ({name}): bake the patch first")


def _checked(decodes: bool, coder: Any, stages: list[Stage], pre: nn.Module | None, post: nn.Module | None) -> Chain:
    """Check the convolutions of the stages, and that the description uses every parameter of the coder."""
    used: set[int] = set()
    modes: set[str] = set()
    for stage in stages:
        if stage.downsamples:
            check_conv(stage.tail, 3, stride=2, padding=0)
        elif stage.tail is not None:
            check_conv(stage.tail, 3)
        if stage.head is not None:
            check_conv(stage.head, 3)
        if stage.norm_out is not None:
            _norm(stage.norm_out)
        for module in stage_modules(stage):
            used.update(id(parameter) for parameter in module.parameters())
            if getattr(module, "kernel_size", None) == (3, 3) and getattr(module, "padding", None) == (1, 1):
                modes.add(str(module.padding_mode))
    unused = [name for name, parameter in coder.named_parameters() if id(parameter) not in used]
    if unused:
        raise VaeFileError(f"its parameter {unused[0]!r} belongs to no layer that streaming knows")
    if len(modes) > 1:
        raise VaeFileError("some of its convolutions pad circularly and some do not: not supported by streaming")
    for conv in (pre, post):
        if conv is not None:
            check_conv(conv, 1)
    tanh = bool(getattr(coder, "tanh_out", False))
    return Chain(decodes, tuple(stages), pre, post, tanh, wraps=modes == {"circular"})


def stage_modules(stage: Stage) -> Iterator[nn.Module]:
    """Every module of a stage that holds parameters."""
    for module in (stage.head, stage.norm_out, stage.tail):
        if module is not None:
            yield module
    for item in stage.items:
        for module in vars(item).values():
            if module is not None:
                yield module
