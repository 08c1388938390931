"""Read the layers of a KL autoencoder from whatever module tree holds them.

Three layouts are in the field, and all of them are the same network:

- ldm (CompVis): A1111, Forge's `IntegratedAutoencoderKL`, ldm_patched, and our own `AutoencoderKL`;
- diffusers: `AutoencoderKL`.

`decoder_chain` and `encoder_chain` describe either as stages of one resolution each:

    in | up     the 3×3 convolution that brings the map to this resolution            → x
    open        norm1 → SiLU → conv1 of a residual block                              → h (beside x)
    close       norm2 → SiLU → conv2, plus x or its 1×1 shortcut                      → the next x
    attend      self-attention over the whole map                                     → the next x
    down | out  the strided convolution, or norm_out → SiLU → conv_out                → the stage's result

The description refers to the live modules: no weight is copied. What is not understood is refused by a sentence, and
a parameter that no layer of the description uses is "not understood": nothing can be left out silently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vae_manager.codec.streaming.chain import Chain, Stage, check_complete, check_conv
from vae_manager.codec.streaming.steps import Attend, Convolve, Step
from vae_manager.errors import VaeFileError


def decoder_chain(vae: nn.Module, before: str = "post_quant_conv") -> Chain:
    """Describe `vae.decoder`, and the 1×1 convolution of the name `before`, where there is one.

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
    steps: list[Step] = [Convolve(check_conv(decoder.conv_in, 3)), *mid]
    for i, (blocks, attentions, resamplers) in enumerate(levels):
        steps += _blocks(blocks, attentions)
        if i + 1 == len(levels):
            _expect_none(resamplers, "an upsampling behind the last level")
            steps.append(_out(norm_out, decoder.conv_out))
        stages.append(Stage(tuple(steps)))
        if i + 1 < len(levels):
            steps = [Convolve(check_conv(_resample_conv(resamplers, "upsampling"), 3), resample="up")]
    pre = _maybe_module(vae, before)
    padding = check_complete(decoder, (step for stage in stages for step in stage.steps))
    return Chain(
        True,
        tuple(stages),
        padding,
        pre=None if pre is None else check_conv(pre, 1),
        leave=torch.tanh if getattr(decoder, "tanh_out", False) else None,  # ldm's
    )


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
    steps: list[Step] = [Convolve(check_conv(encoder.conv_in, 3))]
    for i, (blocks, attentions, resamplers) in enumerate(levels):
        steps += _blocks(blocks, attentions)
        if i + 1 == len(levels):
            _expect_none(resamplers, "a downsampling behind the last level")
            steps += [*mid, _out(norm_out, encoder.conv_out)]
        else:
            conv = check_conv(_resample_conv(resamplers, "downsampling"), 3, stride=2, padding=0)
            steps.append(Convolve(conv, resample="down", border=False))
        stages.append(Stage(tuple(steps)))
        steps = []
    padding = check_complete(encoder, (step for stage in stages for step in stage.steps))
    post = _maybe_module(vae, "quant_conv")
    return Chain(
        False,
        tuple(stages),
        padding,
        post=None if post is None else check_conv(post, 1),
        leave=torch.tanh if getattr(encoder, "tanh_out", False) else None,
    )


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


def _ldm_mid(coder: Any) -> list[Step]:
    mid = coder.mid
    if not hasattr(mid, "block_1"):
        raise VaeFileError("its mid block is not ldm's: not a plain KL autoencoder")
    attention = _maybe_module(mid, "attn_1")
    between = [] if attention is None else [_attention(attention)]
    return [*_block(mid.block_1), *between, *_block(mid.block_2)]


def _diffusers_mid(coder: Any) -> list[Step]:
    mid = coder.mid_block
    resnets, attentions = list(mid.resnets), list(mid.attentions)
    if len(resnets) != 2 or len(attentions) > 1:
        raise VaeFileError(f"its mid block has {len(resnets)} residual blocks and {len(attentions)} attentions")
    between = [_attention(a) for a in attentions if a is not None]
    return [*_block(resnets[0]), *between, *_block(resnets[1])]


class _Level:
    """A diffusers level with the lists that it may lack read as empty."""

    def __init__(self, block: Any) -> None:
        self.resnets = block.resnets
        self.attentions = getattr(block, "attentions", None) or ()
        self.upsamplers = list(getattr(block, "upsamplers", None) or ())
        self.downsamplers = list(getattr(block, "downsamplers", None) or ())


def _blocks(blocks: Any, attentions: Any) -> list[Step]:
    if len(list(attentions)):
        raise VaeFileError("it has attention at another resolution than the lowest: not supported by streaming")
    return [step for block in blocks for step in _block(block)]


def _block(block: Any) -> list[Step]:
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), the x through `skip` (1×1) where the width changes."""
    for name in ("temb_proj", "time_emb_proj"):
        if _maybe_module(block, name) is not None:
            raise VaeFileError("its residual blocks take a time embedding: not a KL autoencoder")
    if getattr(block, "output_scale_factor", 1.0) != 1.0:
        raise VaeFileError("its residual blocks scale their output: not supported by streaming")
    dropout = getattr(block, "dropout", None)
    if block.training and getattr(dropout, "p", 0.0):
        raise VaeFileError("its dropout is active: call eval() on it first")
    skip = _maybe_module(block, "nin_shortcut") or _maybe_module(block, "conv_shortcut")
    skip = None if skip is None else check_conv(skip, 1)
    first = Convolve(check_conv(block.conv1, 3), _norm(block.norm1), "silu", opens=True)
    return [
        first,
        Convolve(check_conv(block.conv2, 3), _norm(block.norm2), "silu", closes=True, skip=skip, recuts=True),
    ]


def _out(norm: Any, conv: Any) -> Step:
    return Convolve(check_conv(conv, 3), _norm(norm), "silu")


def _attention(attention: Any) -> Attend:
    if hasattr(attention, "to_q"):
        if getattr(attention, "heads", 1) != 1:
            raise VaeFileError(f"its attention has {attention.heads} heads: not supported by streaming")
        if getattr(attention, "spatial_norm", None) is not None or getattr(attention, "rescale_output_factor", 1) != 1:
            raise VaeFileError("its attention has a spatial norm or a scaled output: not supported by streaming")
        return Attend(_norm(attention.group_norm), attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    if not all(hasattr(attention, name) for name in ("norm", "q", "k", "v", "proj_out")):
        raise VaeFileError(f"its mid attention {type(attention).__name__!r} has no q, k, v, proj_out")
    for conv in (attention.q, attention.k, attention.v, attention.proj_out):
        check_conv(conv, 1)
    return Attend(_norm(attention.norm), attention.q, attention.k, attention.v, attention.proj_out)


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
