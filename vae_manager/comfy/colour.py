"""The node that looks at the colours of pictures and puts them right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vae_manager.color.correct import treat
from vae_manager.color.diagnose import diagnose
from vae_manager.color.evidence import Evidence, Reference
from vae_manager.color.statistics import statistics
from vae_manager.comfy.coding import CATEGORY


class ColourFix:
    """Pictures that are washed out are corrected, others stay as they are; the report says which and why."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Finds out whether pictures are washed out, and corrects those that are, in float."
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE", "STRING", "BOOLEAN")
    RETURN_NAMES = ("image", "report", "changed")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return {
            "required": {
                "image": ("IMAGE",),
                "mode": (["auto", "diagnose"], {"tooltip": "diagnose: only say what is wrong."}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}),
                "session": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "The pictures of a batch, together, are evidence for each of them."},
                ),
            },
            "optional": {"reference": ("IMAGE", {"tooltip": "A picture of the same thing with the right colours."})},
        }

    def run(
        self, image: Tensor, mode: str, strength: float, session: bool, reference: Tensor | None = None
    ) -> dict[str, Any]:
        pixels = image[..., :3].movedim(-1, 1)
        shown = None if reference is None else Reference(reference[0, ..., :3].movedim(-1, 0))
        pool = [statistics(picture) for picture in pixels] if session and len(pixels) > 1 else []
        done, lines, changed = [], list[str](), False
        for number, picture in enumerate(pixels, 1):
            found = diagnose(Evidence(picture, reference=shown, pool=pool))
            treated, found = treat(picture, found, strength if mode == "auto" else 0.0)
            done.append(treated.to(picture))
            corrected = treated is not picture
            changed = changed or corrected
            lines.append(f"picture {number}: {found.reason}{'; corrected' if corrected else ''}")
        out = image if not changed else torch.cat([torch.stack(done).movedim(1, -1).clamp(0, 1), image[..., 3:]], -1)
        report = "\n".join(lines)
        return {"ui": {"text": [report]}, "result": (out, report, changed)}
