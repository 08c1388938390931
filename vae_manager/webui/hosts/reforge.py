"""reForge and Forge Classic: the `ldm_patched` package, with A1111's own `sd_vae` beside `forge_objects`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from vae_manager.webui.hosts.base import Host, around


class ReForge(Host):
    """What decodes is `forge_objects.vae.first_stage_model`; `sd_model.first_stage_model` may be another object."""

    name = "reForge"

    def first_stage(self, model: Any) -> nn.Module | None:
        return getattr(getattr(model.forge_objects, "vae", None), "first_stage_model", None)

    def install_guards(self, release: Callable[[], None], ensure: Callable[[], None]) -> None:
        super().install_guards(release, ensure)
        from modules import sd_vae

        around(sd_vae, "reload_vae_weights", before=release, after=ensure)
