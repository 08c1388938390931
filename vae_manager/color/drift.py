"""Keep img2img and loopback from drifting: a picture that goes through a VAE again and again loses a little contrast
and gains a little colour each time, and after ten loops it shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.color.fit import BOX, box_down
from vae_manager.color.matrix import apply, compose, identity
from vae_manager.color.reference import agreement, same_shape
from vae_manager.color.statistics import all_finite

SAME = 0.85
"""Least correlation of the two pictures' local contrast: below, what they show was changed (docs/color.md)."""

GAINS = (0.6, 1.6)
"""What one loop can take of a channel's contrast, or add to it. More is no drift, but a fault or a wish."""

SHIFT = 0.12
"""The same for the channels' means."""

ROUNDS, NEAR = 8, 2e-4
"""The gamut step moves means and contrasts a little, so what is left is matched again: this often, or until means are
this near, and contrasts by this share. Most pictures are after one or two."""

CELL, PARTS, SETTLING = 16, 4, 6
"""Pixels of the side of a block whose mean is held, parts of it in a reduced picture, and how often a smooth field is
put right there until it carries the blocks' means: what lies between blocks is interpolated."""

STRANGE = 0.1
"""A block whose mean has moved by more was painted anew: it stays, and those that moved less are held the less."""

LEAST = 0.01
"""A channel with less deviation than this has no contrast to match, only a mean."""


def hold(pixels: Tensor, reference: Tensor, changed: Tensor | None = None) -> Tensor:
    """`pixels` (3, H, W), float, gamma RGB in [0, 1], with the channel means and contrasts of `reference`, and, where
    a block of it shows the same, with the block's mean colour.

    Round the result to 8 bits (`correct.to_levels`): truncation darkens by half a level a loop.

    Args:
        reference: what went into the loop, of the same shape as far as proportions go.
        changed: (H, W) in [0, 1], the part that was meant to change; it has no say and is left bit for bit as it is.

    Returns:
        float32; the very same object where the content was changed, or the colours moved further than drift does.
    """
    if drift_map(pixels, reference, changed) is None:
        return pixels
    near = pixels.float() + low_drift(pixels.float(), reference, changed)
    matrix = drift_map(near.clamp_(0, 1), reference, changed)
    out = near if matrix is None else apply(near, matrix)
    return out if changed is None else torch.where(changed > 0, pixels.to(out), out)


def low_drift(pixels: Tensor, reference: Tensor, changed: Tensor | None = None) -> Tensor:
    """The smooth field (3, H, W) that gives blocks of `CELL` pixels the mean colours that they have in `reference`, as
    far as they still show the same."""
    rows, columns = (max(2, round(side / CELL)) for side in pixels.shape[1:])
    grid = rows, columns
    small = F.adaptive_avg_pool2d(pixels, (PARTS * rows, PARTS * columns))
    wanted = F.adaptive_avg_pool2d(reference.to(pixels), grid)
    missing = wanted - F.adaptive_avg_pool2d(small, grid)
    weight = (1 - (missing.abs().amax(0) / STRANGE).clamp(max=1) ** 2) ** 2
    if changed is not None:
        weight = weight * (F.adaptive_avg_pool2d(changed[None].to(pixels), grid)[0] < 0.01)
    field = torch.zeros_like(wanted)
    for _ in range(SETTLING):
        moved = (small + _spread(field, small.shape[1:])).clamp(0, 1)
        field = field + weight * (wanted - F.adaptive_avg_pool2d(moved, grid))
    return _spread(field, pixels.shape[1:])


def _spread(field: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(field[None], list(size), mode="bilinear", align_corners=False)[0]


def drift_map(pixels: Tensor, reference: Tensor, changed: Tensor | None = None) -> Tensor | None:
    """The map (3, 4) with which `hold` ends: a gain and an offset for each channel; None: leave it alone."""
    if not (same_shape(pixels, reference) and all_finite(pixels) and all_finite(reference)):
        return None
    grid = max(2, round(pixels.shape[1] / BOX)), max(2, round(pixels.shape[2] / BOX))
    target = box_down(reference, *grid)
    kept = torch.ones(len(target), dtype=torch.bool)
    if changed is not None:
        kept = F.adaptive_avg_pool2d(changed[None].double(), grid).flatten() < 0.01
    if kept.sum() < 16 or agreement(box_down(pixels, *grid), target, grid, kept) < SAME:
        return None
    have, want = _moments(pixels, changed), _moments(reference, None if changed is None else _fit(changed, reference))
    matrix = _match(have, want)
    gains = matrix[:, :3].diagonal()
    if gains.min() < GAINS[0] or gains.max() > GAINS[1] or (have[0] - want[0]).abs().max() > SHIFT:
        return None
    for _ in range(ROUNDS - 1):
        left = _match(_moments(apply(pixels, matrix), changed), want)
        if (left - identity()).abs().max() < NEAR:
            break
        matrix = compose(left, matrix)
    return matrix


def _moments(pixels: Tensor, changed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (3,) of the channels, outside the changed part."""
    colours = pixels.flatten(1) if changed is None else pixels[:, changed <= 0]
    deviation, mean = torch.std_mean(colours.double(), dim=1, correction=0)
    return mean, deviation


def _match(have: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> Tensor:
    """The map from some means and deviations to others."""
    (mean, deviation), (wanted, other) = have, want
    flat = torch.minimum(deviation, other) < LEAST
    gain = torch.where(flat, torch.ones_like(deviation), other / deviation.clamp(min=LEAST))
    return torch.cat([torch.diag(gain), (wanted - gain * mean)[:, None]], dim=1)


def _fit(changed: Tensor, reference: Tensor) -> Tensor:
    return F.interpolate(changed[None, None].float(), reference.shape[1:])[0, 0]
