"""Match a picture to an aligned reference: the init picture of img2img, the first pass of hires, the surroundings
of an inpaint. A reference that shows something else is told by what the fit leaves over, and is not used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.color.fit import BOX, box_down, fit_map
from vae_manager.color.matrix import LUMA
from vae_manager.color.statistics import all_finite

MAX_RESIDUAL = 0.07
"""Median distance of the colours after the fit. Measured: ≤ .052 for aligned pictures, ≥ .095 for unrelated ones."""

MIN_AGREEMENT = 0.35
"""Least correlation of the two pictures' local contrast: a flat reference leaves a small residual whatever it shows."""

GAINS = (0.5, 2.5)
"""Singular values that a fault's inverse can have."""

UNSEEN = 0.006
"""A map that moves the colours by less than this (median) is not worth touching a picture for."""

ASPECT = 0.03


@dataclass(frozen=True, eq=False)
class ReferenceFit:
    """What the fit found. `matrix` is None where the reference cannot be used, the identity where it agrees."""

    matrix: Tensor | None
    residual: float
    agreement: float


def fit_reference(pixels: Tensor, reference: Tensor, changed: Tensor | None = None) -> ReferenceFit:
    """The map that takes `pixels` (3, H, W) to the colours of `reference` (3, H′, W′), if they show the same thing.

    `changed` (H, W) in [0, 1] says which part was meant to change (an inpaint's mask), and has no say.
    """
    if not (same_shape(pixels, reference) and all_finite(pixels) and all_finite(reference)):
        return ReferenceFit(None, 1.0, 0.0)
    height, width = pixels.shape[1:]
    grid = max(2, round(height / BOX)), max(2, round(width / BOX))
    source, target = box_down(pixels, *grid), box_down(reference, *grid)
    kept = torch.ones(len(source), dtype=torch.bool)
    if changed is not None:
        kept = F.adaptive_avg_pool2d(changed[None].double(), grid).flatten() < 0.01
        if kept.sum() < 16:
            return ReferenceFit(None, 1.0, 0.0)
    alike = agreement(source, target, grid, kept)
    source, target = source[kept], target[kept]
    matrix, residuals = fit_map(source, target, wary=True)
    residual = float(residuals.median())
    if residual > MAX_RESIDUAL or alike < MIN_AGREEMENT or not _plausible(matrix):
        return ReferenceFit(None, residual, alike)
    moved = (source @ matrix[:, :3].T + matrix[:, 3] - source).norm(dim=1)
    if moved.median() < UNSEEN:
        matrix = torch.eye(3, 4, dtype=torch.float64)
    return ReferenceFit(matrix, residual, alike)


def same_shape(pixels: Tensor, reference: Tensor) -> bool:
    """Whether two pictures (3, H, W) of whatever size have the same proportions."""
    (height, width), (other_height, other_width) = pixels.shape[1:], reference.shape[1:]
    return abs(width * other_height / (height * other_width) - 1) <= ASPECT


def agreement(source: Tensor, target: Tensor, grid: tuple[int, int], kept: Tensor | None = None) -> float:
    """Correlation of the differences between neighbours' lumas: 1 for the same picture, about 0 for others.

    `source` and `target` are the colours (P, 3) of a grid's P blocks, `kept` (P,) those that have a say (all).
    Differences are clipped at three times their median, so that one strong edge does not decide.
    """
    weights = source.new_tensor(LUMA)
    rows, columns = grid
    pairs = torch.ones(rows * columns, dtype=torch.bool) if kept is None else kept
    pairs = pairs.reshape(grid)
    both = torch.cat([(pairs[1:] & pairs[:-1]).flatten(), (pairs[:, 1:] & pairs[:, :-1]).flatten()])
    a, b = (_differences((colours @ weights).reshape(grid))[both] for colours in (source, target))
    scale = (a.norm() * b.norm()).clamp(min=1e-9)
    return float(a @ b / scale)


def _differences(y: Tensor) -> Tensor:
    d = torch.cat([y.diff(dim=0).flatten(), y.diff(dim=1).flatten()])
    limit = max(3 * float(d.abs().median()), 1e-6)
    return d.clamp(-limit, limit)


def _plausible(matrix: Tensor) -> bool:
    gains = torch.linalg.svdvals(matrix[:, :3])
    return bool(gains.min() >= GAINS[0] and gains.max() <= GAINS[1])
