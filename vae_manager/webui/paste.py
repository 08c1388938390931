"""Pasting a picture's parameters fills our panel, and only our panel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vae_manager.errors import BadInputError
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

    def key(name: str, of: Callable[[Recorded], Any]) -> PasteKey:
        return PasteKey(f"{KEY} {name}", lambda params: of(_recorded(params, shelf)))

    return [
        (panel.enabled, PasteKey(f"{KEY} enabled", pasted_enabled)),
        (panel.vae, key("VAE", lambda recorded: recorded.vae)),
        (panel.encode_vae, key("encode VAE", lambda recorded: recorded.encode_vae)),
        (panel.hires_vae, key("hires VAE", lambda recorded: recorded.hires_vae)),
        (panel.decode, key("decode", lambda recorded: recorded.decode)),
        (panel.color, key("color", lambda recorded: recorded.color)),
        (panel.color_strength, key("color strength", lambda recorded: float(recorded.color_strength))),
        (panel.contrast, key("contrast", lambda recorded: float(recorded.contrast))),
        (panel.brightness, key("brightness", lambda recorded: float(recorded.brightness))),
        (panel.saturation, key("saturation", lambda recorded: float(recorded.saturation))),
    ]


def on_pasted(params: dict[str, Any], shelf: Shelf) -> None:
    """Change the pasted values before any field reads them.

    A picture of ours must not set the host's VAE too; a picture of another host whose VAE this one would not
    apply becomes one of ours. All other pictures are left as they are.
    """
    if KEY not in params:
        name = shelf.host.foreign_vae(params, lambda name: _is_vae(name, shelf))
        if name is None:
            return
        # by its name alone: the host that wrote "VAE hash" may have printed an earlier file's
        params[KEY] = write(Recorded(name))
    shelf.host.clean_pasted(params)


def pasted_enabled(params: dict[str, Any]) -> bool:
    """On for a picture that was made with us, off for any other: else it would not come out the same."""
    return bool(params.get(KEY))


def _recorded(params: dict[str, Any], shelf: Shelf) -> Recorded:
    """What the picture says, with its VAE as the file that is here."""
    if not params.get(KEY):
        return Recorded()
    recorded = read(params[KEY])
    return replace(recorded, vae=choice_for(recorded, shelf.files(), shelf.hashes.peek))


def _is_vae(name: str, shelf: Shelf) -> bool:
    try:
        shelf.find(name)
    except BadInputError:
        return False
    return True
