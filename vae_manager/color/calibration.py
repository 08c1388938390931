"""Measure the map that makes one VAE's pictures look like another's, on latents that both decode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_manager.codec.build import Autoencoder
from vae_manager.codec.whole import decode
from vae_manager.color.fit import BOX, box_down, fit_map
from vae_manager.errors import BadInputError

MAX_LATENT = 64
"""Only the middle 64×64 of a larger latent is decoded: it says enough about colour, and costs little memory."""


def measure(
    vae: Autoencoder, reference: Autoencoder, latents: Sequence[Tensor], of_reference: Sequence[Tensor] | None = None
) -> tuple[Tensor, float]:
    """The 3×4 on gamma RGB that makes pictures of `vae` look like those of `reference`.

    Args:
        latents: unscaled, each (N, C, h, w).
        of_reference: the same as the reference takes them, where it normalises the model's latents by other numbers.

    Returns:
        the map, and the median residual of the fit in [0, 1].

    Raises:
        BadInputError: one of the two makes NaN, or the latents do not fit them.
    """
    both = zip(latents, latents if of_reference is None else of_reference, strict=True)
    pairs = [(_colours(vae, own), _colours(reference, theirs)) for own, theirs in both]
    source, target = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    if not (source.isfinite().all() and target.isfinite().all()):
        raise BadInputError("One of the VAEs makes NaN of these latents, so there is nothing to compare.")
    matrix, residuals = fit_map(source, target)
    return matrix, float(residuals.median())


def _colours(vae: Autoencoder, z: Tensor) -> Tensor:
    """Box-filtered colours (P, 3) in [0, 1] of what this VAE makes of the latent."""
    top, left = (max(0, side - MAX_LATENT) // 2 for side in z.shape[2:])
    pixels = decode(vae, z[:, :, top : top + MAX_LATENT, left : left + MAX_LATENT]) / 2 + 0.5
    height, width = (max(1, side // BOX) for side in pixels.shape[2:])
    return torch.cat([box_down(picture, height, width) for picture in pixels])
