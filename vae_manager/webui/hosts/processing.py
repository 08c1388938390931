"""The host's processing object `p`: when its job begins and ends.

Hosts make shallow copies of `p` (X/Y/Z plots, prompts from a file), and run one `p` again and again (loopback, tiled
upscalers): what we put on it must not be taken for the copy's, and must go before the next run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Around:
    """One method of one `p`, with something of ours called before it."""

    def __init__(self, p: Any, name: str, before: Callable[[], None]) -> None:
        self.p, self.name, self.before = p, name, before
        self.inner = getattr(p, name)
        self.own = vars(p).get(name)
        """What stood on the object itself; None: the class's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.before()
        return self.inner(*args, **kwargs)

    def remove(self, p: Any) -> None:
        """Give the method back, of `p` or of a copy of it."""
        if vars(p).get(self.name) is self:
            if self.own is None:
                del vars(p)[self.name]
            else:
                vars(p)[self.name] = self.own


PENDING = "vae_manager_pending"
CLOSE = "vae_manager_close"


def arm(p: Any, begin: Callable[[], None]) -> None:
    """Have `begin` called once, when all `process` hooks are through: hosts call `p.init` then, which encodes."""
    disarm(p)
    if not callable(getattr(p, "init", None)):
        begin()
        return
    pending = Around(p, "init", lambda: start_now(p))
    vars(p)[PENDING] = (pending, begin)
    p.init = pending


def start_now(p: Any) -> None:
    """Call what `arm` was given, unless it was called already."""
    pending = vars(p).get(PENDING)
    disarm(p)
    if pending is not None and pending[0].p is p:
        pending[1]()


def disarm(p: Any) -> None:
    """Forget what `arm` was given, to this `p` or to the one that it is a copy of."""
    pending = vars(p).pop(PENDING, None)
    if pending is not None:
        pending[0].remove(p)


def close_with(p: Any, end: Callable[[], None]) -> None:
    """Have `end` called before `p.close`, once however often this is asked for."""
    held: Around | None = vars(p).get(CLOSE)
    if held is not None and held.p is p and vars(p).get("close") is held:
        return
    if held is not None:
        held.remove(p)  # a copy's, which would close the original
    p.close = vars(p)[CLOSE] = Around(p, "close", end)
