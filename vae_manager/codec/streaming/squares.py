"""Squares of pixels as the channels of one pixel, and back."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def as_squares(x: Tensor, side: int, columns_first: bool = False) -> Tensor:
    """Pixels (…, C, H, W) → (…, C·side², H/side, W/side).

    Args:
        columns_first: the channels of a square go down its columns, not along its rows.
    """
    if side == 1:
        return x
    return F.pixel_unshuffle(x.mT, side).mT if columns_first else F.pixel_unshuffle(x, side)


def as_pixels(x: Tensor, side: int, columns_first: bool = False) -> Tensor:
    """The way back: (…, C·side², h, w) → (…, C, side·h, side·w)."""
    if side == 1:
        return x
    return F.pixel_shuffle(x.mT, side).mT if columns_first else F.pixel_shuffle(x, side)
