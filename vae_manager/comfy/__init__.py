"""ComfyUI's nodes. Only this room imports ComfyUI's modules (`comfy`, `folder_paths`)."""

from __future__ import annotations

from typing import Any

from vae_manager.comfy.choice import ForCheckpoint
from vae_manager.comfy.coding import Decode, Encode, Exact
from vae_manager.comfy.colour import ColourFix

NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {
    "VAEManagerDecode": Decode,
    "VAEManagerEncode": Encode,
    "VAEManagerExact": Exact,
    "VAEManagerForCheckpoint": ForCheckpoint,
    "VAEManagerColourFix": ColourFix,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "VAEManagerDecode": "VAE Decode (exact)",
    "VAEManagerEncode": "VAE Encode (exact)",
    "VAEManagerExact": "VAE (exact)",
    "VAEManagerForCheckpoint": "VAE for this checkpoint",
    "VAEManagerColourFix": "Colour fix",
}
