"""Keep img2img and loopback from drifting: a picture that goes through a VAE again and again loses a little contrast
and gains a little colour each time, and after ten loops it shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.color.fit import BOX, box_down
from vae_manager.color.matrix import apply, identity, into_gamut_
from vae_manager.color.reference import agreement, same_shape
from vae_manager.color.statistics import all_finite

SAME = 0.85
"""Least correlation of the two pictures' local contrast: below, what they show was changed (docs/color.md)."""

GAINS = (0.6, 1.6)
"""What one loop can take of a channel's contrast, or add to it. More is no drift, but a fault or a wish."""

SHIFT = 0.12
"""The same for the channels' means."""

ROUNDS, NEAR, FURTHER = 16, (2e-4, 5e-4), 1.4
"""The gamut step moves means and contrasts a little, so what is left is matched again: this often, or until block
means are this near on average, and contrasts by this share. From the third time on the field goes further than it has
to, as colours at the edge of the gamut follow slowly."""

CELL, PARTS, SETTLING = 16, 4, 6
"""Pixels of the side of a block whose mean is held, parts of it in a reduced picture, and how often a smooth field is
put right there until it carries the blocks' means: what lies between blocks is interpolated."""

STRANGE = 0.1
"""A block whose mean has moved by more was painted anew: it stays, and those that moved less are held the less."""

LEAST = 0.01
"""A channel with less deviation than this has no contrast to match, only a mean."""


def hold(pixels: Tensor, reference: Tensor, changed: Tensor | None = None) -> Tensor:
    """`pixels` (3, H, W), float, gamma RGB in [0, 1], with the colours of `reference` where they show the same.

    Blocks get their mean colours back by a smooth field, and the channels their contrast by a gain of what is finer
    than blocks: that is where a VAE loses it. What the gamut takes away then is given back to the whole. Round the
    result to 8 bits (`correct.to_levels`): truncation darkens by half a level a loop.

    Args:
        reference: what went into the loop, of the same shape as far as proportions go.
        changed: (H, W) in [0, 1], the part that was meant to change. It has no say, and is not held to what was there
            before: it gets back what its surroundings have lost, so that no seam shows.

    Returns:
        float32; the very same object where the content was changed, or the colours moved further than drift does.
    """
    if drift_map(pixels, reference, changed) is None:
        return pixels
    out = pixels.detach().to("cpu", torch.float32, copy=True)
    wanted = _fit(reference.detach().float().cpu(), pixels.shape[1:])
    changed = None if changed is None else changed.float().cpu()
    for count in range(ROUNDS):
        field, share = low_drift(out, wanted, changed)
        out += field if count < 2 else FURTHER * field
        gain = _sharpen_(out, wanted, share, changed)
        into_gamut_(out.flatten(1).numpy())
        if field.abs().mean() < NEAR[0] and (gain - 1).abs().max() < NEAR[1]:
            break
    for _ in range(ROUNDS // 2):
        left = _map_between(_moments(out, changed), _moments(wanted, changed))
        if (left - identity()).abs().max() < NEAR[0]:
            break
        out = apply(out, left)
    return out.to(pixels.device)


def low_drift(pixels: Tensor, reference: Tensor, changed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The smooth field (3, H, W) that gives blocks of `CELL` pixels the mean colours that they have in `reference`, as
    far as they still show the same; and how far each does, (rows, columns) from 0 to 1. Where the picture was meant to
    change the field is that of the surroundings."""
    rows, columns = grid = _grid(pixels)
    small = F.adaptive_avg_pool2d(pixels, (PARTS * rows, PARTS * columns))
    wanted = F.adaptive_avg_pool2d(reference.to(pixels), grid)
    missing = wanted - F.adaptive_avg_pool2d(small, grid)
    share = (1 - (missing.abs().amax(0) / STRANGE).clamp(max=1) ** 2) ** 2
    known = torch.ones_like(share)
    if changed is not None:
        known = (F.adaptive_avg_pool2d(changed[None].to(pixels), grid)[0] < 0.01).to(share)
    share = share * known
    field = torch.zeros_like(wanted)
    for _ in range(SETTLING):
        moved = (small + _spread(field, small.shape[1:])).clamp(0, 1)
        field = _filled(field + share * (wanted - F.adaptive_avg_pool2d(moved, grid)), known)
    return _spread(field, pixels.shape[1:]), share


def drift_map(pixels: Tensor, reference: Tensor, changed: Tensor | None = None) -> Tensor | None:
    """What a loop did to the picture as a whole: a gain and an offset for each channel, the map (3, 4) from `pixels`
    to `reference`. None: they do not show the same, or it is more than a drift."""
    if not (same_shape(pixels, reference) and all_finite(pixels) and all_finite(reference)):
        return None
    grid = max(2, round(pixels.shape[1] / BOX)), max(2, round(pixels.shape[2] / BOX))
    target = box_down(reference, *grid)
    kept = torch.ones(len(target), dtype=torch.bool)
    if changed is not None:
        kept = F.adaptive_avg_pool2d(changed[None].double(), grid).flatten() < 0.01
    if kept.sum() < 16 or agreement(box_down(pixels, *grid), target, grid, kept) < SAME:
        return None
    other = None if changed is None else _fit(changed[None].float(), reference.shape[1:])[0]
    have, want = _moments(pixels, changed), _moments(reference, other)
    matrix = _map_between(have, want)
    gains = matrix[:, :3].diagonal()
    too_far = gains.min() < GAINS[0] or gains.max() > GAINS[1] or (have[0] - want[0]).abs().max() > SHIFT
    return None if too_far else matrix


def _map_between(have: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> Tensor:
    """The map from some means and deviations to others."""
    (mean, deviation), (wanted, other) = have, want
    flat = torch.minimum(deviation, other) < LEAST
    gain = torch.where(flat, torch.ones_like(deviation), other / deviation.clamp(min=LEAST))
    return torch.cat([torch.diag(gain), (wanted - gain * mean)[:, None]], dim=1)


def _sharpen_(pixels: Tensor, reference: Tensor, share: Tensor, changed: Tensor | None = None) -> Tensor:
    """Give the channels, in place, the deviations that they have in `reference`, by a gain (3,) of what is finer than
    blocks. Blocks have as much of a say as they show the same (`share`)."""
    low = _spread(F.adaptive_avg_pool2d(pixels, (share.shape[0], share.shape[1])), pixels.shape[1:])
    fine = pixels - low
    weight = F.interpolate(share[None, None], pixels.shape[1:], mode="nearest").flatten()
    weight /= weight.sum().clamp(min=1e-9)
    rest = _covariance(low, low, weight) - _covariance(reference, reference, weight)
    both, own = _covariance(low, fine, weight), _covariance(fine, fine, weight)
    # the g with which low + g · fine has the wanted variance: own·g² + 2·both·g + rest = 0
    gain = ((both**2 - own * rest).clamp(min=0).sqrt() - both) / own.clamp(min=1e-12)
    gain = torch.where(own < LEAST**2 / 4, torch.ones_like(gain), gain.clamp(*GAINS))
    fine *= (gain - 1)[:, None, None]
    pixels += fine if changed is None else fine * (1 - changed)
    return gain


def _covariance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Of each channel (3,), every pixel with its weight, which add up to 1."""
    a, b = a.flatten(1), b.flatten(1)
    return (a * b) @ weight - (a @ weight) * (b @ weight)


def _filled(field: Tensor, known: Tensor) -> Tensor:
    """The field (3, rows, columns) with what is not known, where `known` (rows, columns) is 0, from its surroundings:
    the nearer they are, the more they count."""
    if bool(known.all()):
        return field
    if known.numel() == 1 or not bool(known.any()):
        return field * known
    coarse = F.avg_pool2d(known[None], 2, ceil_mode=True)[0]
    means = F.avg_pool2d((field * known)[None], 2, ceil_mode=True)[0] / coarse.clamp(min=1e-6)
    return torch.where(known > 0, field, _spread(_filled(means, (coarse > 0).to(known)), known.shape))


def _spread(field: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(field[None], list(size), mode="bilinear", align_corners=False)[0]


def _grid(pixels: Tensor) -> tuple[int, int]:
    rows, columns = (max(2, round(side / CELL)) for side in pixels.shape[1:])
    return rows, columns


def _moments(pixels: Tensor, changed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (3,) of the channels, outside the changed part."""
    colours = pixels.flatten(1) if changed is None else pixels[:, changed <= 0]
    deviation, mean = torch.std_mean(colours.double(), dim=1, correction=0)
    return mean, deviation


def _fit(pixels: Tensor, size: Sequence[int]) -> Tensor:
    """(C, H, W) in the size (height, width) of another."""
    return pixels if pixels.shape[1:] == tuple(size) else F.interpolate(pixels[None], list(size), mode="bilinear")[0]
