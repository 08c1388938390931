"""What one pass over a picture tells: where its darkest and brightest pixels are, and how colourful it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_manager.color.matrix import luma

SAMPLE = 1 << 15
"""About this many pixels are looked at, evenly spread."""

BINS = 1024

FLOORS = (0.0005, 0.005, 0.02, 0.1)
CEILINGS = (0.9995, 0.995, 0.98, 0.9)
CHROMAS = (0.5, 0.95, 0.99)

STEP = 2 / 255
"""A smaller difference between neighbours is no texture."""


@dataclass(frozen=True)
class Statistics:
    """Per pixel, m and M are the smallest and largest of the three channels and M − m its chroma."""

    floors: tuple[float, ...]
    """Quantiles of m at `FLOORS`."""
    ceilings: tuple[float, ...]
    """Quantiles of M at `CEILINGS`."""
    chromas: tuple[float, ...]
    """Quantiles of M − m at `CHROMAS`."""
    dark_max: float
    """The 0.5 % quantile of M: the darkest pixels' brightest channel."""
    bright_min: float
    """The 99.5 % quantile of m: the brightest pixels' darkest channel."""
    channel_floors: tuple[float, ...]
    """The 0.05 % quantile of red, green and blue."""
    channel_ceilings: tuple[float, ...]
    """Their 99.95 % quantiles."""
    mean: float
    """Mean luma."""
    deviation: float
    """Standard deviation of luma."""
    texture: float
    """Share of pixels whose luma differs from their neighbour's by more than `STEP`."""
    finite: bool = True


NOT_FINITE = Statistics((0.0,) * 4, (0.0,) * 4, (0.0,) * 3, 0.0, 0.0, (0.0,) * 3, (0.0,) * 3, 0.0, 0.0, 0.0, False)


def statistics(pixels: Tensor) -> Statistics:
    """Statistics of one picture (3, H, W)."""
    stride = max(1, math.ceil(math.sqrt(pixels.shape[1] * pixels.shape[2] / SAMPLE)))
    v = pixels[:, ::stride, ::stride].float()
    if not math.isfinite(float(pixels.sum(dtype=torch.float64))):  # one NaN anywhere makes the sum NaN
        return NOT_FINITE
    low, high, y = v.amin(0), v.amax(0), luma(v)
    lows, highs, channels = _counts(low), _counts(high), [_counts(channel) for channel in v]
    beside = luma(pixels[:, ::stride, 1::stride].float())
    steps = (beside - y[:, : beside.shape[1]]).abs() > STEP
    deviation, mean = torch.std_mean(y, correction=0)
    return Statistics(
        floors=_quantiles(lows, FLOORS),
        ceilings=_quantiles(highs, CEILINGS),
        chromas=_quantiles(_counts(high - low), CHROMAS),
        dark_max=_quantiles(highs, FLOORS[1:2])[0],
        bright_min=_quantiles(lows, CEILINGS[1:2])[0],
        channel_floors=tuple(_quantiles(channel, FLOORS[:1])[0] for channel in channels),
        channel_ceilings=tuple(_quantiles(channel, CEILINGS[:1])[0] for channel in channels),
        mean=float(mean),
        deviation=float(deviation),
        texture=float(steps.float().mean()) if steps.numel() else 0.0,
    )


def _counts(values: Tensor) -> Tensor:
    """Cumulative share of values, clamped to [0, 1], at `BINS` even steps."""
    index = values.clamp(0, 1).mul(BINS - 1).round_().to(torch.int32).flatten()
    counts = torch.bincount(index, minlength=BINS).cumsum(0)
    return counts.double() / index.numel()


def _quantiles(cumulative: Tensor, at: tuple[float, ...]) -> tuple[float, ...]:
    index = torch.searchsorted(cumulative, torch.tensor(at, dtype=cumulative.dtype, device=cumulative.device))
    return tuple(i / (BINS - 1) for i in index.clamp(max=BINS - 1).tolist())
