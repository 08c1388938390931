"""The checkpoint cards of A1111 and Forge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vae_manager.json_text import parse_json
from vae_manager.selection.decision import AUTOMATIC
from vae_manager.selection.rules import MAX_TEXT, is_encodable

MAX_BYTES = 4 << 20
"""Of a card: a description, notes, a VAE's name."""


def card_vae(checkpoint: Path) -> str | None:
    """The VAE on A1111's card of a checkpoint (`model.json` beside `model.safetensors`, field "vae"), or None.

    A1111 writes "Automatic" (no opinion), "None" (the baked one) or a VAE's file name there
    (its `ui_extra_networks_checkpoints_user_metadata.py`).
    """
    vae = _card(checkpoint).get("vae")
    if not isinstance(vae, str) or not vae.strip() or len(vae) > MAX_TEXT or not is_encodable(vae):
        return None
    return None if vae.strip().casefold() == AUTOMATIC.casefold() else vae.strip()


def card_modules(checkpoint: Path) -> list[str] | None:
    """The modules on Forge's card of a checkpoint (field "vae_te"): VAE and text encoders by their files' names, or
    "Built in". None: the card has no such field, or nothing in it."""
    modules = _card(checkpoint).get("vae_te")
    if not isinstance(modules, list):
        return None
    return [one for one in modules if isinstance(one, str) and len(one) <= MAX_TEXT and is_encodable(one)] or None


def _card(checkpoint: Path) -> Mapping[str, object]:
    try:
        card = checkpoint.with_suffix(".json")
        if card.stat().st_size > MAX_BYTES:
            return {}
        document = parse_json(card.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, Mapping) else {}
