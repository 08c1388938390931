"""Pictures that are 8-bit already, as Pillow holds them: what can be seen of them, and their correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_manager.codec.picture_files import has_alpha, to_srgb
from vae_manager.color.correct import correct_levels
from vae_manager.color.diagnose import diagnose
from vae_manager.color.evidence import Evidence, Finding, Reference
from vae_manager.color.matrix import STRAIGHT, Curve
from vae_manager.color.statistics import Statistics

if TYPE_CHECKING:
    from vae_manager.color.trip import Undoing

MID_GREY = (128, 128, 128, 255)
"""What transparent pixels are laid on, so that they have no say."""


def visible(image: Image.Image) -> Tensor:
    """(3, H, W) float in [0, 1], in sRGB, of what can be seen of a picture of any 8-bit mode."""
    image = to_srgb(image)
    rgb = image.convert("RGB")
    if has_alpha(image):
        rgba = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, MID_GREY), rgba).convert("RGB")
    return levels(rgb).float() / 255


def look(
    image: Image.Image,
    reference: Tensor | None = None,
    pool: Sequence[Statistics] = (),
    trip: Undoing | None = None,
) -> Finding:
    """Diagnose a picture by what can be seen of it, and by what else there is: a `reference` (3, H, W), others, what
    undoes a round trip through its VAE."""
    shown = None if reference is None else Reference(reference)
    return diagnose(Evidence(visible(image), reference=shown, pool=pool, trip=trip))


def corrected(
    image: Image.Image,
    matrix: Tensor,
    strength: float = 1.0,
    seed: int = 0,
    *,
    curve: Curve = STRAIGHT,
    clip: bool = False,
) -> Image.Image:
    """The picture with a 3×4 applied (and before it a curve), dithered by a seeded noise; its alpha stays as it is.

    Colours of another profile are turned into sRGB for it, which the result then is in (`to_srgb`).
    """
    image = to_srgb(image)
    out = correct_levels(levels(image.convert("RGB")), matrix, strength, seed, curve=curve, clip=clip)
    result = Image.fromarray(out.permute(1, 2, 0).contiguous().numpy())
    if has_alpha(image):
        result.putalpha(image.convert("RGBA").getchannel("A"))
    return result


def levels(rgb: Image.Image) -> Tensor:
    """uint8 (3, H, W) of an RGB picture."""
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
