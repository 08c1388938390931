"""Self-attention over a whole map in bounded memory: keys and values whole, queries in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.codec.streaming.flow import Terms
from vae_manager.codec.streaming.kernels import live_weight


def query_chunk(positions: int, budget: int) -> int:
    """How many queries fit: a backend that makes the score matrix holds it twice, in float32."""
    return max(1, min(positions, budget // (8 * positions)))


def attention_bytes(positions: int, channels: int, terms: Terms) -> int:
    """What `attend` takes besides x: the normalised map, keys, values, weights, a chunk of queries and its scores."""
    chunk, item = query_chunk(positions, terms.attention_bytes), terms.item
    wide = 4 // item if item < 4 else 1
    scores = 8 * chunk * positions
    if _is_fused(channels, terms.device, terms.dtype):
        # the kernel's own tiles, one set for each thread
        tiles = min(FUSED_QUERIES, positions) * (min(FUSED_KEYS, positions) + channels)
        scores = min(scores, 8 * tiles * torch.get_num_threads())
    weights = (4 if wide == 1 else 7) * channels  # of half precision, v and out are put together in float32
    return item * channels * (positions * (2 + wide) + 4 * chunk + weights) + scores


FUSED_QUERIES, FUSED_KEYS = 256, 512
"""Tiles of torch's attention on a CPU (ATen `FlashAttentionKernel.cpp`)."""


@cache
def _is_fused(channels: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Does torch compute attention of this width there without making the scores? Only of a CPU's kernel is known
    what it takes instead."""
    choice = getattr(torch, "_fused_sdp_choice", None)
    if device.type != "cpu" or choice is None:
        return False
    q = torch.empty(1, 1, 2, channels, dtype=dtype)
    try:
        with torch.no_grad():
            return int(choice(q, q, q)) != 0
    except (RuntimeError, TypeError):
        return False


def affine(scale: Tensor, shift: Tensor) -> Callable[[Tensor], Tensor]:
    """A norm whose statistics are known, as scale and shift per channel (`moments.norm_affine`)."""
    return lambda x: torch.addcmul(shift, x, scale).to(x.dtype)


def attend(
    x: Tensor,
    layers: tuple[Any, Any, Any, Any],
    normalise: Callable[[Tensor], Tensor],
    budget: int,
    exponents: tuple[int, int],
    tick: Callable[[float], None],
) -> Tensor:
    """x + out(softmax(q·k / √C) v), in place; x is (H, W, C), channels-last.

    Args:
        layers: q, k, v and out, each a 1×1 convolution or linear.
        normalise: the norm before q, k and v, of pixels (positions, C).
        budget: bytes that the scores of one chunk of queries may take.
        exponents: x holds the map times 2^−first; the result holds it times 2^−second.
        tick: called after each chunk with its share of the whole.
    """
    q_layer, k_layer, v_layer, out_layer = layers
    flat = x.view(-1, x.shape[-1])
    normed = normalise(flat)
    q_weight, q_bias = _linear(q_layer, x)
    value_weight, value_bias = _values(v_layer, out_layer, x, 2.0 ** -exponents[1])
    k = F.linear(normed, *_linear(k_layer, x))[None, None]
    v = F.linear(normed, value_weight)[None, None]
    chunk = query_chunk(flat.shape[0], budget)
    # Equal chunks: a short last one would cost as much as a full one on a GPU.
    chunk = math.ceil(flat.shape[0] / math.ceil(flat.shape[0] / chunk))
    for rows, x_rows in zip(normed.split(chunk), flat.split(chunk)):
        q = F.linear(rows, q_weight, q_bias)[None, None]
        found = F.scaled_dot_product_attention(q, k, v)[0, 0]
        if exponents[0] != exponents[1]:
            x_rows *= 2.0 ** (exponents[0] - exponents[1])
        x_rows += found if value_bias is None else found.add_(value_bias)
        tick(x_rows.shape[0] / flat.shape[0])
    return x


def _values(v_layer: Any, out_layer: Any, like: Tensor, factor: float) -> tuple[Tensor, Tensor | None]:
    """v and out as one layer. Weights of a softmax add up to 1, so that

        out(Σ p·(V n + v)) + o = Σ p·(O V n) + (O v + o)

    and the projection of the result is none any more. Put together in float32 at least, and rounded once.
    """
    wide = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
    (v_weight, v_bias), (out_weight, out_bias) = _linear(v_layer, wide), _linear(out_layer, wide, factor)
    shifts = [shift for shift in (None if v_bias is None else out_weight @ v_bias, out_bias) if shift is not None]
    return (out_weight @ v_weight).to(like.dtype), sum(shifts[1:], shifts[0]).to(like.dtype) if shifts else None


def _linear(layer: Any, like: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Weight (C', C) and bias of a 1×1 convolution or a linear layer."""
    weight, bias = live_weight(layer, like, factor, factor)
    return weight.reshape(weight.shape[0], -1), bias
