"""A VAE's latents and the diffusion model's: the one place where they are scaled."""

from __future__ import annotations

from torch import Tensor

from vae_manager.latents.spaces import LatentSpace


def to_model(z: Tensor, space: LatentSpace) -> Tensor:
    """A VAE's latents as the diffusion model, or a tiny VAE, has them; of a space with one scale."""
    assert space.scale is not None
    return (z - space.shift) * space.scale


def of_model(z: Tensor, space: LatentSpace) -> Tensor:
    """The diffusion model's latents as the full VAE has them; of a space with one scale."""
    assert space.scale is not None
    return z / space.scale + space.shift
