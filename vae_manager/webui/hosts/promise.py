"""What a host's memory manager is told that a decode or an encode takes, while a job of ours is held.

Forge, Neo, Classic and reForge ask their VAE object for an estimate (`memory_used_decode`, `memory_used_encode`) and
put models out of the way for a whole run, before that reaches us: 18 GB for 2048² in half precision, also where we
then stream within 2. While a job is held, the estimate is our plan's, wherever a run is going to be streamed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

log = logging.getLogger("vae_manager")

Foreseen = Callable[[tuple[int, ...], torch.device, bool], int | None]
"""Bytes that a run of this shape on this device will take, a decode or not; None where that is not ours to say."""

ESTIMATES = {"memory_used_decode": True, "memory_used_encode": False}
"""The host's functions, called with the whole batch's shape and the precision, and whether they are about decoding."""


def tell(model: Any, foreseen: Foreseen) -> Callable[[], None]:
    """Put our estimates into the VAE objects of a model; returns what gives the host's own back."""
    stack = ExitStack()
    for vae in _vaes_of(model):
        for name, decodes in ESTIMATES.items():
            if callable(getattr(vae, name, None)):
                stack.callback(_Estimate(vae, name, decodes, foreseen).remove)
    return stack.close


def _vaes_of(model: Any) -> list[Any]:
    """Those in `forge_objects` and in its copies, from which the host takes it again: mostly one and the same."""
    held = (objects for name, objects in vars(model).items() if name.startswith("forge_objects"))
    found = {id(vae): vae for objects in held if (vae := getattr(objects, "vae", None)) is not None}
    return list(found.values())


class _Estimate:
    """One function of one VAE object. A clone that somebody makes meanwhile keeps it, as a mere passage once it is
    removed."""

    def __init__(self, vae: Any, name: str, decodes: bool, foreseen: Foreseen) -> None:
        self._vae, self._name, self._decodes = vae, name, decodes
        self._own = getattr(vae, name)
        self._foreseen: Foreseen | None = foreseen
        setattr(vae, name, self)

    def __call__(self, shape: Any, *args: Any) -> Any:
        return self._taken(shape) or self._own(shape, *args)

    def remove(self) -> None:
        self._foreseen = None
        if getattr(self._vae, self._name) is self:
            setattr(self._vae, self._name, self._own)

    def _taken(self, shape: Any) -> float | None:
        try:
            found = self._foreseen and self._foreseen(tuple(shape), torch.device(self._vae.device), self._decodes)
            return float(found) if found else None
        except Exception:
            log.exception("VAE Manager could not say what a run takes; the WebUI's own estimate counts")
            return None
