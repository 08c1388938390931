"""Several pictures of one checkpoint and VAE: a fault is the same for all of them, what they show is not.

One picture without black may be fog. When the blacks of eight pictures lie together above black, it is the VAE. A
decoder overshoots, so a flat VAE's pictures may well reach white: whether white is lowered, too, their bright colours
tell (`pool_model`). And as what is clipped hides how far it went, a pool that shows no fault vouches for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from vae_manager.color.blind import MIN_CHROMA, smoothstep
from vae_manager.color.matrix import adjustment, compose, identity, stretch
from vae_manager.color.pool_model import ask
from vae_manager.color.statistics import Statistics, saturations

MIN_PICTURES = 8
"""So many different pictures make a pool that is trusted to correct."""

MIN_VETO = 4
"""So many are enough to say that nothing is wrong."""

SEEN = 0.03
"""The least distance from black, and from white, over all pictures, that counts as a fault."""

SURE, SURE_TOO = 0.7, 0.2
"""Logit of the model from which on all of a fault is undone, from 0 on some; the second where both ends are gone."""

NEAR = 0.06
"""The blacks of half of the pictures, from the darkest or the next one on (one in eight may be a JPEG file with edges
that are too sharp), must lie within so much of one another, as they do where it is the VAE's own: fog is as thick as it
pleases, and pools of it are not what the model knows best."""

AGREE = 0.03
"""Where both ends are missing, the least levels of all pictures are the black points, unless the model says that black
was lifted by more than this beyond them: then one file's edges are too sharp, as a JPEG file's are."""

WHITE_ALONE, WHITE_ALONE_OWN, NEAR_WHITE = 0.04, 0.03, 0.02
"""White alone counts as lowered where it is missing by the first (by the second where the decoder's own values are
known), and three of four pictures come as near as the third to the brightest: night and dusk have no white either."""

OVERSHOT = 0.02
"""A sound decoder's brightest pictures go so far beyond white."""

LEAST_BLACK, LEAST_WHITE, LEAST_CHROMA = 0.01, 0.025, 0.06
"""Where all pictures, one in eight aside, stay so far from black and from white, both ends are gone: then half of the
first of `SEEN` is enough for black, and the model need be less sure by `BOTH_GONE`. Of 40 published pictures that were
decoded by flat VAEs baked into checkpoints, 37 stay so far from both ends; of 148 by sound ones, none (docs/color.md).
A film look leaves white where it is."""

BOTH_GONE = 1.5

DIMMEST = 0.82
"""No fault that was met keeps the brightest of many pictures further from white: pools that are as dim are so on
purpose."""

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

    @property
    def reached(self) -> str | None:
        """The ends that are there: 'black and white', 'black', 'white' or None."""
        there = [name for name, gap in (("black", self.floor), ("white", 1 - self.ceiling)) if gap < SEEN]
        return " and ".join(there) or None


@dataclass(frozen=True, eq=False)
class Verdict:
    """What all pictures of a pool have in common."""

    ends: Ends
    matrix: Tensor = field(default_factory=identity)
    """(3, 4): what undoes it; the identity where there is nothing."""
    black: bool = False
    """Whether black was lifted."""
    white: bool = False
    """Whether white was lowered."""


def ends(pictures: Sequence[Statistics]) -> Ends:
    """How near to black and white any of the pictures come. The decoder's own values go before those of the files."""
    return Ends(min(_floor(s) for s in pictures), max(_ceiling(s) for s in pictures))


def verdict(pictures: Sequence[Statistics]) -> Verdict:
    """What is wrong with the VAE that made these different pictures, two at least.

    Where both ends are missing, black and white points come from the darkest and the brightest picture, for each
    channel; the chroma gain from the mean over the pictures, held toward the usual gain as far as their number leaves
    it open. Where one is reached, by overshoot or because the other alone is gone, the model's levels are put back for
    all channels alike.
    """
    found, said, gone = ends(pictures), ask(pictures), both_gone(pictures)
    sure = smoothstep((said.fault + BOTH_GONE * gone) / (SURE_TOO if gone else SURE))
    if sure <= 0 or found.ceiling < DIMMEST or not lifted_alike(pictures, SEEN / 2 if gone else SEEN):
        return _white_alone(pictures, found)
    if found.reached is None and found.floor >= said.black - AGREE:
        return Verdict(found, torch.lerp(identity(), _both_ends(pictures, found), sure), True, True)
    black, white = (sure * min(max(shift, 0.0), MAX_SHIFT) for shift in (said.black, said.white))
    chroma = math.exp(sure * min(max(said.chroma, 0.0), math.log(GAINS[1])))
    return Verdict(found, stretch(black, 1 - white, chroma), True, white > SEEN)


def both_gone(pictures: Sequence[Statistics]) -> bool:
    """Whether hardly any of the pictures comes near black, and hardly any near white, and most have colours."""
    black, white = (
        sorted(gaps)[len(pictures) // 8]
        for gaps in ([_floor(s) for s in pictures], [1 - _ceiling(s) for s in pictures])
    )
    return black >= LEAST_BLACK and white >= LEAST_WHITE and median(s.chromas[2] for s in pictures) >= LEAST_CHROMA


def lifted_alike(pictures: Sequence[Statistics], least: float = SEEN) -> bool:
    """Whether most of the pictures miss black by that much, half of them alike, and most have colours."""
    floors, half = sorted(_floor(s) for s in pictures), len(pictures) // 2
    if median(s.chromas[2] for s in pictures) < MIN_CHROMA:
        return False  # without colours it is drawings, or a look
    alike = any(floors[i + half - 1] - floors[i] <= NEAR for i in range(len(floors) // 8 + 1))
    return alike and floors[half] >= least


def pooled_map(pictures: Sequence[Statistics]) -> Tensor:
    """The map that undoes what all the pictures have in common, or the identity where they have nothing."""
    return verdict(pictures).matrix if len(pictures) > 1 else identity()


def _white_alone(pictures: Sequence[Statistics], found: Ends) -> Verdict:
    """White where black is reached, which the model hardly sees: what is bright in a picture is anybody's choice."""
    least = WHITE_ALONE_OWN if all(s.own_ceilings for s in pictures) else WHITE_ALONE
    together = sum(found.ceiling - _ceiling(s) <= NEAR_WHITE for s in pictures)
    if found.reached != "black" or 1 - found.ceiling < least or 4 * together < 3 * len(pictures):
        return Verdict(found)
    return Verdict(found, stretch(0, max(found.ceiling - OVERSHOT, 1 - MAX_SHIFT)), white=True)


def _both_ends(pictures: Sequence[Statistics], found: Ends) -> Tensor:
    black = torch.tensor([_floors(s) for s in pictures], dtype=torch.float64).amin(0).clamp(max=MAX_SHIFT)
    white = torch.tensor([_ceilings(s) for s in pictures], dtype=torch.float64).amax(0).clamp(min=1 - MAX_SHIFT)
    levels = torch.cat([torch.diag(1 / (white - black)), (-black / (white - black))[:, None]], dim=1)
    return compose(adjustment(saturation=_chroma_gain(pictures, found.floor, found.ceiling)), levels)


def _floor(s: Statistics) -> float:
    return min(s.own_floors, default=s.floors[0])


def _ceiling(s: Statistics) -> float:
    return max(s.own_ceilings, default=s.ceilings[0])


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
