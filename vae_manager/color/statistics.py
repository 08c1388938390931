"""What one pass over a picture tells: where its darkest and brightest pixels are, and how colourful it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vae_manager.color.matrix import LUMA

SAMPLE = 1 << 14
"""About this many pixels are looked at, evenly spread."""

BINS = 1024

FLOORS = (0.0005, 0.005, 0.02, 0.1)
CEILINGS = (0.9995, 0.995, 0.98, 0.9)
CHROMAS = (0.5, 0.95, 0.99)

STEP = 2 / 255
"""A smaller difference between neighbours is no texture."""


TONES = 16
"""Even parts of the range of luma, in each of which the most colourful pixels are looked for."""

EDGE, EDGE_PIXELS = 0.01, 64
"""The quantile that counts as a tone's edge, and the least pixels a tone or tile must have."""


TILES = 4
"""Rows and columns of tiles: a fault lifts black in all of them alike, fog and a bright sky do not."""

MIDDLE = (0.15, 0.9)
"""Where luma says how saturated a colour is: near black and white every level does."""


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
    dark_edges: tuple[float, ...]
    """In each of `TONES` tones of luma the `EDGE` quantile of m; 1 where a tone has too few pixels."""
    bright_edges: tuple[float, ...]
    """The same of M from above: its 1 − `EDGE` quantile; 0 where a tone has too few pixels."""
    tile_floors: tuple[float, ...]
    """The `EDGE` quantile of m in each tile."""
    tile_ceilings: tuple[float, ...]
    """The 1 − `EDGE` quantile of M in each tile."""
    clipped: float
    """Share of pixels with a channel at 0 or 1 (as near as `BINS` tell), or beyond."""
    finite: bool = True
    own_floors: tuple[float, ...] = ()
    """The 0.05 % quantiles of red, green and blue as the decoder put them out, before the clamp; empty: not known."""
    own_ceilings: tuple[float, ...] = ()
    """Their 99.95 % quantiles."""


@dataclass(frozen=True)
class OwnEnds:
    """How far below 0 and above 1 a decoder went, before the clamp."""

    floors: tuple[float, ...]
    """The 0.05 % quantile of red, green and blue."""
    ceilings: tuple[float, ...]
    """Their 99.95 % quantiles."""
    size: tuple[int, int]
    """Height and width of the picture."""

    def on(self, seen: Statistics) -> Statistics:
        """The picture's statistics, with this added."""
        return replace(seen, own_floors=self.floors, own_ceilings=self.ceilings)


def own_ends(pixels: Tensor) -> OwnEnds | None:
    """Of what a decoder puts out (3, H, W), 0 being black and 1 white; None where it is not finite."""
    stride = _stride(pixels)
    v = _sample(pixels[:, ::stride, ::stride]).reshape(3, -1)
    if not math.isfinite(float(v.sum())):
        return None
    low, high = (int(at * (v.shape[1] - 1)) for at in (FLOORS[0], CEILINGS[0]))
    ordered = np.partition(v, (low, high), axis=1)
    height, width = pixels.shape[1:]
    return OwnEnds(tuple(ordered[:, low].tolist()), tuple(ordered[:, high].tolist()), (height, width))


NOT_FINITE = Statistics(
    (0.0,) * 4,
    (0.0,) * 4,
    (0.0,) * 3,
    0.0,
    0.0,
    (0.0,) * 3,
    (0.0,) * 3,
    0.0,
    0.0,
    0.0,
    (1.0,) * TONES,
    (0.0,) * TONES,
    (0.0,) * 16,
    (0.0,) * 16,
    0.0,
    False,
)


def statistics(pixels: Tensor, whole: bool = True) -> Statistics:
    """Statistics of one picture (3, H, W), float in [0, 1] (what is outside counts as 0 or 1).

    Whether all of it is finite is looked up in every pixel; in those of the sample only, where it is not to be the
    `whole`: for `correct.treat`, which sees the others.
    """
    stride = _stride(pixels)
    v = _sample(pixels[:, ::stride, ::stride])
    y = _luma(v)
    total = float(y.sum())
    if not math.isfinite(total) or (whole and not all_finite(pixels)):
        return NOT_FINITE
    beside = _luma(_sample(pixels[:, ::stride, 1::stride]))
    steps = np.abs(beside - y[:, : beside.shape[1]]) > STEP
    # small whole numbers from here on: the least of three steps is the step of the least
    r, g, b = channels = _steps(v)
    each = [_counts(channel) for channel in channels]
    low, high = np.minimum(np.minimum(r, g), b), np.maximum(np.maximum(r, g), b)
    lows, highs = _counts(low), _counts(high)
    dark, bright = low >> 2, (BINS - 1 - high) >> 2
    mean, tones, tiles = total / y.size, _tones(y), _tiles(*y.shape)
    return Statistics(
        floors=_quantiles(lows, FLOORS),
        ceilings=_quantiles(highs, CEILINGS),
        chromas=_quantiles(_counts(high - low), CHROMAS),
        dark_max=_quantiles(highs, FLOORS[1:2])[0],
        bright_min=_quantiles(lows, CEILINGS[1:2])[0],
        channel_floors=tuple(_quantiles(channel, FLOORS[:1])[0] for channel in each),
        channel_ceilings=tuple(_quantiles(channel, CEILINGS[:1])[0] for channel in each),
        mean=mean,
        deviation=math.sqrt(max(float(np.vdot(y, y)) / y.size - mean**2, 0.0)),
        texture=float(steps.mean()) if steps.size else 0.0,
        dark_edges=_edges(tones, dark, TONES),
        bright_edges=tuple(1 - edge for edge in _edges(tones, bright, TONES)),
        tile_floors=_edges(tiles, dark, TILES**2),
        tile_ceilings=tuple(1 - edge for edge in _edges(tiles, bright, TILES**2)),
        clipped=float(((low <= 0) | (high >= BINS - 1)).mean()),
    )


def saturations(pictures: Sequence[Statistics], floor: float, ceiling: float) -> tuple[float, float]:
    """The greatest 1 − m/Y and 1 − (1 − M)/(1 − Y) in the middle tones, once floor and ceiling are stretched."""
    contrast = ceiling - floor
    dark = bright = 0.5
    for s in pictures:
        for tone in range(TONES):
            y = ((tone + 0.5) / TONES - floor) / contrast
            if MIDDLE[0] < y < MIDDLE[1]:
                dark = max(dark, 1 - (s.dark_edges[tone] - floor) / contrast / y)
                bright = max(bright, 1 - (ceiling - s.bright_edges[tone]) / contrast / (1 - y))
    return min(dark, 1.0), min(bright, 1.0)


def all_finite(pixels: Tensor) -> bool:
    """Whether no pixel is NaN or infinite: one anywhere makes the sum so."""
    return math.isfinite(float(pixels.sum(dtype=torch.promote_types(pixels.dtype, torch.float32))))


def _stride(pixels: Tensor) -> int:
    return max(1, round(math.sqrt(pixels.shape[1] * pixels.shape[2] / SAMPLE)))


def _sample(view: Tensor) -> np.ndarray:
    return np.ascontiguousarray(view.detach().float().cpu().numpy())


def _luma(v: np.ndarray) -> np.ndarray:
    return LUMA[0] * v[0] + LUMA[1] * v[1] + LUMA[2] * v[2]


def _steps(values: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to `BINS` − 1 for the range from 0 to 1. A fourth of them, rounded down, is the 8-bit
    level, exactly where the value was one."""
    return (values.clip(0, 1) * np.float32(BINS - 1) + np.float32(0.5)).astype(np.uint16)


def _tones(y: np.ndarray) -> np.ndarray:
    return (y * np.float32(TONES)).clip(0, TONES - 1).astype(np.uint16)


def _tiles(height: int, width: int) -> np.ndarray:
    rows, columns = ((np.arange(length) * TILES // length).astype(np.uint16) for length in (height, width))
    return rows[:, None] * TILES + columns


def _edges(group: np.ndarray, levels: np.ndarray, groups: int) -> tuple[float, ...]:
    """The `EDGE` quantile of the 8-bit levels, as a share of 255, in each group; 1 where a group has too few."""
    counts = np.bincount((group * 256 + levels).ravel(), minlength=groups * 256).reshape(groups, 256).cumsum(1)
    edge = (counts < EDGE * counts[:, -1:]).sum(1) / 255
    return tuple(np.where(counts[:, -1] < EDGE_PIXELS, 1.0, edge).tolist())


def _counts(steps: np.ndarray) -> np.ndarray:
    """How many of the values that `_steps` gave are no greater than each of the `BINS` steps."""
    return np.bincount(steps.ravel(), minlength=BINS).cumsum()


def _quantiles(counts: np.ndarray, at: tuple[float, ...]) -> tuple[float, ...]:
    places = counts.searchsorted([share * counts[-1] for share in at]).tolist()
    return tuple(min(place, BINS - 1) / (BINS - 1) for place in places)
