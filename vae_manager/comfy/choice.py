"""The node that chooses a checkpoint's VAE: rules, presets and what is known of it, with the reason as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths

from vae_manager.comfy.coding import CATEGORY
from vae_manager.library.files import Folder, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.selection.decision import Decision
from vae_manager.selection.facts import FactsCache
from vae_manager.selection.matcher import Matcher
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.presets import Presets
from vae_manager.selection.prompt_tags import take_vae_tag
from vae_manager.selection.rules import load_rules
from vae_manager.store import open_store
from vae_manager.user_data import user_folder


class ForCheckpoint:
    """The VAE that a checkpoint gets, and why."""

    CATEGORY = CATEGORY
    DESCRIPTION = "The right VAE for a checkpoint: your rules and presets, what is known of it, its own if healthy."
    FUNCTION = "run"
    RETURN_TYPES = ("VAE", "STRING")
    RETURN_NAMES = ("vae", "reason")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        return {
            "required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)},
            "optional": {
                "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "A <vae:NAME> in it is obeyed."}),
                "baked": ("VAE", {"tooltip": "The checkpoint's own VAE, if it is loaded already."}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, ckpt_name: str, prompt: str = "", baked: Any = None) -> str:  # noqa: N802
        decision = decide(ckpt_name, prompt)
        return f"{decision.vae.version if decision.vae else decision.kind} {reason(decision)}"

    def run(self, ckpt_name: str, prompt: str = "", baked: Any = None) -> Any:
        decision = decide(ckpt_name, prompt)
        why = reason(decision)
        if decision.vae is not None:
            vae = _load(decision.vae.path)
        elif baked is not None:
            vae = baked
        else:
            vae = _baked(ckpt_name, why)
        return {"ui": {"text": [why]}, "result": (vae, why)}


def decide(ckpt_name: str, prompt: str) -> Decision:
    """Which VAE a checkpoint of ComfyUI's gets."""
    home, path = user_folder(), Path(folder_paths.get_full_path_or_raise("checkpoints", ckpt_name))
    store = open_store(home)
    folders = [Folder(Path(folder)) for folder in folder_paths.get_folder_paths("vae") if Path(folder).is_dir()]
    index = VaeIndex(find_vaes([*folders, Folder(path.parent, marked_only=True)]), HashCache(store))
    rules = load_rules(home / "rules.json", missing_ok=True)
    matcher = Matcher(index, rules, Presets(home / "presets.json"), FactsCache(store), take_vae_tag(prompt).vae)
    decision = matcher.decide(matcher.checkpoint(path, ckpt_name, thorough=True))
    matcher.cache.save()
    return decision


def reason(decision: Decision) -> str:
    """Which VAE and why, with what was refused, in lines."""
    name = decision.vae.name if decision.vae else "the checkpoint's own"
    why = decision.trace[-2].detail if decision.kind == "host" else decision.reason
    return "\n".join([f"{name}: {why}", *decision.warnings, *decision.advice])


def _load(path: Path) -> Any:
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    vae.throw_exception_if_invalid()
    return vae


def _baked(ckpt_name: str, why: str) -> Any:
    path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
    found = comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=False, output_model=False)
    if found[2] is None:
        raise ValueError(f"{ckpt_name} has no VAE of its own, and none of yours fits: {why}")
    return found[2]
