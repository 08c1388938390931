"""A VAE's latents and the diffusion model's: the one place where they are scaled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.latents.spaces import LatentSpace


def to_model(z: Tensor, space: LatentSpace) -> Tensor:
    """A VAE's latents (N, C, …) as the diffusion model, or a tiny VAE, has them; of a space that is `scalable`."""
    if space.mean:
        return (z - _channels(space.mean, z)) / _channels(space.std, z)
    assert space.scale is not None
    return (z - space.shift) * space.scale


def of_model(z: Tensor, space: LatentSpace) -> Tensor:
    """The diffusion model's latents as the full VAE has them; of a space that is `scalable`."""
    if space.mean:
        return z * _channels(space.std, z) + _channels(space.mean, z)
    assert space.scale is not None
    return z / space.scale + space.shift


PACKED_EPS = 1e-4
"""What FLUX.2's VAE adds to the variance that its latents are normalised by."""


def of_packed(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The latents of FLUX.2's models, packed (N, 4·C, h, w) and normalised, as the VAE has them: (N, C, 2·h, 2·w).

    Args:
        mean, variance: of each packed channel, as they lie in the VAE's file (`bn.running_mean`, `bn.running_var`).
    """
    std = (variance + PACKED_EPS).sqrt()
    return F.pixel_shuffle(z * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1), 2)


def _channels(numbers: tuple[float, ...], z: Tensor) -> Tensor:
    """One number a channel, beside (N, C, …)."""
    return torch.tensor(numbers, dtype=z.dtype, device=z.device).view(-1, *[1] * (z.ndim - 2))
