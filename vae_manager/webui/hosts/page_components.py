"""The WebUI's own components that presets fill, found by their elements' ids while it builds its page.

Ours are built among them, some before and some after, so what connects both waits until a tab's gallery comes: by then
all its inputs are there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from vae_manager.selection.page_fields import PAGE_FIELDS

log = logging.getLogger("vae_manager")

TABS = ("txt2img", "img2img")

Connect = Callable[[Mapping[str, Any]], None]
"""Called once with a tab's components by the fields' names, inside the page that is being built."""


class PageComponents:
    """What has been seen of the page that is being built."""

    def __init__(self) -> None:
        self._wanted = {
            field.element_id(tab): (tab, name) for tab in TABS for name, field in PAGE_FIELDS.items()
        }  # fmt: skip
        self.begin()

    def begin(self) -> None:
        """A page is built anew."""
        self._seen: dict[str, dict[str, Any]] = {tab: {} for tab in TABS}
        self._waiting: dict[str, Connect] = {}
        self._through: set[str] = set()

    def see(self, component: Any) -> None:
        """The WebUI has made a component. Never raises: this runs for each of the page's."""
        element = getattr(component, "elem_id", None)
        if not isinstance(element, str):
            return
        if element in self._wanted:
            tab, name = self._wanted[element]
            self._seen[tab].setdefault(name, component)
        elif element in (f"{tab}_gallery" for tab in TABS):
            tab = element.removesuffix("_gallery")
            self._through.add(tab)
            if connect := self._waiting.pop(tab, None):
                self._connect(tab, connect)

    def when_complete(self, tab: str, connect: Connect) -> None:
        """Have a panel of ours connected. One that is built beside a page, for the API's defaults, waits for ever."""
        self._waiting[tab] = connect
        if tab in self._through:
            self._through.discard(tab)
            self._connect(tab, self._waiting.pop(tab))

    def _connect(self, tab: str, connect: Connect) -> None:
        self._through.discard(tab)
        try:
            connect(self._seen[tab])
        except Exception:
            log.exception("VAE Manager could not connect its panel with the fields of %s", tab)
