"""Pasting a picture's parameters fills our panel, and only our panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vae_manager.errors import BadInputError
from vae_manager.selection.decision import AUTOMATIC
from vae_manager.selection.names import find_by_name
from vae_manager.webui.infotext import KEY, Recorded, choice_for, read, write
from vae_manager.webui.session import Session


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


def on_pasted(params: dict[str, Any], session: Session) -> None:
    """Change the pasted values before any field reads them.

    A picture of ours must not set the host's VAE too; a picture of another host whose VAE this one would not
    apply becomes one of ours. All other pictures are left as they are.
    """
    if KEY not in params:
        name = session.host.foreign_vae(params, lambda name: _is_vae(name, session))
        if name is None:
            return
        params[KEY] = write(Recorded(name, params.get("VAE hash")))
    session.host.clean_pasted(params)


def pasted_enabled(params: dict[str, Any]) -> bool:
    """On for a picture that was made with us, off for any other: else it would not come out the same."""
    return bool(params.get(KEY))


def pasted_vae(params: dict[str, Any], session: Session) -> str:
    """The panel's choice for this picture."""
    if not params.get(KEY):
        return AUTOMATIC
    return choice_for(read(params[KEY]), session.files(), session.hashes.peek)


def _is_vae(name: str, session: Session) -> bool:
    try:
        find_by_name(name, session.files())
    except BadInputError:
        return False
    return True
