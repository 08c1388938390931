"""Decode and encode a picture in one piece: the reference that every other way is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_manager.codec.build import Autoencoder
from vae_manager.errors import BadInputError

LOGVAR_RANGE = (-30.0, 20.0)
"""ldm clamps the log-variance to this before it is used (`DiagonalGaussianDistribution`)."""


@torch.no_grad()
def decode(vae: Autoencoder, z: Tensor) -> Tensor:
    """Decode unscaled latents (N, C, h, w) to float32 pixels (N, 3, H, W), about [-1, 1], not clamped.

    Runs on the device and in the precision of the autoencoder's weights.

    Raises:
        BadInputError: the latent does not fit this VAE, or holds NaN or infinite values.
    """
    check_latent(z, vae.config.latent_channels)
    weight = next(vae.parameters())
    return vae.decode(z.to(weight.device, weight.dtype)).float()


@torch.no_grad()
def encode(vae: Autoencoder, pixels: Tensor) -> Tensor:
    """Encode pixels (N, 3, H, W) in [-1, 1] to float32 moments (N, 2·C, h, w): mean, then log-variance.

    H and W must be multiples of the VAE's ratio (8 for all of Stable Diffusion's).

    Raises:
        BadInputError: the picture's size or channels do not fit this VAE.
    """
    n, c, height, width = pixels.shape
    ratio = vae.config.ratio
    if c != vae.config.image_channels or height % ratio or width % ratio or not n * height * width:
        raise BadInputError(
            f"A picture of {width}×{height} with {c} channels cannot be encoded: this VAE takes "
            f"{vae.config.image_channels} channels and sides that are multiples of {ratio}."
        )
    weight = next(vae.parameters())
    return vae.encode_moments(pixels.to(weight.device, weight.dtype)).float()


def latent_of(moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The latent (N, C, h, w) of the moments (N, 2·C, h, w): their mean, or with a generator a sample."""
    mean, logvar = moments.chunk(2, dim=1)
    if generator is None:
        return mean
    std = torch.exp(0.5 * logvar.clamp(*LOGVAR_RANGE))
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    return mean + std * noise.to(mean.device)


def check_latent(z: Tensor, channels: int) -> None:
    """Raise BadInputError unless z is a batch of finite latents with that many channels."""
    if z.ndim != 4 or not z.numel():
        raise BadInputError(
            f"A tensor of shape {list(z.shape)} is no latent of pictures, which has four axes: (pictures, channels, "
            "height, width), none of them empty."
        )
    if z.shape[1] != channels:
        raise BadInputError(
            f"A latent of shape {list(z.shape)} cannot be decoded with this VAE, which takes {channels} channels: "
            "it comes from a model of another family."
        )
    if not torch.isfinite(z).all():
        raise BadInputError(
            "The latent holds NaN or infinite values, so there is no picture in it: the model failed before the VAE "
            "did. Try the model in a higher precision, or other settings."
        )
