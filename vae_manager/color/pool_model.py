"""What many pictures of one VAE say together: a linear model over 29 numbers of a pool.

Four sums answer whether the VAE has lost contrast, and by how much black is lifted, white lowered and chroma lost.
`tools/fit_color_pools.py` fits them to pools of photographs, sound, legitimately flat and faulty; docs/color.md has
what they reach on pools that they never saw. There are two sets of weights: for files, and for pictures whose decoder's
own values are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vae_manager.color.statistics import Statistics, saturations
from vae_manager.json_text import read_json_text

WEIGHTS = Path(__file__).resolve().parent.parent / "data" / "color_pools.json"

ANSWERS = ("fault", "black", "white", "chroma")

NEAR = (0.02, 0.03, 0.05, 0.08)
"""What all pictures have in common lies this near their darkest one's black (fog is as thick as it pleases)."""

MOST = 0.2
"""Levels further than this from black or white say no more."""


@dataclass(frozen=True)
class Answers:
    """What the model makes of a pool."""

    fault: float
    """Logit, above 0 where a fault is likely enough to be undone."""
    black: float
    """By how much black was lifted, in levels from 0 to 1."""
    white: float
    """By how much white was lowered."""
    chroma: float
    """The logarithm of the chroma gain that was lost with them."""


def ask(pictures: Sequence[Statistics]) -> Answers:
    """What the model says of different pictures of one VAE: two at least."""
    own = all(s.own_floors for s in pictures)
    x = np.array([*features(pictures), 1.0])
    return Answers(*(float(x @ weights) for weights in _weights()["own" if own else "file"]))


def features(pictures: Sequence[Statistics]) -> list[float]:
    """29 numbers: where the pictures' blacks lie and how near to one another, their whites, and how colourful and
    bright they are. The decoder's own values go before those of the files."""
    lows = np.sort([min(s.own_floors, default=s.floors[0]) for s in pictures])
    highs = np.sort([1 - max(s.own_ceilings, default=s.ceilings[0]) for s in pictures])
    half, quarter = len(pictures) // 2, len(pictures) // 4
    low, high = (float(min(max(least[0], 0.0), MOST)) for least in (lows, highs))
    near = [float((lows - lows[0] < distance).mean()) for distance in NEAR]
    near_white = [float((highs - highs[0] < distance).mean()) for distance in (0.02, 0.04)]
    second = sorted(s.floors[1] for s in pictures)
    below_white = [_mean(1 - s.ceilings[i] for s in pictures) for i in (2, 3)]
    return [
        *(float(lows[half]), _log(lows[0]), _log(lows[1]), _log(lows[half] - lows[0]), _log(lows[quarter] - lows[0])),
        *(float(highs[half]), _log(second[half]), *below_white),
        *(max(s.bright_min for s in pictures), _log(max(s.chromas[2] for s in pictures)), _mean(map(_gap, pictures))),
        *(*near, *(min(low, 0.1) * share for share in near[:3]), *(min(high, 0.1) * share for share in near_white)),
        *(min(low, 0.03), min(high, 0.03), min(high, 0.06)),
        *(low * below_white[0], low * _mean(s.mean for s in pictures), low * _mean(s.deviation for s in pictures)),
        *(low * _mean(s.bright_min for s in pictures), high * _mean(second)),
    ]


def _gap(s: Statistics) -> float:
    """How far the most saturated dark colours of one picture stay from the edge of the gamut."""
    dark, _ = saturations([s], s.floors[0], max(s.ceilings[0], s.floors[0] + 0.05))
    return _log(1 - dark)


def _log(value: float) -> float:
    return math.log(max(float(value), 0.0) + 0.01)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


@cache
def _weights() -> dict[str, np.ndarray]:
    """For each set the weights (4, 30) of the answers; the last of each is a constant."""
    document = read_json_text(WEIGHTS)
    return {name: np.array([document[name][answer] for answer in ANSWERS]) for name in ("file", "own")}
