"""Our line in a picture's infotext, and what pasting one means.

`VAE Manager: "vae=anime/kl-f8.safetensors; hash=df3c506e51; decode=exact"`. Only values that are not the default are
written.
`%`, `;` and control characters in values are percent-encoded, so that any file name survives the way there
and back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from urllib.parse import unquote

from vae_manager.library.files import VaeFile
from vae_manager.selection.decision import ADJUST_RANGES, AUTOMATIC, BAKED, SAME
from vae_manager.webui.settings import COLOR, DECODE

KEY = "VAE Manager"
"""The infotext's key, the panel's title and the API's name: never renamed."""

SHORT_HASH = 10
"""Hexadecimal digits of a sha256 that the WebUIs write."""


@dataclass(frozen=True)
class Recorded:
    """What one picture's infotext says."""

    vae: str = AUTOMATIC
    """A VAE's listed name, 'Baked' or 'Automatic'."""
    hash: str | None = None
    encode_vae: str = SAME
    hires_vae: str = SAME
    decode: str = "auto"
    color: str = "off"
    color_strength: str = "1"
    contrast: str = "1"
    brightness: str = "0"
    saturation: str = "1"


def write(recorded: Recorded) -> str | None:
    """The value of our key, or None where there is nothing to say."""
    said = {field.name: getattr(recorded, field.name) for field in fields(Recorded)}
    changed = {key: value for key, value in said.items() if value and value != getattr(Recorded, key)}
    return "; ".join(f"{key}={_encode(value)}" for key, value in changed.items()) or None


def read(text: str) -> Recorded:
    """What the value of our key says; parts that are not understood are passed over."""
    pairs = dict(part.split("=", 1) for part in text.split("; ") if "=" in part)
    values = {key: unquote(value) for key, value in pairs.items() if key in _UNDERSTOOD and _UNDERSTOOD[key](value)}
    if "hash" in values:
        values["hash"] = values["hash"].lower()
    return Recorded(**values)


def choice_for(recorded: Recorded, files: Sequence[VaeFile], known_hash: Callable[[VaeFile], str | None]) -> str:
    """The panel's choice that gives this picture's VAE here: the file of that hash, or else the recorded name.

    `known_hash` returns a file's sha256 where it is known already. A name that is not here is returned as it
    is: generating then says that it is missing, which a silent Automatic would not.
    """
    if recorded.vae in (AUTOMATIC, BAKED):
        return recorded.vae
    if recorded.hash:
        for file in files:
            sha256 = known_hash(file)
            if sha256 and sha256.startswith(recorded.hash):
                return file.name
    return recorded.vae


def _within(key: str) -> Callable[[str], bool]:
    """Whether a text is a number in the range of a value by hand."""
    least, most = ADJUST_RANGES[key]
    number = re.compile(r"-?\d(\.\d{1,6})?").fullmatch
    return lambda text: bool(number(text)) and least <= float(text) <= most


_UNDERSTOOD: dict[str, Callable[[str], object]] = {
    "vae": bool,
    "hash": re.compile(r"[0-9a-fA-F]{10,64}").fullmatch,
    "encode_vae": bool,
    "hires_vae": bool,
    "decode": DECODE.__contains__,
    "color": COLOR.__contains__,
    "color_strength": re.compile(r"0(\.\d{1,6})?|1(\.0*)?").fullmatch,
    **{key: _within(key) for key in ADJUST_RANGES},
}
"""What may stand behind each key: an infotext may come from anybody."""


def _encode(value: str) -> str:
    return re.sub(r"[%;\x00-\x1f]", lambda match: f"%{ord(match.group()):02X}", value)
