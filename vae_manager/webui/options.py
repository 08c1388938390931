"""Our section of the WebUI's settings page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SECTION = ("vae_manager", "VAE Manager")
CACHE_MIB = "vae_manager_cache_mib"
OTHER_FAMILY = "vae_manager_allow_other_family"
ALWAYS = "vae_manager_always"
REMEMBER = "vae_manager_remember"
TRANSLATE_SD_VAE = "vae_manager_forge_sd_vae"
MEMORY_LIMIT_MIB = "vae_manager_memory_limit_mib"

DEFAULT_CACHE_MIB = 1024
"""Room for three SD VAEs in fp32 or six in fp16."""


@dataclass(frozen=True)
class Options:
    """The settings that a job obeys."""

    cache_bytes: int = DEFAULT_CACHE_MIB << 20
    allow_other_family: bool = False
    always: bool = False
    """Every job gets the automatic choice, also with the panel closed."""
    remember: bool = False
    """Keep what the panel chose as the checkpoint's preset."""
    memory_limit: int | None = None
    """Bytes that one decode or encode may take; None: what is free."""


def read_options(opts: Any) -> Options:
    """The settings as they are now."""
    limit = int(getattr(opts, MEMORY_LIMIT_MIB, 0) or 0)
    return Options(
        cache_bytes=int(getattr(opts, CACHE_MIB, DEFAULT_CACHE_MIB)) << 20,
        allow_other_family=bool(getattr(opts, OTHER_FAMILY, False)),
        always=bool(getattr(opts, ALWAYS, False)),
        remember=bool(getattr(opts, REMEMBER, False)),
        memory_limit=limit << 20 or None,
    )


def add_options(shared: Any, slider: Any, forge: bool) -> None:
    """Register the settings; called by the host while it builds its page. `forge`: with what only Forge needs."""

    def add(key: str, default: Any, label: str, component: Any = None, arguments: Any = None) -> None:
        shared.opts.add_option(key, shared.OptionInfo(default, label, component, arguments, section=SECTION))

    add(ALWAYS, False, "Choose the VAE for every picture by itself (Automatic), also while the panel is closed")
    add(REMEMBER, False, "Remember the VAE that is used with a checkpoint, as its preset")
    memory = {"minimum": 0, "maximum": 8192, "step": 128}
    add(CACHE_MIB, DEFAULT_CACHE_MIB, "Memory for VAEs that are kept ready, in MiB", slider, memory)
    label = "Memory that one exact decode or encode may take, in MiB (0: what is free)"
    add(MEMORY_LIMIT_MIB, 0, label, slider, {"minimum": 0, "maximum": 65536, "step": 256})
    add(OTHER_FAMILY, False, "Use a VAE even if it is made for another family of models (the picture will be broken)")
    if forge:
        add(TRANSLATE_SD_VAE, True, "Let sd_vae choose the VAE of one job again (API override, X/Y/Z 'VAE', ADetailer)")
