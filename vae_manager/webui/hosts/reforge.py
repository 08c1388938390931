"""reForge and Forge Classic: the `ldm_patched` package, with A1111's own `sd_vae` beside `forge_objects`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vae_manager.latents.claims import LoadedFormat
from vae_manager.webui.hosts.base import Guards, Host, around, switched_off
from vae_manager.webui.hosts.latent_format import format_of
from vae_manager.webui.hosts.promise import Foreseen, tell


class ReForge(Host):
    """What decodes is `forge_objects.vae.first_stage_model`; `sd_model.first_stage_model` may be another object."""

    name = "reForge"

    def first_stage(self, model: Any) -> nn.Module | None:
        return getattr(getattr(model.forge_objects, "vae", None), "first_stage_model", None)

    def latent_format(self, model: Any) -> LoadedFormat | None:
        return format_of(self._format(model)) or super().latent_format(model)

    def scale_factor(self, model: Any, stage: nn.Module) -> float | None:
        found = getattr(self._format(model), "scale_factor", None)
        return float(found) if isinstance(found, (int, float)) else None

    @staticmethod
    def _format(model: Any) -> Any:
        inner = getattr(model.forge_objects.unet, "model", None)
        return getattr(getattr(inner, "model_config", None), "latent_format", None)

    def free_memory(self, device: torch.device) -> int | None:
        from ldm_patched.modules import model_management

        return int(model_management.get_free_memory(device))

    def tell(self, model: Any, foreseen: Foreseen) -> Callable[[], None]:
        return tell(model, foreseen)

    def tiler(self, stage: nn.Module) -> str | None:
        from ldm_patched.modules import model_management

        always = getattr(model_management, "VAE_ALWAYS_TILED", False)
        return "the WebUI's tiled VAE (Never OOM)" if always else super().tiler(stage)

    def suspend_tiler(self) -> Callable[[], None]:
        from ldm_patched.modules import model_management

        return switched_off(model_management, "VAE_ALWAYS_TILED")

    def install_guards(self, guards: Guards) -> None:
        super().install_guards(guards)
        from modules import sd_vae

        around(sd_vae, "reload_vae_weights", before=guards.release, after=guards.ensure)
