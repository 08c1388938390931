"""Forge and Forge Neo: the `backend` package, VAEs among the "VAE / Text Encoder" modules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vae_manager.latents.claims import LoadedFormat
from vae_manager.selection.decision import AUTOMATIC
from vae_manager.webui.hosts.base import Guards, Host, around, switched_off
from vae_manager.webui.hosts.latent_format import format_of
from vae_manager.webui.hosts.picture_job import PictureJob, Said
from vae_manager.webui.hosts.promise import Foreseen, tell
from vae_manager.webui.options import TRANSLATE_SD_VAE


class Forge(Host):
    """`sd_model.first_stage_model` is None here; the VAE hangs in `forge_objects` and its two copies, which all
    share one first stage."""

    name = "Forge"
    translates_sd_vae = True

    def first_stage(self, model: Any) -> nn.Module | None:
        return getattr(getattr(model.forge_objects, "vae", None), "first_stage_model", None)

    def latent_format(self, model: Any) -> LoadedFormat | None:
        config = getattr(model, "model_config", None)
        return format_of(getattr(config, "latent_format", None)) or super().latent_format(model)

    def loaded_vae(self, model: Any) -> Path | None:
        # `sd_vae.loaded_vae_file` is never set here: a VAE comes in as one of the modules
        from modules import sd_models

        modules = sd_models.model_data.forge_loading_parameters.get("additional_modules") or []
        found = self._vae_among(modules)
        return None if found == AUTOMATIC else Path(found)

    def next_checkpoint(self) -> tuple[Path, str] | None:
        # it is loaded with the first picture after it was chosen
        from modules import sd_models

        chosen = sd_models.model_data.forge_loading_parameters.get("checkpoint_info")
        if chosen is None:
            return super().next_checkpoint()
        return Path(chosen.filename), str(chosen.name).replace("\\", "/")

    def job_vae(self, job: PictureJob) -> str | None:
        # `sd_vae` does nothing in Forge itself: neither as an override nor in the stock X/Y/Z axis
        from modules import shared
        from modules_forge import main_entry

        if job.override is not None and getattr(shared.opts, TRANSLATE_SD_VAE, True):
            return job.override
        if job.override_modules is None:
            return None
        known = main_entry.module_list
        return self._vae_among(str(known.get(os.path.basename(name), name)) for name in job.override_modules)

    def standing_vae(self) -> str | None:
        # the list of modules stands until it is changed, as `sd_vae` does elsewhere
        from modules import shared

        return self._vae_among(shared.opts.forge_additional_modules or ())

    def scale_factor(self, model: Any, stage: nn.Module) -> float | None:
        held = getattr(stage, "latent_format", stage)  # Neo's has one
        found = getattr(held, "scale_factor", getattr(held, "scaling_factor", None))
        return float(found) if isinstance(found, (int, float)) else None

    def free_memory(self, device: torch.device) -> int | None:
        from backend import memory_management

        return int(memory_management.get_free_memory(device))

    def tell(self, model: Any, foreseen: Foreseen) -> Callable[[], None]:
        return tell(model, foreseen)

    def tiler(self, stage: nn.Module) -> str | None:
        from backend import memory_management

        always = getattr(memory_management, "VAE_ALWAYS_TILED", False)
        return "Forge's tiled VAE (Never OOM)" if always else super().tiler(stage)

    def suspend_tiler(self) -> Callable[[], None]:
        from backend import memory_management

        return switched_off(memory_management, "VAE_ALWAYS_TILED")

    def record(self, job: PictureJob, name: Said, short_hash: Said) -> None:
        # Forge has commented these two lines of the infotext out. Where modules are loaded, a pasted "VAE" would
        # replace the whole list of them, text encoders included, so there only our own key tells.
        from modules import shared

        job.unrecord("VAE", "VAE hash")
        if name and not shared.opts.forge_additional_modules:
            job.record({"VAE": name, "VAE hash": short_hash})

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

    def install_guards(self, guards: Guards) -> None:
        # Forge's sd_vae functions do nothing; Neo's write into the first stage
        from modules import processing, sd_vae

        around(processing, "decode_latent_batch", before=guards.begin_batch, after=guards.end_batch)
        for function in ("reload_vae_weights", "restore_vae_weights"):
            around(sd_vae, function, before=guards.release)

    def _vae_among(self, modules: Iterable[str]) -> str:
        """The first VAE of a list of modules, by its path; 'Automatic' where there is none."""
        return next((str(path) for path in modules if self._has_vae(Path(path))), AUTOMATIC)

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
