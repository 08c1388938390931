"""AUTOMATIC1111 1.10: the defaults are its own ways."""

from __future__ import annotations

from vae_manager.webui.hosts.base import Host


class A1111(Host):
    """The VAE is `sd_model.first_stage_model`; `sd_vae.load_vae` and checkpoint loads copy into it in place."""

    name = "AUTOMATIC1111"
