"""Pasting a picture's parameters fills our panel, and only our panel."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vae_manager.errors import BadInputError
from vae_manager.selection.settings import TABLE, PanelSettings, Setting
from vae_manager.webui.infotext import KEY, Recorded, choice_for, read, write
from vae_manager.webui.shelf import Shelf

if TYPE_CHECKING:  # it needs Gradio
    from vae_manager.webui.panel import Panel


class PasteKey(str):
    """A field's name for "Send to img2img", which compares names, and its function for pasting, which calls it.

    The hosts' `PasteField` takes either a name or a function; with a function alone, "Send to" would leave our
    panel behind.
    """

    def __new__(cls, name: str, function: Callable[[dict[str, Any]], Any]) -> PasteKey:
        key = super().__new__(cls, name)
        key.function = function
        return key

    function: Callable[[dict[str, Any]], Any]

    def __call__(self, params: dict[str, Any]) -> Any:
        return self.function(params)


def fields(panel: Panel, shelf: Shelf) -> list[tuple[Any, PasteKey]]:
    """The panel's components, each with what a picture's parameters make of it."""

    def key(setting: Setting) -> PasteKey:
        if setting.kind == "switch":
            return PasteKey(f"{KEY} enabled", pasted_enabled)
        name = setting.name.replace("_", " ").replace("vae", "VAE")
        return PasteKey(f"{KEY} {name}", lambda params: getattr(_recorded(params, shelf).settings, setting.name))

    return [(panel.settings[setting.name], key(setting)) for setting in TABLE.values() if setting.kind != "picture"]


def on_pasted(params: dict[str, Any], shelf: Shelf) -> None:
    """Change the pasted values before any field reads them.

    A picture of ours must not set the host's VAE too; a picture of another host whose VAE this one would not
    apply becomes one of ours. All other pictures are left as they are.
    """
    shelf.pasted = time.monotonic()
    if KEY not in params:
        name = shelf.host.foreign_vae(params, lambda name: _is_vae(name, shelf))
        if name is None:
            return
        # by its name alone: the host that wrote "VAE hash" may have printed an earlier file's
        params[KEY] = write(Recorded(PanelSettings(vae=name)))
    shelf.host.clean_pasted(params)


def pasted_enabled(params: dict[str, Any]) -> bool:
    """On for a picture that was made with us, off for any other: else it would not come out the same."""
    return bool(params.get(KEY))


def _recorded(params: dict[str, Any], shelf: Shelf) -> Recorded:
    """What the picture says, with its VAE as the file that is here."""
    if not params.get(KEY):
        return Recorded()
    recorded = read(params[KEY])
    vae = choice_for(recorded, shelf.files(), shelf.hashes.peek)
    return replace(recorded, settings=replace(recorded.settings, vae=vae))


def _is_vae(name: str, shelf: Shelf) -> bool:
    try:
        shelf.find(name)
    except BadInputError:
        return False
    return True
