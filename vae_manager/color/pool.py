"""Several pictures of one checkpoint and VAE: a fault is the same for all of them, what they show is not.

One picture without black may be fog. When no picture of eight reaches black, and none reaches white, it is the VAE. A
decoder overshoots, so a flat VAE's pictures may well reach one end, mostly white: each end is judged by itself. And as
what is clipped hides how far it went, a pool that reaches both ends shows no fault, but vouches for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from vae_manager.color.matrix import adjustment, compose, identity, stretch
from vae_manager.color.statistics import Statistics, saturations

MIN_PICTURES = 8
"""So many different pictures make a pool that is trusted to correct."""

MIN_VETO = 4
"""So many are enough to say that nothing is wrong."""

SEEN = 0.03
"""The least distance from black, and from white, over all pictures, that counts as a fault."""

ALONE, ALONE_OWN = 0.04, 0.03
"""The same where only one end is missing; less where the decoder's own values are known: of sound decoders' photographs
three in four come nearer than that to black, so that eight in a row do."""

NEAR, NEAR_BLACK, NEAR_WHITE = 0.08, 0.03, 0.02
"""What all the pictures have may be their look. So half of them must come so near the extreme (of black where both ends
are missing; black alone; white alone), as they do where it is the VAE's own black or white: fog, pastel and night are
each as far from it as they please. Night is common, and white is hardly ever missing alone: that is the strictest."""

OVERSHOT = 0.02
"""Where one end is reached, by overshoot: a sound decoder's darkest pictures go so far below black, too."""

BRIGHT, PER_LEVEL = 0.975, 20
"""Where only black is missing, white may be lost as well, and overshoot hide it: then bright colours are less bright.
Below this mean of `ceilings[1]` white counts as lowered by this share, for each level, of what black was lifted by, at
most by as much. Of pools with a contrast lost around .5 the mean is .92 (.87 to .95 in eight of ten), where black alone
was lifted .965 (.94 to .98)."""

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


@dataclass(frozen=True)
class Ends:
    """What a pool shows of the two ends."""

    floor: float
    """The least level of any channel in any of the pictures; below 0 where the decoder's own values are known."""
    ceiling: float
    black: bool
    """Whether black is missing, so that it was lifted."""
    white: bool
    """Whether white is missing."""

    @property
    def reached(self) -> str | None:
        """The ends that are there: 'black and white', 'black', 'white' or None."""
        there = [name for name, gap in (("black", self.floor), ("white", 1 - self.ceiling)) if gap < SEEN]
        return " and ".join(there) or None


def ends(pictures: Sequence[Statistics]) -> Ends:
    """Which of black and white all of the pictures miss. The decoder's own values go before those of the files."""
    floors = [min(s.own_floors, default=s.floors[0]) for s in pictures]
    ceilings = [max(s.own_ceilings, default=s.ceilings[0]) for s in pictures]
    floor, ceiling = min(floors), max(ceilings)
    dark, bright = [level - floor for level in floors], [ceiling - level for level in ceilings]
    if floor >= SEEN and 1 - ceiling >= SEEN:
        both = _is_shared(dark, NEAR)
        return Ends(floor, ceiling, both, both)
    alone = ALONE_OWN if all(s.own_floors for s in pictures) else ALONE
    black = floor >= alone and _is_shared(dark, NEAR_BLACK)
    white = 1 - ceiling >= alone and _is_shared(bright, NEAR_WHITE)
    return Ends(floor, ceiling, black, white)


def _is_shared(distances: Sequence[float], near: float) -> bool:
    """Whether at least half of the pictures come so near the extreme."""
    return 2 * sum(distance <= near for distance in distances) >= len(distances)


def pooled_map(pictures: Sequence[Statistics]) -> Tensor:
    """The map that undoes what all the pictures have in common, or the identity where they have nothing.

    Where both ends are missing, black and white points come from the darkest and the brightest picture, for each
    channel; the chroma gain from the mean over the pictures, held toward the usual gain as far as their number leaves
    it open. Where one end is missing, it is put back for all channels alike.
    """
    found = ends(pictures)
    if not (found.black or found.white):
        return identity()
    if not (found.black and found.white):
        return _one_end(pictures, found)
    black = torch.tensor([_floors(s) for s in pictures], dtype=torch.float64).amin(0).clamp(max=MAX_SHIFT)
    white = torch.tensor([_ceilings(s) for s in pictures], dtype=torch.float64).amax(0).clamp(min=1 - MAX_SHIFT)
    levels = torch.cat([torch.diag(1 / (white - black)), (-black / (white - black))[:, None]], dim=1)
    return compose(adjustment(saturation=_chroma_gain(pictures, found.floor, found.ceiling)), levels)


def _one_end(pictures: Sequence[Statistics], found: Ends) -> Tensor:
    if found.white:
        return stretch(0, max(found.ceiling - OVERSHOT, 1 - MAX_SHIFT))
    black = min(found.floor + OVERSHOT, MAX_SHIFT)
    hidden = PER_LEVEL * (BRIGHT - fmean(s.ceilings[1] for s in pictures))
    return stretch(black, 1 - black * min(max(hidden, 0.0), 1.0))


def _floors(s: Statistics) -> tuple[float, ...]:
    return s.own_floors or s.channel_floors


def _ceilings(s: Statistics) -> tuple[float, ...]:
    return s.own_ceilings or s.channel_ceilings


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
