"""Presets in words: the same on the command line and in the panel."""

from __future__ import annotations

from vae_manager.selection.decision import SAME
from vae_manager.selection.page_fields import page_words
from vae_manager.selection.preset_file import Preset
from vae_manager.selection.settings import BY_HAND, KEPT, said_by_hand

NONE_KEPT = "No preset is kept yet."


def told(preset: Preset) -> str:
    """What one preset holds, in a line; what it leaves open is not mentioned."""
    parts = [preset.vae.name]
    for name, wish in (("encode", preset.encode_vae), ("hires", preset.hires_vae)):
        if wish.name != SAME:
            parts.append(f"{name} {wish.name}")
    parts += [f"{one.key} {preset.said[one.name]}" for one in KEPT if one.name in preset.said and one not in BY_HAND]
    parts += [*by_hand(preset), *page_words(preset.page)]
    if preset.by_itself:
        parts.append("applied by itself")
    return ", ".join(parts) + (" (remembered)" if preset.remembered else "")


def by_hand(preset: Preset) -> list[str]:
    """The colour values that were set by hand, one text each."""
    return [f"{name} {value:g}" for name, value in said_by_hand(preset.said).items()]


def many(count: int) -> str:
    """A number of presets."""
    return "1 preset" if count == 1 else f"{count} presets"


def taken_over(count: int) -> str:
    """What an import did."""
    return f"Took over {many(count)}."
