"""Several pictures of one checkpoint and VAE: a fault is the same for all of them, what they show is not.

One picture without black may be fog. When no picture of eight reaches black, and none reaches white, it is the VAE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from vae_manager.color.matrix import adjustment, compose, identity
from vae_manager.color.statistics import Statistics, saturations

MIN_PICTURES = 8
"""So many different pictures make a pool that is trusted to correct."""

MIN_VETO = 4
"""So many are enough to say that nothing is wrong."""

SEEN = 0.03
"""The least distance from black, and from white, over all pictures, that counts as a fault."""

MAX_SHIFT = 0.35
"""No fault that was met lifts black, or lowers white, by more."""

CLIPPED = 0.12
"""Share of pixels at the end of a channel, in the middle one of the pictures, that no VAE at the right scale makes:
0.10 at most in 99.9 % of the sessions of eight tuning photographs, 0.10 or more in 99 % at 1.4 times the contrast."""

USUAL_GAIN = 1.06
"""Some faults take chroma beyond the contrast: the gain that is right on average, where the pictures do not say."""

DARK_WEIGHT, BRIGHT_WEIGHT = 0.85, 0.1
"""How far the logarithm of the gain follows those of the two saturations (least squares on `tune`)."""

GAINS = (0.95, 1.35)

SAME = 0.04
"""Two pictures whose statistics differ by less count as one: eight seeds of one foggy prompt prove nothing."""


def different(pictures: Sequence[Statistics]) -> list[Statistics]:
    """The pictures that differ from one another, the newest first."""
    kept: list[Statistics] = []
    for new in reversed(pictures):
        if new.finite and all(_distance(new, old) > SAME for old in kept):
            kept.append(new)
    return kept


def too_strong(pictures: Sequence[Statistics]) -> bool:
    """Whether most of the pictures are driven beyond black and white: a latent that was scaled too far up.

    What was clipped is lost, so there is no map for it; the remedy is the right scale.
    """
    return len(pictures) >= MIN_PICTURES and median(s.clipped for s in pictures) > CLIPPED


def pooled_map(pictures: Sequence[Statistics]) -> Tensor:
    """The map that undoes what all the pictures have in common, or the identity where they have nothing.

    Black and white points come from the darkest and the brightest picture, for each channel; the chroma gain from
    the mean over the pictures, held toward the usual gain as far as their number leaves it open.
    """
    floor, ceiling = min(s.floors[0] for s in pictures), max(s.ceilings[0] for s in pictures)
    if floor < SEEN or 1 - ceiling < SEEN:
        return identity()
    black = torch.tensor([s.channel_floors for s in pictures], dtype=torch.float64).amin(0).clamp(max=MAX_SHIFT)
    white = torch.tensor([s.channel_ceilings for s in pictures], dtype=torch.float64).amax(0).clamp(min=1 - MAX_SHIFT)
    levels = torch.cat([torch.diag(1 / (white - black)), (-black / (white - black))[:, None]], dim=1)
    return compose(adjustment(saturation=_chroma_gain(pictures, floor, ceiling)), levels)


def _chroma_gain(pictures: Sequence[Statistics], floor: float, ceiling: float) -> float:
    """1 over the greatest saturation that any of the pictures reaches, as far as their number lets it count.

    Somewhere in many pictures a colour touches the edge of the gamut: m = 0, or M = 1, in the middle tones. Where the
    fault took a share of the chroma, v ↦ Y + s(v − Y), the edge lies at m = (1 − s)Y, or 1 − M = (1 − s)(1 − Y).
    """
    dark, bright = saturations(pictures, floor, ceiling)
    missing = -DARK_WEIGHT * math.log(dark) - BRIGHT_WEIGHT * math.log(bright) + 0.03
    trust = min(1.0, len(pictures) / MIN_PICTURES)
    usual = math.log(USUAL_GAIN)
    return min(max(math.exp(usual + trust * (missing - usual)), GAINS[0]), GAINS[1])


def _distance(a: Statistics, b: Statistics) -> float:
    x, y = ((*s.floors[1:], *s.ceilings[1:], *s.chromas, s.mean, s.deviation) for s in (a, b))
    return max(abs(i - j) for i, j in zip(x, y, strict=True))
