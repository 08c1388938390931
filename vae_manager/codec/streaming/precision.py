"""Half precision without overflow: streams divided by powers of two, the function unchanged.

SDXL's original VAE runs past float16's 65504 in its residual stream. A map may be stored as x·2^−e instead: the
convolution that writes it takes its weight and bias times 2^−e, a residual input is added times a power of two,
and the GroupNorm that reads it takes eps·4^−e (`moments.norm_affine`). Powers of two change no bit of a mantissa,
so in exact arithmetic nothing changes, and in float16 only what would have overflowed.

The exponent comes from a bound on the map before it is computed: |convolution| ≤ Σ|w|·amplitude + |b|, where a
channel's amplitude is |mean| + 8 std of its exact statistics. The sum of magnitudes exceeds a real output by a
factor of about 100, which leaves room for outliers; float16 keeps its full mantissa over 2³⁰, so a map that is
divided by more than it needs loses nothing either.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae_manager.codec.streaming.constants import Pair
from vae_manager.codec.streaming.moments import Moments

LARGEST = 2.0**15
"""What a bound may reach in float16 (largest finite value: 65504)."""


def amplitude(moments: Moments) -> Tensor:
    """A channel's amplitude (C,), float64: |mean| + 8 standard deviations."""
    return moments.mean.abs() + 8 * moments.var.sqrt()


def activated_amplitude(moments: Moments, scale: Tensor, shift: Tensor) -> Tensor:
    """Amplitude of silu(x·scale + shift): SiLU never exceeds its argument's magnitude."""
    return (moments.mean * scale + shift).abs() + 8 * moments.var.sqrt() * scale.abs()


def convolved_amplitude(magnitudes: Pair, incoming: Tensor) -> Tensor:
    """Bound (C',) of a convolution's output for an input of these amplitudes (C,); see `Constants.magnitudes`."""
    sums, bias = magnitudes
    bound = sums @ incoming
    return bound if bias is None else bound + bias


def exponent_for(bound: Tensor, dtype: torch.dtype) -> int:
    """The smallest e ≥ 0 for which bound·2^−e stays below float16's range; 0 for every other dtype."""
    largest = float(bound.max())
    if dtype != torch.float16 or not math.isfinite(largest) or largest <= LARGEST:
        return 0
    return math.ceil(math.log2(largest / LARGEST))
