"""Fold a colour map into a VAE's own weights: the decoder's last convolution, the encoder's first.

Both work on canonical ldm state dicts and leave their input alone. Pictures inside a VAE are in [-1, 1]: with
y = 2v − 1 the map v ↦ A·v + o becomes y ↦ A·y + (2o + A·1 − 1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vae_manager.color.matrix import invert
from vae_manager.errors import VaeFileError
from vae_manager.library.numbers import is_fp8

DECODER_OUT = "decoder.conv_out"
ENCODER_IN = "encoder.conv_in"


def signed(matrix: Tensor) -> Tensor:
    """The same map for pictures in [-1, 1]."""
    a, o = matrix[:, :3], matrix[:, 3:]
    return torch.cat([a, 2 * o + a.sum(1, keepdim=True) - 1], dim=1)


def fold_decoder(state: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    """A VAE whose decoder returns the mapped picture: W′ = A·W and b′ = A·b + o, exact at every pixel.

    The last convolution is linear and nothing follows it, so its padding does not matter.
    """
    weight, bias = _conv(state, DECODER_OUT, pictures_axis=0)
    m = signed(matrix).to(weight.device)
    folded = torch.einsum("ij,jkhw->ikhw", m[:, :3], weight), m[:, :3] @ bias + m[:, 3]
    return _with(state, DECODER_OUT, *folded)


def fold_encoder(state: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    """A VAE whose encoder takes pictures made by the mapped decoder, and undoes the map before it encodes.

    With the inverse y = N·x + n, conv_in becomes W′ = W·N and b′ = b + Σ W·n over the kernel. That is exact
    wherever the kernel lies inside the picture. On the outermost ring of pixels it is not: there the original
    sees zeros beyond the edge, the folded one N·0 + n, and plain weights have no way to say "pad with
    −N⁻¹n". What is exact everywhere is to undo the map on the picture, before the encoder: `matrix.apply` of
    `matrix.invert`.
    """
    weight, bias = _conv(state, ENCODER_IN, pictures_axis=1)
    n = invert(signed(matrix)).to(weight.device)
    folded = torch.einsum("ojhw,ji->oihw", weight, n[:, :3]), bias + torch.einsum("ojhw,j->o", weight, n[:, 3])
    return _with(state, ENCODER_IN, *folded)


def _conv(state: Mapping[str, Tensor], name: str, pictures_axis: int) -> tuple[Tensor, Tensor]:
    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    if weight is None or bias is None or weight.ndim != 4 or weight.shape[pictures_axis] != 3:
        raise VaeFileError(f"it has no convolution {name!r} for pictures of 3 channels, so no colour fits into it")
    return weight.double(), bias.double()


def _with(state: Mapping[str, Tensor], name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    dtype = state[f"{name}.weight"].dtype
    if is_fp8(dtype):  # 3 bits of mantissa would round most corrections away
        dtype = torch.float16
    folded = {f"{name}.weight": weight.to(dtype), f"{name}.bias": bias.to(dtype)}
    if not all(tensor.isfinite().all() for tensor in folded.values()):
        raise VaeFileError("the map is too strong for the precision of its weights; convert it to fp32 first")
    return {**state, **folded}
