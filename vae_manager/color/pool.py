"""Several pictures of one checkpoint and VAE: a fault is the same for all of them, what they show is not.

One picture without black may be fog. When no picture of eight reaches black, and none reaches white, it is the VAE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_manager.color.matrix import adjustment, compose, identity
from vae_manager.color.statistics import Statistics

MIN_PICTURES = 8
"""So many different pictures make a pool that is trusted to correct."""

MIN_VETO = 4
"""So many are enough to say that nothing is wrong."""

SEEN = 0.03
"""The least distance from black, and from white, over all pictures, that counts as a fault."""

MAX_SHIFT = 0.35
"""No fault that was met lifts black, or lowers white, by more."""

USUAL_CHROMA, CHROMA_OFFSET = -1.09, 0.02
"""Mean of ln(c + .02) over good photographs, c being the 95 % quantile of a picture's chroma M − m."""

USUAL_GAIN = 1.06
"""Some faults take chroma beyond the contrast: the gain that is right on average."""

GAINS = (0.95, 1.28)

SAME = 0.04
"""Two pictures whose statistics differ by less count as one: eight seeds of one foggy prompt prove nothing."""


def different(pictures: Sequence[Statistics]) -> list[Statistics]:
    """The pictures that differ from one another, the newest first."""
    kept: list[Statistics] = []
    for new in reversed(pictures):
        if new.finite and all(_distance(new, old) > SAME for old in kept):
            kept.append(new)
    return kept


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
    return compose(adjustment(saturation=_chroma_gain(pictures, ceiling - floor)), levels)


def _chroma_gain(pictures: Sequence[Statistics], contrast: float) -> float:
    logs = [math.log(s.chromas[1] / contrast + CHROMA_OFFSET) for s in pictures]
    missing = USUAL_CHROMA - sum(logs) / len(logs)
    trust = len(logs) / (len(logs) + 16)  # the spread between pictures is about four times that between faults
    return min(max(USUAL_GAIN * math.exp(trust * missing), GAINS[0]), GAINS[1])


def _distance(a: Statistics, b: Statistics) -> float:
    x, y = ((*s.floors[1:], *s.ceilings[1:], *s.chromas, s.mean, s.deviation) for s in (a, b))
    return max(abs(i - j) for i, j in zip(x, y, strict=True))
