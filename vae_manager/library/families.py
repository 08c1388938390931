"""The model families: what a latent of each looks like.

Scale and shift turn an autoencoder's latent z into the one the diffusion model sees, (z − shift) · scale. They
are the model configurations' own numbers (Stable Diffusion v1/v2 and SDXL `scale_factor`; SD3 and Flux
`scaling_factor`, `shift_factor`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A latent space that checkpoints and VAEs share."""

    id: str
    title: str
    latent_channels: int
    scale_factor: float | None
    shift_factor: float = 0.0


FAMILIES = {
    family.id: family
    for family in (
        Family("sd1", "Stable Diffusion 1.x and 2.x", 4, 0.18215),
        Family("sdxl", "SDXL", 4, 0.13025),
        Family("sd3", "Stable Diffusion 3", 16, 1.5305, 0.0609),
        Family("flux", "Flux.1", 16, 0.3611, 0.1159),
        Family("flux2", "Flux.2", 32, None),
        Family("wan", "Wan and Qwen", 16, None),
    )
}


def family_title(family: str) -> str:
    """A family's name for people; ids that are no latent space of ours are returned as they are."""
    return FAMILIES[family].title if family in FAMILIES else family
