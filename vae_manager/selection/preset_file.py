"""The presets file: what stands in it, and how it is read.

Whatever is in the file, reading it never fails: what cannot be understood counts as not there. Writing keeps it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vae_manager.errors import BadInputError, os_reason
from vae_manager.json_text import read_json_text
from vae_manager.selection.decision import AUTOMATIC, SAME
from vae_manager.selection.page_fields import PageValues, page_values
from vae_manager.selection.rules import MAX_TEXT
from vae_manager.selection.settings import KEPT, VAES, Said

log = logging.getLogger("vae_manager")

VERSION = 1
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class VaeWish:
    """A VAE as a preset names it: by hash where that is known, so that a renamed VAE is found, or by name."""

    name: str = AUTOMATIC
    """A VAE's name, 'Automatic' (no opinion), 'Baked', or, for encode and hires, 'same'."""
    sha256: str | None = None


@dataclass(frozen=True)
class Preset:
    """What one checkpoint gets. Every field may be left open."""

    vae: VaeWish = VaeWish()
    encode_vae: VaeWish = VaeWish(SAME)
    hires_vae: VaeWish = VaeWish(SAME)
    said: Said = field(default_factory=dict)
    """The settings beside the VAEs, by their names in the table."""
    page: PageValues = field(default_factory=dict)
    """What it fills on the WebUI's page."""
    by_itself: bool = False
    """Whether it fills the page as soon as its checkpoint is chosen, without being asked."""
    remembered: bool = False
    """Written by "remember what I use", not saved by the user: never replaces one that was saved."""


@dataclass(frozen=True)
class Owner:
    """Which checkpoint a preset belongs to."""

    name: str
    """Path below the checkpoint folder, with forward slashes."""
    sha256: str | None = None
    print: str | None = None
    """See `presets.print_of`."""
    size: int | None = None


def is_document(document: Any) -> bool:
    """Whether this is a document of ours that can be written again."""
    if not isinstance(document, Mapping) or not isinstance(document.get("presets", []), list):
        return False
    try:
        json.dumps(document, ensure_ascii=False, indent=1).encode()
    except (ValueError, RecursionError):  # half characters; deeper than can be written
        return False
    return True


_HOW = "name one that 'vae-manager presets --export' wrote"


def read_exported(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInputError(f"{str(path)!r} is too large for a file of presets.")
        document = read_json_text(path)
    except FileNotFoundError as error:
        raise BadInputError(f"There is no file of presets {str(path)!r}.") from error
    except OSError as error:
        raise BadInputError(f"{str(path)!r} cannot be read: {os_reason(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{str(path)!r} is no file of presets; {_HOW}.") from error
    if not is_document(document) or "presets" not in document:
        raise BadInputError(
            f"{str(path)!r} is no file of presets: it must hold an object with a list 'presets'; {_HOW}."
        )
    return document


def understood(document: Any) -> tuple[tuple[Owner, Preset], ...]:
    if document is None:
        return ()
    if not is_document(document):
        log.warning("The presets file holds something else than presets; it is not used.")
        return ()
    pairs = (
        (read_owner(e.get("checkpoint")), _preset(e)) for e in document.get("presets", []) if isinstance(e, Mapping)
    )
    return tuple((owner, preset) for owner, preset in pairs if owner is not None)


def read_owner(value: Any) -> Owner | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    size = value.get("bytes")
    return Owner(
        value["name"],
        _hex(value.get("sha256"), 64),
        _hex(value.get("print"), 32),
        size if type(size) is int else None,
    )


def _preset(entry: Mapping[str, Any]) -> Preset:
    """What an entry says; a field that makes no sense counts as left open."""
    vae, encode_vae, hires_vae = (_wish(entry.get(setting.key), setting.default) for setting in VAES)
    return Preset(
        vae,
        encode_vae,
        hires_vae,
        _said(entry),
        page_values(entry.get("page")),
        entry.get("by_itself") is True,
        entry.get("remembered") is True,
    )


def _said(entry: Mapping[str, Any]) -> Said:
    values = {setting.name: setting.kept_value(entry.get(setting.key)) for setting in KEPT}
    return {name: value for name, value in values.items() if value is not None}


def _wish(value: Any, default: str) -> VaeWish:
    if isinstance(value, Mapping):
        return replace(_wish(value.get("name"), default), sha256=_hex(value.get("sha256"), 64))
    valid = isinstance(value, str) and value.strip() and len(value) <= MAX_TEXT
    return VaeWish(value if valid else default)


def _hex(value: Any, digits: int) -> str | None:
    if not isinstance(value, str) or len(value) != digits:
        return None
    return value.casefold() if all(char in "0123456789abcdef" for char in value.casefold()) else None


def entry_of(owner: Owner, preset: Preset) -> dict[str, Any]:
    """The entry of the file: only what is not left open."""
    evidence = {"sha256": owner.sha256, "print": owner.print, "bytes": owner.size}
    checkpoint = {"name": owner.name, **{key: value for key, value in evidence.items() if value}}
    entry: dict[str, Any] = {"checkpoint": checkpoint}
    for setting in VAES:
        wish: VaeWish = getattr(preset, setting.name)
        if wish not in (VaeWish(AUTOMATIC), VaeWish(SAME)):
            entry[setting.key] = {"name": wish.name, "sha256": wish.sha256} if wish.sha256 else wish.name
    entry |= {setting.key: preset.said[setting.name] for setting in KEPT if setting.name in preset.said}
    if preset.page:
        entry["page"] = dict(preset.page)
    flags = {"by_itself": preset.by_itself, "remembered": preset.remembered}
    return {**entry, **{name: True for name, on in flags.items() if on}}
