"""Where the user's own data lies when there is no WebUI: the platform's folder for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_folder() -> Path:
    """The folder for hashes, rules and presets. `VAE_MANAGER_HOME` overrides the platform's choice."""
    if home := os.environ.get("VAE_MANAGER_HOME"):
        return Path(home)
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "vae-manager"
