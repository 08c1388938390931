"""What the page is offered for the checkpoint that comes next, and what filling it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vae_manager.selection.page_fields import PAGE_FIELDS, PageValues, page_values_of, page_words
from vae_manager.webui.shelf import Shelf

log = logging.getLogger("vae_manager")

PASTE_WINS = 20.0
"""Seconds after a paste, which may choose the checkpoint too, in which nothing fills the page by itself."""


@dataclass(frozen=True)
class PageOffer:
    """What there is for one checkpoint."""

    checkpoint: str = ""
    """Its name; empty: none is chosen."""
    values: PageValues = field(default_factory=dict)
    of: str = "preset"
    """'preset' or 'metadata': whose values they are."""
    by_itself: bool = False
    """Whether the page may be filled without a click, now."""
    ticked: bool = False
    """Whether the user wants that for this checkpoint."""

    @property
    def sentence(self) -> str:
        """The offer in a line; empty where there is none."""
        if not self.values:
            return ""
        words = ", ".join(page_words(self.values))
        preset, metadata = f"The preset of {self.checkpoint} has", f"The metadata of {self.checkpoint} has"
        return f"{preset if self.of == 'preset' else metadata}: {words}."


@dataclass(frozen=True)
class PageWish:
    """What a preset that is saved now is to hold of the page."""

    ticks: tuple[str, ...] = ()
    """The fields' names."""
    now: PageValues = field(default_factory=dict)
    """What stands in all of this tab's fields."""
    by_itself: bool = False

    def values(self, kept: PageValues) -> dict[str, Any]:
        """The ticked fields as they stand, and what the old preset held of fields that this tab has not."""
        elsewhere = {name: value for name, value in kept.items() if name not in self.now}
        names = [name for name in PAGE_FIELDS if name in self.ticks and name in self.now]
        read = {name: PAGE_FIELDS[name].value(self.now[name]) for name in names}
        return elsewhere | {name: value for name, value in read.items() if value is not None}


@dataclass(frozen=True)
class Filling:
    """What filling the page comes to."""

    now: PageValues
    """What is to stand there, of the fields that change."""
    before: PageValues
    """What stood there."""
    missing: Sequence[str] = ()
    """What this page cannot take, in words."""

    @property
    def sentence(self) -> str:
        """What was done, in a line."""
        done = f"Filled in: {', '.join(page_words(self.now))}." if self.now else "It stands there already."
        return f"{done} Not on this page: {', '.join(self.missing)}." if self.missing else done


def page_offer(shelf: Shelf) -> PageOffer:
    """What the checkpoint that comes next is offered. Never raises: it stands on every page."""
    try:
        place = shelf.host.next_checkpoint()
        checkpoint = shelf.chooser.checkpoint(*place) if place is not None else None
        if checkpoint is None:
            return PageOffer()
        found = shelf.chooser.presets.find(checkpoint)
        preset = found.preset if found is not None else None
        if preset is not None and preset.page:
            wins = time.monotonic() - shelf.pasted < PASTE_WINS or shelf.host.busy()
            return PageOffer(checkpoint.name, preset.page, "preset", preset.by_itself and not wins, preset.by_itself)
        values = page_values_of(checkpoint.facts.metadata) if preset is None else {}
        return PageOffer(checkpoint.name, values, "metadata")
    except Exception:
        log.exception("VAE Manager could not look for what the page is offered")
        return PageOffer()


def fill(values: PageValues, components: Mapping[str, Any], now: PageValues) -> Filling:
    """What it takes to have these values on the page.

    Args:
        components: the page's own, by the fields' names.
        now: what stands in them.
    """
    possible = {name: value for name, value in values.items() if name in components and _takes(components[name], value)}
    missing = {name: value for name, value in values.items() if name in components and name not in possible}
    changed = {name: value for name, value in possible.items() if now.get(name) != value}
    return Filling(changed, {name: now[name] for name in changed if name in now}, page_words(missing))


def _takes(component: Any, value: Any) -> bool:
    """Whether a component can have a value: one of its choices, or within its slider."""
    choices = getattr(component, "choices", None)
    if choices is not None:
        return value in [choice[1] if isinstance(choice, (tuple, list)) else choice for choice in choices]
    least, most = getattr(component, "minimum", None), getattr(component, "maximum", None)
    return isinstance(value, (int, float)) and (least is None or least <= value) and (most is None or value <= most)
