"""Other programs' ways to decode and encode in less memory, for the tables: made anew from what they do."""

# pyright: basic
from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONV_TILE = 128
"""Forge Neo's `--tiled-conv2d` takes 64, 128, 256 or 512."""

TILE, OVERLAP = 64, 8
"""In latent pixels, as ComfyUI's node *VAE Decode (Tiled)* has them by itself: 512 and 64 pixels."""

Coder = Callable[[Tensor], Tensor]


def convolve_in_tiles(vae: nn.Module, side: int = CONV_TILE) -> None:
    """Forge Neo's `--tiled-conv2d`: every 3×3 convolution in tiles, layer by layer; all else on the whole map."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride) == ((3, 3), (1, 1)):
            module.forward = _in_tiles(module, side)  # type: ignore[method-assign]


def _in_tiles(conv: nn.Conv2d, side: int) -> Coder:
    whole = conv.forward

    def forward(x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        if max(height, width) <= side:
            return whole(x)
        out = x.new_empty(count, conv.out_channels, height, width)
        for top, left in product(range(0, height, side), range(0, width, side)):
            bottom, right = min(top + side, height), min(left + side, width)
            around = x[:, :, max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
            edges = (int(left == 0), int(right == width), int(top == 0), int(bottom == height))
            out[:, :, top:bottom, left:right] = F.conv2d(F.pad(around, edges), conv.weight, conv.bias)
        return out

    return forward


def averaged_tiles(coder: Coder, x: Tensor, decodes: bool, ratio: int = 8, tile: int = TILE) -> Tensor:
    """ComfyUI's way: tiles of three shapes, each blended over its overlaps, and the mean of the three."""
    unit = 1 if decodes else ratio
    scale = Fraction(ratio) if decodes else Fraction(1, ratio)
    shapes = ((tile, tile), (2 * tile, tile // 2), (tile // 2, 2 * tile))
    passes = [_blended(coder, x, (h * unit, w * unit), OVERLAP * unit, scale) for h, w in shapes]
    return torch.stack(passes).mean(0)


def _blended(coder: Coder, x: Tensor, tile: tuple[int, int], overlap: int, scale: Fraction) -> Tensor:
    total = weights = torch.empty(0)
    for top, left in product(*(_starts(length, side, overlap) for length, side in zip(x.shape[2:], tile))):
        made = coder(x[:, :, top : top + tile[0], left : left + tile[1]])
        if not total.numel():
            total = made.new_zeros(*made.shape[:2], *(int(length * scale) for length in x.shape[2:]))
            weights = torch.zeros_like(total)
        height, width = made.shape[2:]
        weight = torch.outer(*(_ramp(length, int(overlap * scale)) for length in (height, width))).to(made)
        y, x_ = int(top * scale), int(left * scale)
        total[:, :, y : y + height, x_ : x_ + width] += made * weight
        weights[:, :, y : y + height, x_ : x_ + width] += weight
    return total / weights


def _starts(length: int, side: int, overlap: int) -> range:
    """Where tiles of a side begin; the last one is what is left."""
    return range(0, length - overlap, side - overlap) if length > side else range(1)


def _ramp(length: int, feather: int) -> Tensor:
    """Weights that rise and fall over the outer pixels of a tile, and are 1 between."""
    if feather >= length:
        return torch.ones(length)
    up = torch.arange(1, length + 1) / max(1, feather)
    return torch.minimum(up, up.flip(0)).clamp(max=1)
