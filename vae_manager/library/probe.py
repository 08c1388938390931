"""Tell SD1's latent scale from SDXL's by looking at latents: the two families' VAEs have the same shapes.

A family's scale factor is one over the standard deviation of its latents (Rombach et al., "High-Resolution Image
Synthesis with Latent Diffusion Models", 2022, section 3.3 and appendix G): 1 / 0.18215 = 5.49 for SD1,
1 / 0.13025 = 7.68 for SDXL. So a few photographs are encoded and the standard deviation over all latent numbers is
looked at. What it really is depends on the pictures; published measurements over large sets give, for all channels
together, 5.0 for SD1 (channel means 5.81, 3.25, 0.12, -2.15 and deviations 4.17, 4.62, 3.71, 3.28: NVIDIA's edm2,
training/encoders.py) and 6.9 for SDXL (means -1.6574, 1.886, -1.383, 2.5155 and deviations 8.4927, 5.9022, 6.5498,
5.2299: the latent format of Playground v2.5, which uses SDXL's VAE). The ranges below leave room for the pictures,
and between and outside them the answer is that nobody can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.pictures import load_picture
from vae_manager.codec.whole import encode, latent_of
from vae_manager.errors import VaeFileError
from vae_manager.latents.spaces import title_of
from vae_manager.library.files import VaeFile
from vae_manager.library.state import load_kl

PICTURES = Path(__file__).resolve().parent.parent / "data" / "pictures"

SIDE = 128
"""Pixels: large enough for the statistics, and seconds instead of minutes on a CPU."""

RANGES = {"sd1": (4.3, 6.25), "sdxl": (6.75, 9.2)}
"""Standard deviations of the latents of our pictures that belong to a family."""

UNSURE = "unsure"


@dataclass(frozen=True)
class Probe:
    """What the latents say."""

    family: str
    """'sd1', 'sdxl' or 'unsure'."""
    std: float | None
    """Standard deviation of the latents; None where there are none to look at."""
    evidence: str
    """For people: how the family is known, or why it is not."""


def probe(vae: AutoencoderKL) -> Probe:
    """Which of the two families' scales a VAE has. Runs where the VAE's weights are, in their precision."""
    if vae.config.latent_channels != 4:
        return Probe(UNSURE, None, f"{vae.config.latent_channels} latent channels: neither SD1 nor SDXL")
    if not vae.config.encodes or vae.config.image_channels != 3:
        return Probe(UNSURE, None, "it cannot encode colour pictures, so it has no latents to look at")
    ratio = vae.config.ratio
    if ratio > SIDE or SIDE % ratio:
        return Probe(UNSURE, None, f"{ratio} pixels per latent pixel: neither SD1 nor SDXL")
    pictures = bundled_pictures()
    std = torch.cat([latent_of(encode(vae, picture[None])) for picture in pictures]).std().item()
    for family, (least, most) in RANGES.items():
        if least <= std <= most:  # false for NaN
            return Probe(family, std, f"the standard deviation of its latents, {std:.2f}, is {title_of(family)}'s")
    return Probe(UNSURE, std, f"the standard deviation of its latents, {std:.2f}, is neither SD1's nor SDXL's")


def probe_file(file: VaeFile) -> Probe:
    """Probe a VAE file, or the VAE baked into a checkpoint. Takes seconds.

    Raises:
        VaeFileError: it cannot be loaded.
    """
    try:
        return probe(load_kl(file))
    except MemoryError as error:
        raise VaeFileError("there is not enough memory to look at its latents") from error


@lru_cache(maxsize=4)
def bundled_pictures(side: int = SIDE) -> Tensor:
    """The pictures that come with the program, (N, 3, side, side) in [-1, 1]: light, dark, faces, texture …"""
    pictures = [load_picture(path) for path in sorted(PICTURES.glob("*.jpg"))]
    return torch.cat([F.interpolate(picture, size=(side, side), mode="area") for picture in pictures])
