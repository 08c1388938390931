"""Match a picture to an aligned reference: the init picture of img2img, the first pass of hires, the surroundings
of an inpaint. A reference that shows something else is told by what the fit leaves over, and is not used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.color.fit import BOX, box_down, fit_map
from vae_manager.color.matrix import LUMA

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
    (height, width), (other_height, other_width) = pixels.shape[1:], reference.shape[1:]
    ratio = width * other_height / (height * other_width)
    if abs(ratio - 1) > ASPECT or not (pixels.isfinite().all() and reference.isfinite().all()):
        return ReferenceFit(None, 1.0, 0.0)
    grid = max(2, round(height / BOX)), max(2, round(width / BOX))
    source, target = box_down(pixels, *grid), box_down(reference, *grid)
    agreement = _agreement(source, target, grid)
    if changed is not None:
        kept = F.adaptive_avg_pool2d(changed[None].double(), grid).flatten() < 0.01
        if kept.sum() < 16:
            return ReferenceFit(None, 1.0, agreement)
        source, target = source[kept], target[kept]
    matrix, residuals = fit_map(source, target)
    residual = float(residuals.median())
    if residual > MAX_RESIDUAL or agreement < MIN_AGREEMENT or not _plausible(matrix):
        return ReferenceFit(None, residual, agreement)
    moved = (source @ matrix[:, :3].T + matrix[:, 3] - source).norm(dim=1)
    if moved.median() < UNSEEN:
        matrix = torch.eye(3, 4, dtype=torch.float64)
    return ReferenceFit(matrix, residual, agreement)


def _agreement(source: Tensor, target: Tensor, grid: tuple[int, int]) -> float:
    """Correlation of the differences between neighbours' lumas: 1 for the same picture, about 0 for others.

    Differences are clipped at three times their median, so that one strong edge does not decide.
    """
    weights = source.new_tensor(LUMA)
    a, b = (_differences((colours @ weights).reshape(grid)) for colours in (source, target))
    scale = (a.norm() * b.norm()).clamp(min=1e-9)
    return float(a @ b / scale)


def _differences(y: Tensor) -> Tensor:
    d = torch.cat([y.diff(dim=0).flatten(), y.diff(dim=1).flatten()])
    limit = max(3 * float(d.abs().median()), 1e-6)
    return d.clamp(-limit, limit)


def _plausible(matrix: Tensor) -> bool:
    gains = torch.linalg.svdvals(matrix[:, :3])
    return bool(gains.min() >= GAINS[0] and gains.max() <= GAINS[1])
