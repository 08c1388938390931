"""A node pack for the live tests of ComfyUI: keeps pictures and latents as they are, what was asked of ComfyUI, and
what was taken between two of its nodes."""

import ctypes
import gc
import json
import time
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch

asked: list[float] = []
shown: list[int] = []
begun = {"seconds": 0.0, "resident": 0}


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


def in_memory(name):
    """Bytes of a line of /proc/self/status. `getrusage` will not do: what a thread that ended has seen stays in it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


class Begin:
    """From here on time of the processor and memory are counted: the peak of what is resident beyond what is now."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "run", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"samples": ("LATENT",)}}

    @classmethod
    def IS_CHANGED(cls, samples):  # noqa: N802
        return float("nan")  # never from the cache, and so nothing behind it either

    def run(self, samples):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        begun["resident"] = in_memory("VmRSS")
        begun["seconds"] = time.process_time()
        return (samples,)


class Keep:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        optional = {"image": ("IMAGE",), "samples": ("LATENT",)}
        return {"required": {"name": ("STRING", {})}, "optional": optional}

    def run(self, name, image=None, samples=None):
        took = {
            "seconds": time.process_time() - begun["seconds"],
            "grown": in_memory("VmHWM") - begun["resident"],
        }
        folder = Path(folder_paths.get_output_directory())
        torch.save(image if samples is None else samples["samples"], folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps({"asked": asked, "shown": len(shown), **took}))
        asked.clear()
        shown.clear()
        return {}


NODE_CLASS_MAPPINGS = {"TestKeep": Keep, "TestBegin": Begin}
