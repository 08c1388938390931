"""3×4 maps on gamma RGB: v ↦ A·v + o, written [A | o].

A VAE that is flat, or decodes latents of the wrong scale, changes its pictures by such a map (docs/color.md), so
its inverse is one too. Matrices are float64 tensors (3, 4); pictures (3, H, W) or (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vae_manager.codec.pictures import LUMA

Curve: TypeAlias = tuple[float, float, float, float]
"""A polynomial for levels, the same for all channels, the constant first."""

STRAIGHT: Curve = (0.0, 1.0, 0.0, 0.0)
"""The one that changes nothing."""

CHUNK = 1 << 16
"""Pixels worked on at a time: more leave the cache between the map and the gamut step, fewer cost too many calls."""

FEW = 1 / 2
"""Up to this share of a chunk's pixels is taken out, pulled into the gamut and put back; more are done in place."""

TINY = 1e-12


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


def blend_curve(curve: Curve, strength: float) -> Curve:
    """Likewise."""
    constant, first, second, third = (s + strength * (c - s) for s, c in zip(STRAIGHT, curve, strict=True))
    return constant, first, second, third


def adjustment(contrast: float = 1.0, brightness: float = 0.0, saturation: float = 1.0) -> Tensor:
    """By hand: saturation around luma, then contrast around mid-grey, then brightness added. 1, 0, 1 change nothing."""
    a = saturation * torch.eye(3, dtype=torch.float64) + (1 - saturation) * _luma_rows()
    offset = torch.full((3, 1), 0.5 * (1 - contrast) + brightness, dtype=torch.float64)
    return torch.cat([contrast * a, offset], dim=1)


def stretch(black: float, white: float, saturation: float = 1.0) -> Tensor:
    """Take the grey `black` to 0 and the grey `white` to 1, with saturation around luma on top."""
    # numpy: made for every picture, and torch takes three times as long for so little
    matrix = np.full((3, 4), -float(black))
    matrix[:, :3] = saturation * np.eye(3) + (1 - saturation) * np.array(LUMA)
    return torch.from_numpy(matrix / (white - black))


def is_identity(matrix: Tensor) -> bool:
    return bool(torch.equal(matrix, identity().to(matrix)))


def apply(pixels: Tensor, matrix: Tensor) -> Tensor:
    """Map a picture (3, H, W) or batch and pull what leaves [0, 1] back into it.

    Returns float32 (float64 for float64 pictures) on the picture's own device; the identity returns the picture as
    it is. The work is done in main memory with numpy, whose operations on cache-sized pieces took a half to a third
    of torch's time. What is not finite stays so.
    """
    return pixels if is_identity(matrix) else _mapped(pixels, matrix, Into.GAMUT)[0]


def apply_finite(pixels: Tensor, matrix: Tensor, curve: Curve = STRAIGHT, clip: bool = False) -> Tensor | None:
    """`apply`, or None where a value is NaN or infinite; looking for it costs next to nothing here.

    Args:
        curve: every channel goes through it before the map.
        clip: each channel is clipped to [0, 1] by itself instead of being pulled back with the others.
    """
    out, finite = _mapped(pixels, matrix, Into.CUBE if clip else Into.GAMUT, curve)
    return out if finite else None


def affine(pixels: Tensor, matrix: Tensor) -> Tensor:
    """A·v + o, without the gamut step; float32, or float64 for float64 pictures."""
    return _mapped(pixels, matrix, Into.NOTHING)[0]


class Into(Enum):
    """What becomes of colours that a map takes out of [0, 1]."""

    NOTHING = auto()
    """They stay."""
    GAMUT = auto()
    """They are pulled toward their luma."""
    CUBE = auto()
    """Each channel is clipped."""


def _mapped(pixels: Tensor, matrix: Tensor, into: Into, curve: Curve = STRAIGHT) -> tuple[Tensor, bool]:
    """The mapped picture, and whether all of it was finite, which is looked at where it goes into something."""
    wide = pixels if pixels.dtype == torch.float64 else pixels.float()
    source = wide.detach().cpu().contiguous().numpy()
    out = np.empty_like(source)
    a, o = matrix[:, :3].numpy().astype(source.dtype), matrix[:, 3:].numpy().astype(source.dtype)
    room = min(CHUNK, source.shape[-2] * source.shape[-1])
    scratch = np.empty((4, room), source.dtype)
    bent = None if curve == STRAIGHT else np.empty((3, room), source.dtype)
    ones = np.ones(room if into is Into.CUBE else 0, source.dtype)
    few = _Few()
    finite = True
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found, not warned about
        for before, after in zip(_chunks(source), _chunks(out), strict=True):
            np.matmul(a, before if bent is None else _bend(before, curve, bent), out=after)
            after += o
            if into is Into.CUBE:
                finite &= _into_cube_(after, ones)
                continue
            if into is Into.NOTHING or not (outside := _outside(after, scratch)).size:
                continue
            if outside.size <= FEW * after.shape[1]:
                few.add(after, outside)
            else:
                finite &= bool(np.isfinite(after).all())
                into_gamut_(after, scratch)
        finite = few.put_back(scratch) and finite
    return torch.from_numpy(out).to(pixels.device), finite


class _Few:
    """Pixels out of many pieces that are pulled into the gamut together: many small calls cost more than the work."""

    def __init__(self) -> None:
        self._places: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, piece: np.ndarray, at: np.ndarray) -> None:
        """Remember the pixels of piece (3, P) with these indices."""
        self._places += [(channel, at) for channel in piece]

    def put_back(self, scratch: np.ndarray) -> bool:
        """Fit them all where they are; whether all of them were finite. `scratch` as for `into_gamut_`."""
        if not self._places:
            return True
        channels = [np.concatenate([channel[at] for channel, at in self._places[i::3]]) for i in range(3)]
        v = np.stack(channels)
        finite = bool(np.isfinite(v).all())
        for start in range(0, v.shape[1], scratch.shape[1]):
            into_gamut_(v[:, start : start + scratch.shape[1]], scratch)
        for i, fitted in enumerate(v):
            start = 0
            for channel, at in self._places[i::3]:
                channel[at] = fitted[start : start + at.size]
                start += at.size
        return finite


def into_gamut_(v: np.ndarray, scratch: np.ndarray | None = None) -> None:
    """Pull the pixels of v (3, P), float, that are outside [0, 1] toward their own luma until they fit, in place.

    v ↦ Y + t(v − Y) with the largest t ≤ 1 that fits, t = min(1, Y/(Y − min), (1 − Y)/(max − Y)): the direction of
    the colour, and so its hue, stays, where clipping each channel by itself would turn it. Luma outside [0, 1]
    becomes black or white. `scratch` (4, ≥ P), of v's dtype, is room to work in.
    """
    r, g, b = v
    y, low, high, t = (np.empty((4, r.size), v.dtype) if scratch is None else scratch)[:, : r.size]
    np.multiply(r, LUMA[0], out=y)
    for channel, weight in ((g, LUMA[1]), (b, LUMA[2])):
        y += np.multiply(channel, weight, out=t)
    _clip(y, out=y)
    # the room there is toward 0 and 1, over the distance that the extreme channels want to go; 1 where they fit
    np.minimum(np.minimum(r, g, out=low), b, out=low)
    np.subtract(y, np.minimum(low, 0, out=low), out=low)
    np.divide(y, np.maximum(low, TINY, out=low), out=low)
    np.maximum(np.maximum(r, g, out=high), b, out=high)
    np.subtract(np.maximum(high, 1, out=high), y, out=high)
    np.divide(np.subtract(1, y, out=t), np.maximum(high, TINY, out=high), out=high)
    np.minimum(low, high, out=t)
    for channel in v:
        np.subtract(channel, y, out=low)
        low *= t
        low += y
        _clip(low, out=channel)


def _bend(v: np.ndarray, curve: Curve, room: np.ndarray) -> np.ndarray:
    """The curve of every value of v (3, P), in `room` (3, ≥ P)."""
    out = room[:, : v.shape[1]]
    constant, first, second, third = (v.dtype.type(c) for c in curve)
    np.multiply(v, third, out=out)
    for coefficient in (second, first):
        out += coefficient
        out *= v
    out += constant
    return out


def _into_cube_(v: np.ndarray, ones: np.ndarray) -> bool:
    """Clip v (3, P), in place; whether all of it was finite: one value that is not makes the sum so."""
    sums = v @ ones[: v.shape[1]]
    _clip(v, out=v)
    return bool(np.isfinite(sums).all())


def _outside(v: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """Indices of the pixels of v (3, P) that are not in [0, 1], or not finite.

    Floats in [0, 1], read as unsigned integers, are the numbers up to that of 1: negative ones have the sign's bit,
    and NaN and the infinities come after all others.
    """
    r, g, b = v.view(f"u{v.itemsize}")
    top = scratch[0, : r.size].view(r.dtype)
    one = v.dtype.type(1).view(r.dtype)
    return (np.maximum(np.maximum(r, g, out=top), b, out=top) > one).nonzero()[0]


def _clip(v: np.ndarray, out: np.ndarray) -> None:
    np.clip(v, 0, 1, out=out)


def _luma_rows() -> Tensor:
    return torch.tensor(LUMA, dtype=torch.float64).expand(3, 3)


def _chunks(pixels: np.ndarray) -> list[np.ndarray]:
    """Views (3, ≤ CHUNK) that cover a contiguous picture or batch."""
    pictures = pixels.reshape(-1, 3, pixels.shape[-2] * pixels.shape[-1])
    return [p[:, start : start + CHUNK] for p in pictures for start in range(0, p.shape[1], CHUNK)]
