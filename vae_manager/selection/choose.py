"""Decide which VAE a job gets: the precedence, with its trace.

The highest step that has an opinion wins. A step whose wish cannot be had is passed over with a warning, never
silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vae_manager.errors import BadInputError
from vae_manager.library.files import VaeFile
from vae_manager.selection.decision import AUTOMATIC, BAKED, Decision, Step
from vae_manager.selection.names import find_by_name


@dataclass(frozen=True)
class Wishes:
    """Everything that has a say in one job, from the highest precedence to the lowest."""

    panel: str = AUTOMATIC
    """The panel's, the API argument's or the X/Y/Z cell's choice: a name, 'Automatic' or 'Baked'."""
    host: str = "what the WebUI itself has loaded"
    """What leaving it to the host means just now, in words."""


def choose(wishes: Wishes, files: Sequence[VaeFile]) -> Decision:
    """Go down the precedence until a step decides. Never raises: a bad wish becomes a warning."""
    trace: list[Step] = []
    warnings: list[str] = []
    if wishes.panel.strip().casefold() == BAKED.casefold():
        reason = "the panel asks for the VAE baked into the checkpoint"
        trace.append(Step("panel", "chosen", reason))
        return Decision("baked", "panel", reason, trace=tuple(trace))
    if wishes.panel.strip() and wishes.panel.strip().casefold() != AUTOMATIC.casefold():
        try:
            file = find_by_name(wishes.panel, files)
        except BadInputError as error:
            trace.append(Step("panel", "refused", str(error)))
            warnings.append(str(error))
        else:
            reason = f"the panel asks for {file.name}"
            trace.append(Step("panel", "chosen", reason))
            return Decision("file", "panel", reason, file, tuple(trace))
    else:
        trace.append(Step("panel", "not asked", AUTOMATIC))
    trace.append(Step("host", "chosen", wishes.host))
    return Decision("host", "host", wishes.host, trace=tuple(trace), warnings=tuple(warnings))
