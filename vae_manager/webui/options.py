"""Our section of the WebUI's settings page."""

from __future__ import annotations

from typing import Any

SECTION = ("vae_manager", "VAE Manager")
CACHE_MIB = "vae_manager_cache_mib"
OTHER_FAMILY = "vae_manager_allow_other_family"

DEFAULT_CACHE_MIB = 1024
"""Room for three SD VAEs in fp32 or six in fp16."""


def add_options(shared: Any, slider: Any) -> None:
    """Register the settings; called by the host while it builds its page."""
    info = shared.OptionInfo
    shared.opts.add_option(
        CACHE_MIB,
        info(
            DEFAULT_CACHE_MIB,
            "Memory for VAEs that are kept ready, in MiB",
            slider,
            {"minimum": 0, "maximum": 8192, "step": 128},
            section=SECTION,
        ),
    )
    shared.opts.add_option(
        OTHER_FAMILY,
        info(
            False,
            "Use a VAE even if it is made for another family of models (the picture will be broken)",
            section=SECTION,
        ),
    )


def cache_bytes(opts: Any) -> int:
    """The cache's limit as the settings have it now."""
    return int(getattr(opts, CACHE_MIB, DEFAULT_CACHE_MIB)) << 20
