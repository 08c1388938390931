"""Latents on disk: one safetensors file with one float32 tensor `latent` (N, C, h, w), unscaled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vae_manager.errors import BadInputError


@dataclass(frozen=True)
class Latent:
    """A latent and what is needed to make the picture of it."""

    z: Tensor
    family: str = "unknown"
    scale_factor: float | None = None
    size: tuple[int, int] | None = None
    """Width and height of the picture, where it is smaller than the latent's (its sides were padded)."""


def save_latent(path: Path, latent: Latent) -> None:
    """Write the latent, replacing the file as a whole."""
    metadata = {"family": latent.family}
    if latent.scale_factor is not None:
        metadata["scale_factor"] = repr(latent.scale_factor)
    if latent.size is not None:
        metadata["width"], metadata["height"] = map(str, latent.size)
    save_file({"latent": latent.z.detach().to("cpu", torch.float32).contiguous()}, str(path), metadata)


def load_latent(path: Path) -> Latent:
    """Read a latent file.

    Raises:
        BadInputError: no such file, or not a latent file.
    """
    if not path.is_file():
        raise BadInputError(f"There is no latent file {str(path)!r}.")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            if list(file.keys()) != ["latent"]:
                raise BadInputError(
                    f"{str(path)!r} is no latent file: it must hold one tensor named 'latent' (is it a VAE?)."
                )
            z, metadata = file.get_tensor("latent").float(), file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInputError(f"{str(path)!r} is no latent file, or a broken one ({error}).") from error
    try:
        size = (int(metadata["width"]), int(metadata["height"])) if "width" in metadata else None
        scale = float(metadata["scale_factor"]) if "scale_factor" in metadata else None
    except (KeyError, ValueError) as error:
        raise BadInputError(f"{str(path)!r} has a metadata entry that is no number ({error}).") from error
    return Latent(z, metadata.get("family", "unknown"), scale, size)
