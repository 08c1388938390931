"""Forge and Forge Neo: the `backend` package, VAEs among the "VAE / Text Encoder" modules."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from vae_manager.webui.hosts.base import Host, around


class Forge(Host):
    """`sd_model.first_stage_model` is None here; the VAE hangs in `forge_objects` and its two copies, which all
    share one first stage."""

    name = "Forge"

    def first_stage(self, model: Any) -> nn.Module | None:
        return getattr(getattr(model.forge_objects, "vae", None), "first_stage_model", None)

    def loaded_vae(self, model: Any) -> Path | None:
        # `sd_vae.loaded_vae_file` is never set here: a VAE comes in as one of the modules
        from modules import sd_models

        modules = sd_models.model_data.forge_loading_parameters.get("additional_modules") or []
        return next((Path(path) for path in modules if self._has_vae(Path(path))), None)

    def record(self, p: Any, name: str | None, short_hash: str | None) -> None:
        # Forge has commented these two lines of the infotext out. Where modules are loaded, a pasted "VAE" would
        # replace the whole list of them, text encoders included, so there only our own key tells.
        from modules import shared

        params = p.extra_generation_params
        params.pop("VAE", None), params.pop("VAE hash", None)
        if name and not shared.opts.forge_additional_modules:
            params["VAE"], params["VAE hash"] = name, short_hash

    def clean_pasted(self, params: dict[str, Any]) -> None:
        # the host has already made a list of modules out of "VAE", which would reload the whole checkpoint
        super().clean_pasted(params)
        params.pop("VAE/TE", None)

    def foreign_vae(self, params: dict[str, Any], is_vae: Callable[[str], bool]) -> str | None:
        # an A1111 picture's "VAE" arrives here as the only module, and no "Module n" beside it
        modules = params.get("VAE/TE")
        if not isinstance(modules, list) or len(modules) != 1 or any(key.startswith("Module ") for key in params):
            return None
        return str(modules[0]) if is_vae(str(modules[0])) else None

    def install_guards(self, release: Callable[[], None], ensure: Callable[[], None]) -> None:
        # Forge's sd_vae functions do nothing; Neo's write into the first stage
        from modules import sd_vae

        for function in ("reload_vae_weights", "restore_vae_weights"):
            around(sd_vae, function, before=release)

    @staticmethod
    def _has_vae(path: Path) -> bool:
        from vae_manager.errors import VaeFileError
        from vae_manager.library.layouts import detect_layout
        from vae_manager.library.tensors import open_tensors

        if os.path.basename(os.path.dirname(path)).lower() == "text_encoder":
            return False
        try:
            detect_layout(open_tensors(path).header)
        except VaeFileError:
            return False
        return True
