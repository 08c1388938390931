"""The shortcuts around the levels of Wan 2.2's and Qwen-Image 2.1's autoencoders, on a single picture.

They have no weights: squares of pixels become channels, or channels squares, and what is left over is averaged or
repeated (`AvgDown3D`, `DupUp3D` of the Wan 2.2 modules). Where a level also makes one frame of two, the frame before
the first one is zeros; where it makes two of one, of the first pair the second frame alone is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Averaged:
    """Around a level of the encoder: (…, H, W, C) → (…, H/side, W/side, C')."""

    channels: int
    out: int
    side: int
    """2, or 1 around the last level."""
    time: bool
    """Two frames become one."""

    def __call__(self, x: Tensor) -> Tensor:
        *start, height, width, c = x.shape
        side = self.side
        squares = x.reshape(*start, height // side, side, width // side, side, c)
        squares = squares.movedim(-4, -2).movedim(-1, -3).flatten(-2)  # (…, h, w, C, side²)
        if self.time:
            squares = torch.cat([torch.zeros_like(squares), squares], dim=-1)
        return squares.flatten(-2).unflatten(-1, (self.out, -1)).mean(dim=-1)

    def source_rows(self, rows: int) -> int:
        return rows * self.side

    def add(self, x: Tensor, to: Tensor) -> None:
        to.add_(self(x))


@dataclass(frozen=True)
class Repeated:
    """Around a level of the decoder: (…, H, W, C) → (…, 2·H, 2·W, C')."""

    channels: int
    out: int
    time: bool
    """One frame becomes two."""

    @lru_cache(maxsize=8)  # noqa: B019 (a few small ones; made once for a run, and not copied for each strip)
    def _sources(self, device: torch.device) -> Tensor:
        """(2, 2, C'): which channel each pixel of a square is of."""
        frames = 2 if self.time else 1
        repeats = self.out * frames * 4 // self.channels
        places = torch.arange(self.out * frames * 4, device=device).view(self.out, frames, 2, 2)[:, -1]
        return (places // repeats).permute(1, 2, 0)

    def __call__(self, x: Tensor) -> Tensor:
        *start, height, width, _ = x.shape
        found = x.new_zeros(*start, 2 * height, 2 * width, self.out)
        self.add(x, found)
        return found

    def source_rows(self, rows: int) -> int:
        return rows // 2

    def add(self, x: Tensor, to: Tensor) -> None:
        sources = self._sources(x.device)
        for i in range(2):
            for j in range(2):
                to[..., i::2, j::2, :].add_(x[..., sources[i, j]])
