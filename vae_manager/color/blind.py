"""Judge one picture by itself: is it washed out, and if so, how much of it can be undone?

Boosted trees over 56 statistics say four things: how sure they are, how far black is lifted and white lowered, and
which chroma gain is right. They were fitted to tell faded photographs from good and legitimate pictures
(`tools/fit_color_score.py`); docs/color.md has what they reach on pictures that they never saw. One picture is weak
evidence: everything in `diagnose` that knows more is asked first.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from torch import Tensor

from vae_manager.color.matrix import identity, stretch
from vae_manager.color.statistics import TONES, Statistics, saturations

TREES = Path(__file__).resolve().parent.parent / "data" / "color_trees.safetensors"

LEAF = 255
"""Stands for the feature of a node without children."""

SURE = (0.3, 0.7)
"""Below the first score nothing is done, above the second everything."""

CARE = 0.95
"""Part of what the trees say that is done: a stretch that goes too far spoils more than one that falls short."""

MAX_SHIFT = 0.35
"""No fault that was met lifts black, or lowers white, by more."""

MAX_CHROMA = 0.3
"""Largest logarithm of the chroma gain."""

MIN_TEXTURE, MIN_CHROMA = 0.06, 0.03
"""Flat art, gradients and grey pictures say nothing about their VAE."""


def abstains(s: Statistics) -> str | None:
    """Why nothing can be said of this picture by itself, or None."""
    if s.texture < MIN_TEXTURE:
        return "it is drawn in flat areas or out of focus"
    if s.chromas[2] < MIN_CHROMA:
        return "it has no colours"
    return None


def judge(s: Statistics) -> tuple[float, Tensor]:
    """How likely the picture is washed out (0 to 1), and the map (3, 4) that undoes it as far as that goes."""
    if abstains(s):
        return 0.0, identity()
    x = np.array(features(s), np.float32)
    (sure,) = _answers(x, 0, 1)
    score = _sigmoid(sure)
    if (g := CARE * gate(score)) <= 0:  # as for most pictures: three forests less to walk
        return score, identity()
    return score, correction(g, *_answers(x, 1, 4))


def correction(g: float, black: float, white: float, chroma: float) -> Tensor:
    """The map for the trees' answers, each applied with the weight g: the levels that black was lifted and white
    lowered by, and the logarithm of the chroma gain."""
    if g <= 0:
        return identity()
    low, high = (g * min(max(shift, 0.0), MAX_SHIFT) for shift in (black, white))
    return stretch(low, 1 - high, math.exp(g * min(max(chroma, -MAX_CHROMA), MAX_CHROMA)))


def gate(score: float) -> float:
    """Smoothly from 0 to 1 between the two scores of `SURE`."""
    return smoothstep((score - SURE[0]) / (SURE[1] - SURE[0]))


def smoothstep(t: float) -> float:
    """Smoothly from 0 at 0 to 1 at 1 (3t² − 2t³), and no further."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def looks_right(score: float) -> bool:
    """Whether a picture of this score is more likely right than washed out: its logit has been lowered for care."""
    return score <= _sigmoid(-float(_trees()["lowered"][0]))


def features(s: Statistics) -> list[float]:
    """What the trees see: levels and their spread near black and near white, chroma, texture, the faults' own
    pattern (black lifted .45 for every .55 that white is lowered), and how far the most saturated colours are from
    the edge of the gamut, once the levels are stretched."""
    low, high, chroma = s.floors, [1 - c for c in s.ceilings], s.chromas
    contrast = max(s.ceilings[0] - low[0], 0.05)
    dark, bright = saturations([s], low[0], low[0] + contrast)
    return [
        *(_log(low[0]), _log(low[1]), low[1] - low[0], low[2] - low[0], low[3] - low[0]),
        *(_log(high[0]), _log(high[1]), high[1] - high[0], high[2] - high[0], high[3] - high[0]),
        *(_log(chroma[0]), _log(chroma[1]), _log(chroma[2])),
        *(_log(max(0.0, s.dark_max - low[1])), _log(max(0.0, 1 - s.bright_min - high[1]))),
        *(s.mean, _log(s.deviation), _log(s.texture)),
        *(_log(min(low[0] / 0.45, high[0] / 0.55)), _log(min(low[1] / 0.45, high[1] / 0.55))),
        *(_log(1 - dark), _log(1 - bright), math.log(s.clipped + 0.001)),
        *(_log(chroma[0] / contrast), _log(chroma[1] / contrast), s.deviation / contrast),
        *_places([floor - low[0] for floor in s.tile_floors]),
        *_places([s.ceilings[0] - ceiling for ceiling in s.tile_ceilings]),
        *(max(s.channel_floors) - min(s.channel_floors), max(s.channel_ceilings) - min(s.channel_ceilings)),
        *_saturations_by_tone(s, low[0], contrast),
    ]


def _saturations_by_tone(s: Statistics, floor: float, contrast: float) -> list[float]:
    """For eight even parts of the stretched luma, how near its most saturated colours come to m = 0, then to M = 1;
    −0.5 where there is nothing of that brightness."""
    dark: list[float] = []
    bright: list[float] = []
    for part in range(8):
        tone = min(int((floor + contrast * (part + 0.5) / 8) * TONES), TONES - 1)
        y = min(max(((tone + 0.5) / TONES - floor) / contrast, 0.05), 0.95)
        dark.append(max(-0.5, 1 - (s.dark_edges[tone] - floor) / contrast / y))
        bright.append(max(-0.5, 1 - (floor + contrast - s.bright_edges[tone]) / contrast / (1 - y)))
    return dark + bright


def _places(distances: list[float]) -> list[float]:
    """How many places come near black (or white): the tiles' distances from it, from the least to the greatest."""
    ordered = sorted(max(0.0, distance) for distance in distances)
    return [_log(ordered[0]), _log(ordered[2]), _log(ordered[5]), _log(ordered[8]), ordered[12], ordered[15]]


def _log(value: float) -> float:
    return math.log(value + 0.01)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


def _answers(x: np.ndarray, first: int = 0, last: int = 4) -> list[float]:
    """What the forests from `first` to before `last` come to, of the four: the sum of the leaves that x, float32, falls
    into."""
    trees = _trees()
    feature, number, child = trees["feature"], trees["number"], trees["child"]
    values = trees["baseline"].astype(np.float64)
    own = slice(*trees["forest"].searchsorted((first, last)))
    at, forest = trees["roots"][own], trees["forest"][own]
    while at.size:
        split, reached = feature.take(at), number.take(at)
        leaf = split < 0
        values += np.bincount(forest[leaf], reached[leaf], minlength=len(values))
        inner = ~leaf
        at, forest, split = at[inner], forest[inner], split[inner]
        at = child.take(at) + (x.take(split) > reached[inner])
    return values[first:last].tolist()


@cache
def _trees() -> dict[str, np.ndarray]:
    """Of every node its `feature` (-1: a leaf), its `number` (a leaf's value, or the threshold of a split) and its
    first `child`, which the second one follows; the `roots` of the trees, the `forest` that each belongs to, the
    `baseline` of each forest, and by how much the score's logit is `lowered`.

    In the file a node is seven bytes: where its children are, counted from its tree's root, the `feature` (`LEAF`: it
    has no children) and one `number`.
    """
    kept = load_file(TREES)
    roots, count = kept["roots"].astype(np.intp), len(kept["feature"])
    root = np.repeat(roots, np.diff(np.append(roots, count)))
    split = np.flatnonzero(kept["feature"] != LEAF)
    # a new place for every node: the roots first, then the two children of each split, side by side
    place = np.empty(count, np.intp)
    place[roots] = np.arange(len(roots))
    first = len(roots) + 2 * np.arange(len(split))
    place[root[split] + kept["below"][split]] = first
    place[root[split] + kept["above"][split]] = first + 1
    feature, number, child = np.full(count, -1, np.intp), np.empty(count, np.float32), np.zeros(count, np.intp)
    number[place] = kept["number"]
    feature[place[split]], child[place[split]] = kept["feature"][split], first
    forests = np.repeat(np.arange(len(kept["forests"])), np.diff(np.append(kept["forests"], len(roots))))
    nodes = {"feature": feature, "number": number, "child": child}
    return {**kept, **nodes, "roots": np.arange(len(roots)), "forest": forests}
