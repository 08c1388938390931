"""Fit the linear model with which pools of pictures are judged (`vae_manager/color/pool_model.py`).

    python -m tools.collect_photos --out photos
    python -m tools.fit_color_pools --photos photos --out vae_manager/data/color_pools.json

Pools of eight and more different photographs of `photos/train` and `photos/color-tune` are made: sound ones,
legitimately flat ones (`build_color_set`'s kinds, all pictures of a pool or most of them; matte film looks more often
than others), and faulty ones, mostly as decoders make them (`real_faults`, with any overshoot up to .45 beyond white),
the rest clipped before the fault. A faulty pool may hold some fog and night, too. Where a fault counts as found is set
by cross-validation: of the sound pools three in a thousand may pass for faulty, of the legitimately flat ones, and of
matte ones, six.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tools.build_color_set import FAULTS as CLIPPED_FAULTS
from tools.build_color_set import FROM_PHOTOS, crops, fault_matrix, matte
from tools.real_faults import FAULTS, Case, Fault, case, draw, jpeg, rounded
from vae_manager.color.matrix import LUMA, affine
from vae_manager.color.pool import MIN_PICTURES, different, lifted_alike
from vae_manager.color.pool_model import ANSWERS, features
from vae_manager.color.statistics import SAMPLE, OwnEnds, Statistics, own_ends, statistics

CROPS = 4
"""Of each photograph."""

LIKELY = {
    "contrast": 4.0, "half": 1.0, "lifted_blacks": 1.5, "gamma": 0.5, "soft_ends": 0.3, "lowered_whites": 1.0,
    "chroma": 0.5, "clipped-contrast": 2.0, "clipped-chroma": 2.0, "clipped-full": 2.0,
}  # fmt: skip
"""How much each fault weighs in what is to be undone. Contrast around mid-grey is what has been seen in the wild."""

FOUND = ("contrast", "clipped-contrast", "clipped-chroma", "clipped-full")
"""What is to be found: both ends are gone. Black that is lifted alone is what a film look does, too, and a curve that
flattens the ends leaves the middle tones as they should be: a stretch would spoil them."""

GATE = {"sound": 1.5, "legit": 1.0, "matte": 3.0, "one-matte": 3.0, "soft_ends": 3.0} | dict.fromkeys(FOUND, 1.0)
"""How much a pool weighs in whether there is a fault; those that are not named here have no say."""

PASS_SOUND, PASS_FLAT = 0.003, 0.006
FOLDS = 6
RIDGE = 30.0
"""Of the levels; the logits have `LOGIT_RIDGE`. Both on numbers of mean 0 and deviation 1."""
LOGIT_RIDGE = 10.0

Rng: TypeAlias = np.random.Generator
Array: TypeAlias = np.ndarray


@dataclass(frozen=True, eq=False)
class Pool:
    """Pictures of one VAE, and what is wrong with it."""

    what: str
    """'sound', 'legit', 'matte', 'one-matte' or a key of `LIKELY`."""
    seen: list[Statistics]
    own: list[OwnEnds | None]
    cases: list[Case]
    """The first three."""
    wanted: tuple[float, float, float]
    """Black lifted, white lowered, logarithm of the chroma gain, by the stretch that comes nearest."""

    def of(self, own: bool) -> list[Statistics]:
        """The pictures that count, with or without the decoder's own values."""
        with_own = [ends.on(s) if own and ends else s for s, ends in zip(self.seen, self.own, strict=True)]
        return different(with_own)


def pool(photos: Sequence[list[Array]], number: int, rng: Rng) -> Pool:
    """A random pool. `photos`: for each photograph its crops."""
    chance, over, clipped = rng.random(), 0.45 * rng.random() ** 1.5, False
    kind, share = None, 0.3 if rng.random() < 0.3 else 0.0
    what, fault = "sound", _nothing
    if chance < 0.25:
        over *= float(rng.random() > 0.3)
    elif chance < 0.45:
        what, share = "legit", 1.0 if rng.random() < 0.6 else rng.uniform(0.4, 0.8)
        if rng.random() < 0.4:
            what, kind = ("matte", matte) if rng.random() < 0.5 else ("one-matte", one_matte(rng))
        else:
            kind = FROM_PHOTOS[rng.integers(len(FROM_PHOTOS))]
    elif chance < 0.9:
        what = FAULTS[number % len(FAULTS)].__name__
        fault = draw(what, rng)
    else:
        name, clipped = CLIPPED_FAULTS[number % len(CLIPPED_FAULTS)], True
        what, fault = f"clipped-{name}", _mapped(torch.tensor(fault_matrix(name, rng)))
    size = 8 if rng.random() < 0.85 else int(rng.choice([12, 16, 24]))
    cases = []
    for photo in rng.choice(len(photos), size, replace=False):
        shown = photos[photo][rng.integers(len(photos[photo]))]
        if rng.random() < share:
            shown = (kind or FROM_PHOTOS[rng.integers(len(FROM_PHOTOS))])(shown, rng).clip(0, 1)
        quality = 90 if rng.random() < 0.2 else None
        if quality is None:  # the pixels that `statistics` looks at are enough
            step = max(1, round(math.sqrt(shown.shape[0] * shown.shape[1] / SAMPLE)))
            shown = shown[::step, ::step]
        v = torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1).float()
        cases.append(_clipped_first(v, fault, quality) if clipped or not over else case(v, fault, over, rng, quality))
    wanted = _nearest(cases[:3]) if what in LIKELY else (0.0, 0.0, 0.0)
    seen, own = [statistics(one.bad) for one in cases], [own_ends(one.raw) for one in cases]
    return Pool(what, seen, own, cases[:3], wanted)


def one_matte(rng: Rng) -> Callable[[Array, Rng], Array]:
    """The film look of one prompt: black is lifted alike in all of its pictures."""
    floor = rng.uniform(0.05, 0.16)
    return lambda v, _: floor + (1 - floor) * v


def _nothing(v: Tensor) -> Tensor:
    return v


def _mapped(matrix: Tensor) -> Fault:
    return lambda v: affine(v, matrix)


def _clipped_first(v: Tensor, fault: Fault, quality: int | None) -> Case:
    raw = fault(v)
    return Case(raw, rounded(raw) if quality is None else jpeg(rounded(raw), quality), rounded(v))


def _nearest(cases: Sequence[Case]) -> tuple[float, float, float]:
    """By least squares over what is clipped nowhere."""
    bad, truth = (
        torch.cat([v.reshape(3, -1)[:, :: max(1, v[0].numel() // 2500)] for v in part], dim=1).double().numpy()
        for part in ([one.bad for one in cases], [one.truth for one in cases])
    )
    return nearest(bad, truth)


def nearest(bad: Array, truth: Array) -> tuple[float, float, float]:
    """The stretch between colours (3, P): black lifted, white lowered, logarithm of the chroma gain that was lost."""
    kept = (np.minimum(bad, truth) > 0.01).all(0) & (np.maximum(bad, truth) < 0.99).all(0)
    if kept.sum() < 200:
        return 0.0, 0.0, 0.0
    bad, truth = bad[:, kept], truth[:, kept]
    y, wanted = np.array(LUMA) @ bad, np.array(LUMA) @ truth
    together = np.cov(y, wanted)
    gain = together[0, 1] / together[0, 0]
    offset = wanted.mean() - gain * y.mean()
    chroma = ((bad - y) * (truth - wanted)).sum() / ((bad - y) ** 2).sum() / gain
    return float(-offset / gain), float(1 - (1 - offset) / gain), math.log(max(float(chroma), 0.3))


# --- the fit


@dataclass(frozen=True)
class Scaled:
    """Features (P, F) with mean 0 and deviation 1, a constant beside them, and the way back."""

    x: Array
    mean: Array
    deviation: Array

    @classmethod
    def of(cls, raw: Array) -> Scaled:
        mean, deviation = raw.mean(0), raw.std(0) + 1e-9
        return cls(np.hstack([(raw - mean) / deviation, np.ones((len(raw), 1))]), mean, deviation)

    def unscaled(self, weights: Array) -> Array:
        """Weights for raw features, the constant last."""
        own = weights[:-1] / self.deviation
        return np.append(own, weights[-1] - own @ self.mean)


def fit_line(raw: Array, y: Array, share: Array) -> Array:
    """Weighted ridge regression."""
    scaled = Scaled.of(raw)
    weighted = scaled.x * share[:, None]
    return scaled.unscaled(np.linalg.solve(weighted.T @ scaled.x + _penalty(raw, RIDGE), weighted.T @ y))


def fit_logit(raw: Array, y: Array, share: Array) -> Array:
    """Weighted logistic regression, by Newton's steps."""
    scaled = Scaled.of(raw)
    x, penalty, w = scaled.x, _penalty(raw, LOGIT_RIDGE), np.zeros(raw.shape[1] + 1)
    for _ in range(30):
        p = 1 / (1 + np.exp(-(x @ w).clip(-30, 30)))
        slope = x.T @ (share * (p - y)) + penalty @ w
        bend = (x * (share * p * (1 - p))[:, None]).T @ x + penalty + 1e-6 * np.eye(len(w))
        w = w - np.linalg.solve(bend, slope)
    return scaled.unscaled(w)


def _penalty(raw: Array, ridge: float) -> Array:
    return np.diag([ridge] * raw.shape[1] + [0.0])


def fit(pools: Sequence[Pool], own: bool) -> dict[str, list[float]]:
    """The weights of all answers."""
    kept = [(one, pictures) for one in pools if len(pictures := one.of(own)) >= MIN_PICTURES]
    what = np.array([one.what for one, _ in kept])
    raw, wanted = np.array([features(pictures) for _, pictures in kept]), np.array([one.wanted for one, _ in kept])
    faulty, likely = np.isin(what, FOUND), np.array([LIKELY.get(name, 0.0) for name in what])
    gate = np.array([GATE.get(name, 0.0) for name in what])
    fault = fit_logit(raw, faulty, gate)
    alike = np.array([lifted_alike(pictures) for _, pictures in kept])
    fault[-1] -= _threshold(raw, what, faulty, gate, alike)
    found = {"fault": fault}
    for answer, target in zip(ANSWERS[1:], wanted.T, strict=True):
        found[answer] = fit_line(raw[faulty], target[faulty], likely[faulty])
    return {answer: [float(f"{weight:.6g}") for weight in found[answer]] for answer in ANSWERS}


def _threshold(raw: Array, what: Array, faulty: Array, gate: Array, alike: Array) -> float:
    """The logit above which there is a fault, by what models say that never saw the pool. Those whose blacks are not
    lifted `alike` are touched by no logit (but for `pool.BOTH_GONE`, which was set when this was)."""
    fold = np.random.default_rng(0).permutation(len(raw)) % FOLDS
    logit = np.empty(len(raw))
    for index in range(FOLDS):
        weights = fit_logit(raw[fold != index], faulty[fold != index], gate[fold != index])
        logit[fold == index] = raw[fold == index] @ weights[:-1] + weights[-1]
    logit[~alike] = logit.min()
    passed = {"sound": PASS_SOUND, "legit": PASS_FLAT, "matte": PASS_FLAT, "one-matte": PASS_FLAT}
    least = max(np.quantile(logit[what == name], 1 - share) for name, share in passed.items())
    found = {name: f"{(logit[what == name] > least).mean():.0%}" for name in sorted(set(what.tolist()))}
    print("found, cross-validated:", found)
    return float(least)


def main() -> None:
    """Parse the command line and fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, default=Path("photos"))
    parser.add_argument("--pools", type=int, default=2300)
    parser.add_argument("--out", type=Path, default=Path("vae_manager/data/color_pools.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    files = [file for folder in ("train", "color-tune") for file in sorted((arguments.photos / folder).iterdir())]
    photos = [list(crops(file, CROPS, rng)) for file in tqdm(files)]
    # their pictures, of which only statistics are wanted, would take 15 GB
    pools = [replace(pool(photos, number, rng), cases=[]) for number in tqdm(range(arguments.pools))]
    write(arguments.out, pools)


def write(path: Path, pools: Sequence[Pool]) -> None:
    """Fit both sets of weights and write them."""
    document = {"about": "made by tools/fit_color_pools.py"}
    document |= {name: fit(pools, own) for name, own in (("file", False), ("own", True))}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
