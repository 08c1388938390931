"""3×4 maps on gamma RGB: v ↦ A·v + o, written [A | o].

A VAE that is flat, or decodes latents of the wrong scale, changes its pictures by such a map (docs/color.md), so
its inverse is one too. Matrices are float64 tensors (3, 4); pictures (3, H, W) or (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of Rec. ITU-R BT.709, applied to gamma RGB."""

CHUNK = 1 << 16
"""Pixels worked on at a time: they stay in the processor's cache between the map and the gamut step."""


def identity() -> Tensor:
    return torch.eye(3, 4, dtype=torch.float64)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The map that does `inner` first, then `outer`: A₂(A₁v + o₁) + o₂."""
    a, o = outer[:, :3], outer[:, 3:]
    return torch.cat([a @ inner[:, :3], a @ inner[:, 3:] + o], dim=1)


def invert(matrix: Tensor) -> Tensor:
    """The map that undoes this one: A⁻¹(v − o).

    Raises:
        ValueError: it cannot be undone; it maps different colours to the same one.
    """
    a, o = matrix[:, :3], matrix[:, 3:]
    if not torch.isfinite(matrix).all() or torch.linalg.cond(a) > 1e6:
        raise ValueError("this colour map cannot be undone: it maps different colours to the same one")
    inverse = torch.linalg.inv(a)
    return torch.cat([inverse, -inverse @ o], dim=1)


def blend(matrix: Tensor, strength: float) -> Tensor:
    """Between no change (0) and the whole map (1)."""
    return torch.lerp(identity(), matrix, strength)


def adjustment(contrast: float = 1.0, brightness: float = 0.0, saturation: float = 1.0) -> Tensor:
    """By hand: saturation around luma, then contrast around mid-grey, then brightness added. 1, 0, 1 change nothing."""
    a = saturation * torch.eye(3, dtype=torch.float64) + (1 - saturation) * _luma_rows()
    offset = torch.full((3, 1), 0.5 * (1 - contrast) + brightness, dtype=torch.float64)
    return torch.cat([contrast * a, offset], dim=1)


def stretch(black: float, white: float, saturation: float = 1.0) -> Tensor:
    """Take the grey `black` to 0 and the grey `white` to 1, with saturation around luma on top."""
    a = saturation * torch.eye(3, dtype=torch.float64) + (1 - saturation) * _luma_rows()
    offset = torch.full((3, 1), -black, dtype=torch.float64)
    return torch.cat([a, offset], dim=1) / (white - black)


def is_identity(matrix: Tensor) -> bool:
    return bool(torch.equal(matrix, identity().to(matrix)))


def apply(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Map a picture and pull what leaves [0, 1] back into it. The identity returns the picture as it is."""
    if is_identity(matrix):
        return pixels
    out = affine(pixels, matrix)
    for plane in _chunks(out):
        low, high = torch.aminmax(plane)
        if low < 0 or high > 1:
            into_gamut_(plane)
    return out


def affine(pixels: Tensor, matrix: Tensor) -> Tensor:
    """A·v + o, without the gamut step, in the picture's own precision (half precision is widened first)."""
    wide = pixels if pixels.dtype in (torch.float32, torch.float64) else pixels.float()
    out = torch.empty(wide.shape, dtype=wide.dtype, device=wide.device)
    a, o = matrix[:, :3].to(wide), matrix[:, 3:].to(wide)
    for source, target in zip(_chunks(wide.contiguous()), _chunks(out), strict=True):
        torch.addmm(o, a, source, out=target)
    return out


def into_gamut_(v: Tensor) -> None:
    """Pull the pixels of v (3, P) that are outside [0, 1] toward their own luma until they fit, in place.

    v ↦ Y + t(v − Y) with the largest t ≤ 1 that fits: the direction of the colour, and so its hue, stays, where
    clipping each channel by itself would turn it. Luma outside [0, 1] becomes black or white.
    """
    r, g, b = v
    low, high = torch.minimum(torch.minimum(r, g), b), torch.maximum(torch.maximum(r, g), b)
    y = (LUMA[0] * r).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2]).clamp_(0, 1)
    # the room there is toward 0 and 1, over the distance that the extreme channels want to go
    toward_black = torch.div(y, torch.sub(y, low, out=low).clamp_(min=1e-12), out=low)
    toward_white = torch.div(1 - y, high.sub_(y).clamp_(min=1e-12), out=high)
    t = torch.minimum(toward_black, toward_white, out=low).clamp_(max=1)
    torch.lerp(y, v, t, out=v).clamp_(0, 1)


def luma(pixels: Tensor) -> Tensor:
    """(…, 3, H, W) → (…, H, W)."""
    r, g, b = pixels.unbind(-3)
    return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def _luma_rows() -> Tensor:
    return torch.tensor(LUMA, dtype=torch.float64).expand(3, 3)


def _chunks(pixels: Tensor) -> list[Tensor]:
    """Views (3, ≤ CHUNK) that cover a contiguous picture or batch."""
    pictures = pixels.reshape(-1, 3, pixels.shape[-2] * pixels.shape[-1])
    return [chunk for picture in pictures for chunk in picture.split(CHUNK, dim=1)]
