"""The WebUI's own components that presets fill, found by their elements' ids while it builds its page.

Ours are built among them, some before and some after, so what connects both waits until a tab's gallery comes: by then
all its inputs are there. What is to be told after each job waits for the line that the WebUI writes anew then.
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
        self._logs: dict[str, Any] = {}
        self._tellers: dict[str, Callable[[Any], None]] = {}

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
        elif element in (f"html_log_{tab}" for tab in TABS):
            tab = element.removeprefix("html_log_")
            self._logs.setdefault(tab, component)
            self._tell(tab)

    def when_complete(self, tab: str, connect: Connect) -> None:
        """Have a panel of ours connected. One that is built beside a page, for the API's defaults, waits for ever."""
        self._waiting[tab] = connect
        if tab in self._through:
            self._through.discard(tab)
            self._connect(tab, self._waiting.pop(tab))

    def when_made(self, tab: str, tell: Callable[[Any], None]) -> None:
        """Have something called with the component that the WebUI writes anew after each job, once it is there."""
        self._tellers[tab] = tell
        self._tell(tab)

    def _tell(self, tab: str) -> None:
        if tab in self._logs and tab in self._tellers:
            tell, log_line = self._tellers.pop(tab), self._logs.pop(tab)
            try:
                tell(log_line)
            except Exception:
                log.exception("VAE Manager could not follow the pictures of %s", tab)

    def _connect(self, tab: str, connect: Connect) -> None:
        self._through.discard(tab)
        try:
            connect(self._seen[tab])
        except Exception:
            log.exception("VAE Manager could not connect its panel with the fields of %s", tab)
