"""Our line in a picture's infotext, and what pasting one means.

`VAE Manager: "vae=anime/kl-f8.safetensors; hash=df3c506e51; decode=exact"`. Only values that are not the default are
written.
`%`, `;` and control characters in values are percent-encoded, so that any file name survives the way there
and back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from vae_manager.library.files import VaeFile
from vae_manager.selection.decision import AUTOMATIC, BAKED
from vae_manager.selection.settings import TABLE, PanelSettings

KEY = "VAE Manager"
"""The infotext's key, the panel's title and the API's name: never renamed."""

SHORT_HASH = 10
"""Hexadecimal digits of a sha256 that the WebUIs write."""


_WRITTEN = tuple(setting for setting in TABLE.values() if setting.kind in ("vae", "choice", "number"))


@dataclass(frozen=True)
class Recorded:
    """What one picture's infotext says."""

    settings: PanelSettings = field(default_factory=PanelSettings)
    """What made it, the VAE by its listed name, 'Baked' or 'Automatic'."""
    hash: str | None = None
    """The first digits of the VAE file's sha256."""


def write(recorded: Recorded) -> str | None:
    """The value of our key, or None where there is nothing to say."""
    said: dict[str, str] = {}
    for setting in _WRITTEN:
        value = setting.text(getattr(recorded.settings, setting.name))
        if value and value != setting.text(setting.default):
            said[setting.name] = value
        if setting.name == "vae" and recorded.hash:
            said["hash"] = recorded.hash
    return "; ".join(f"{key}={_encode(value)}" for key, value in said.items()) or None


def read(text: str) -> Recorded:
    """What the value of our key says; parts that are not understood are passed over."""
    pairs = dict(part.split("=", 1) for part in text.split("; ") if "=" in part)
    values = {setting.name: setting.read(unquote(pairs[setting.name])) for setting in _WRITTEN if setting.name in pairs}
    understood = {name: value for name, value in values.items() if value is not None}
    digits = pairs.get("hash", "").lower()
    return Recorded(
        replace(PanelSettings(), **understood), digits if re.fullmatch(r"[0-9a-f]{10,64}", digits) else None
    )


def choice_for(recorded: Recorded, files: Sequence[VaeFile], known_hash: Callable[[VaeFile], str | None]) -> str:
    """The panel's choice that gives this picture's VAE here: the file of that hash, or else the recorded name.

    `known_hash` returns a file's sha256 where it is known already. A name that is not here is returned as it
    is: generating then says that it is missing, which a silent Automatic would not.
    """
    if recorded.settings.vae in (AUTOMATIC, BAKED):
        return recorded.settings.vae
    if recorded.hash:
        for file in files:
            sha256 = known_hash(file)
            if sha256 and sha256.startswith(recorded.hash):
                return file.name
    return recorded.settings.vae


def _encode(value: str) -> str:
    return re.sub(r"[%;\x00-\x1f]", lambda match: f"%{ord(match.group()):02X}", value)
