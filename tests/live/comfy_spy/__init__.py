"""A node pack for the live tests of ComfyUI: keeps pictures and latents as they are, and what was asked of ComfyUI."""

import json
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch

asked: list[float] = []
shown: list[int] = []


def _noted(inner):
    def load(models, memory_required=0, *args, **kwargs):
        asked.append(float(memory_required))
        return inner(models, memory_required, *args, **kwargs)

    return load


def _seen(inner):
    def update(self, value, *args, **kwargs):
        shown.append(value)
        return inner(self, value, *args, **kwargs)

    return update


comfy.model_management.load_models_gpu = _noted(comfy.model_management.load_models_gpu)
comfy.utils.ProgressBar.update_absolute = _seen(comfy.utils.ProgressBar.update_absolute)


class Keep:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        optional = {"image": ("IMAGE",), "samples": ("LATENT",)}
        return {"required": {"name": ("STRING", {})}, "optional": optional}

    def run(self, name, image=None, samples=None):
        folder = Path(folder_paths.get_output_directory())
        torch.save(image if samples is None else samples["samples"], folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps({"asked": asked, "shown": len(shown)}))
        asked.clear()
        shown.clear()
        return {}


NODE_CLASS_MAPPINGS = {"TestKeep": Keep}
