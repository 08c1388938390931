"""Apply what was diagnosed: in float, before the picture is rounded to 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_manager.color.diagnose import NAN
from vae_manager.color.evidence import Finding
from vae_manager.color.matrix import STRAIGHT, Curve, apply_finite, blend, blend_curve, is_identity
from vae_manager.color.statistics import all_finite


def treat(pixels: Tensor, found: Finding, strength: float = 1.0) -> tuple[Tensor, Finding]:
    """Correct one picture (3, H, W) as it was diagnosed, and look for NaN where a sample of it did not.

    That costs next to nothing where a map is applied. Returns the very same picture where there is nothing to do or
    a value is not finite, and then `NAN`.
    """
    out = correct(pixels, found.matrix, strength, curve=found.curve, clip=found.clips)
    return out, NAN if out is pixels and not all_finite(pixels) else found


def correct(
    pixels: Tensor,
    matrix: Tensor,
    strength: float = 1.0,
    changed: Tensor | None = None,
    *,
    curve: Curve = STRAIGHT,
    clip: bool = False,
) -> Tensor:
    """The corrected picture (3, H, W) or batch; the very same object where there is nothing to do.

    Args:
        changed: (H, W): where it is 0 (the untouched part of an inpaint) pixels stay bit for bit as they are, between
            0 and 1 they are mixed.
        curve: every channel goes through it before the map.
        clip: `Finding.clips`.
    """
    matrix, curve = blend(matrix, strength), blend_curve(curve, strength)
    if (is_identity(matrix) and curve == STRAIGHT) or (out := apply_finite(pixels, matrix, curve, clip)) is None:
        return pixels
    if changed is None:
        return out
    weight = changed.to(out).clamp(0, 1)
    return torch.where(weight > 0, torch.lerp(pixels.to(out), out, weight), pixels.to(out))


def correct_levels(
    levels: Tensor,
    matrix: Tensor,
    strength: float = 1.0,
    seed: int = 0,
    *,
    curve: Curve = STRAIGHT,
    clip: bool = False,
) -> Tensor:
    """The same for pictures that are 8-bit already: uint8 (3, H, W) in, uint8 out.

    A stretched 8-bit picture has empty levels, which show as bands. So each level is first spread over the width
    that rounding gave it, by a seeded noise that is the same for all three channels and keeps greys grey.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(levels.shape[-2:], generator=generator).to(levels.device) - 0.5
    spread = (levels.float() + noise) / 255
    out = correct(spread, matrix, strength, curve=curve, clip=clip)
    return levels if out is spread else to_levels(out)


def to_levels(pixels: Tensor) -> Tensor:
    """[0, 1] → uint8, rounded to the nearest level (truncation would darken by half a level)."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
