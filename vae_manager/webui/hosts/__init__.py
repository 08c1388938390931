"""Which WebUI are we in? Told by what it can do, never by its version or its folder's name."""

from __future__ import annotations

import importlib.util

from vae_manager.webui.hosts.base import Host


def current_host() -> Host:
    """The adapter for the WebUI that has imported us."""
    if importlib.util.find_spec("modules_forge") is None:
        from vae_manager.webui.hosts.a1111 import A1111

        return A1111()
    if importlib.util.find_spec("ldm_patched") is not None:
        from vae_manager.webui.hosts.reforge import ReForge

        return ReForge()
    from vae_manager.webui.hosts.forge import Forge

    return Forge()
