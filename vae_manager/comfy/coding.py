"""The nodes that decode and encode exactly."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vae_manager.comfy.exact_vae import MODES, exact_vae, limit_of, run

CATEGORY = "VAE Manager"

HOW: dict[str, Any] = {
    "mode": (
        list(MODES),
        {"tooltip": "auto: in one piece where that fits comfortably, else streamed; exact: always streamed; "
                    "whole: always ComfyUI's own way. All give the same picture."},
    ),
    "memory": (
        "STRING",
        {"default": "auto", "tooltip": "What it may take: auto for what is free, or an amount such as 2GiB."},
    ),
}  # fmt: skip


class Decode:
    """Latents to pictures, with a report of what was done."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Decodes latents of any size within the memory that there is, with the pixels of the whole decode."
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "report")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",), **HOW}}

    def run(self, samples: dict[str, Any], vae: Any, mode: str, memory: str) -> Any:
        images, told = run(vae, "decode", mode, limit_of(memory), samples["samples"])
        if images.ndim == 5:  # a video's frames, as ComfyUI's own node gives them
            images = images.reshape(-1, *images.shape[-3:])
        return {"ui": {"text": [told.report]}, "result": (images, told.report)}


class Encode:
    """Pictures to latents, with a report of what was done."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Encodes pictures of any size within the memory that there is, as the whole encode would."
    FUNCTION = "run"
    RETURN_TYPES = ("LATENT", "STRING")
    RETURN_NAMES = ("samples", "report")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",), **HOW}}

    def run(self, pixels: Tensor, vae: Any, mode: str, memory: str) -> Any:
        samples, told = run(vae, "encode", mode, limit_of(memory), pixels[..., :3])
        return {"ui": {"text": [told.report]}, "result": ({"samples": samples}, told.report)}


class Exact:
    """A VAE for every other node: upscalers, detailers, tiled decoders."""

    CATEGORY = CATEGORY
    DESCRIPTION = "The same VAE, exact wherever it is used; nodes that ask for tiles get the exact result too."
    FUNCTION = "run"
    RETURN_TYPES = ("VAE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"vae": ("VAE",), **HOW}}

    def run(self, vae: Any, mode: str, memory: str) -> tuple[Any]:
        return (exact_vae(vae, mode, limit_of(memory)),)
