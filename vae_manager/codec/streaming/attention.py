"""Self-attention over a whole map in bounded memory: keys and values whole, queries in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.codec.streaming.kernels import live_weight
from vae_manager.codec.streaming.structure import Attention


def query_chunk(positions: int, budget: int) -> int:
    """How many queries fit: a backend that makes the score matrix holds it twice, in float32."""
    return max(1, min(positions, budget // (8 * positions)))


def attend(
    x: Tensor,
    attention: Attention,
    scale: Tensor,
    shift: Tensor,
    budget: int,
    exponents: tuple[int, int],
    tick: Callable[[float], None],
) -> Tensor:
    """x + out(softmax(q·k / √C) v), in place; x is (H, W, C), channels-last.

    Args:
        scale, shift: the norm before q, k and v, per channel (`moments.norm_affine`).
        budget: bytes that the scores of one chunk of queries may take.
        exponents: x holds the map times 2^−first; the result holds it times 2^−second.
        tick: called after each chunk with its share of the whole.
    """
    flat = x.view(-1, x.shape[-1])
    normed = torch.addcmul(shift, flat, scale).to(x.dtype)
    q_weight, q_bias = _linear(attention.q, x)
    out_weight, out_bias = _linear(attention.out, x, 2.0 ** -exponents[1])
    k, v = (F.linear(normed, *_linear(layer, x))[None, None] for layer in (attention.k, attention.v))
    chunk = query_chunk(flat.shape[0], budget)
    # Equal chunks: a short last one would cost as much as a full one on a GPU.
    chunk = math.ceil(flat.shape[0] / math.ceil(flat.shape[0] / chunk))
    for rows, x_rows in zip(normed.split(chunk), flat.split(chunk)):
        q = F.linear(rows, q_weight, q_bias)[None, None]
        found = F.scaled_dot_product_attention(q, k, v)[0, 0]
        if exponents[0] != exponents[1]:
            x_rows *= 2.0 ** (exponents[0] - exponents[1])
        x_rows += F.linear(found, out_weight, out_bias)
        tick(x_rows.shape[0] / flat.shape[0])
    return x


def _linear(layer: torch.nn.Module, like: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Weight (C', C) and bias of a 1×1 convolution or a linear layer."""
    weight, bias = live_weight(layer, like, factor, factor)
    return weight.reshape(weight.shape[0], -1), bias
