"""Long work of the page: it tells how far it is, and ends where it next tells that once somebody has pressed Stop.

Gradio itself ends no function that runs: its `cancels` only leaves the page waiting for nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vae_manager.errors import Interrupted

Tell = Callable[..., object]
"""Is told how far something is, as `gr.Progress` is: called with a share or (done, of all), and `desc=` in words.
What it raises ends the work."""


def silent(done: object, desc: str = "") -> None:
    """Tells nobody how far something is."""


def part_of(tell: Tell, at: int, count: int, desc: str) -> Callable[[int, int], None]:
    """Tells of one piece of work among `count` alike, as codecs and hashes tell: called with (done, total)."""

    def on_progress(done: int, total: int) -> None:
        tell((at + done / max(1, total)) / count, desc=desc)

    return on_progress


class Stoppable:
    """A view's long work. Stop ends all of it that runs: a page has one user, and one piece of work at a time."""

    def __init__(self) -> None:
        self._running: set[threading.Event] = set()

    @contextmanager
    def running(self, tell: Tell) -> Iterator[Tell]:
        """For as long as work runs: what it is to tell instead of `tell`, which raises `Interrupted` after a stop."""
        stopped = threading.Event()

        def told(*how_far: Any, **words: Any) -> object:
            if stopped.is_set():
                raise Interrupted("the work was stopped")
            return tell(*how_far, **words)

        self._running.add(stopped)
        try:
            yield told
        finally:
            self._running.discard(stopped)

    def stop(self) -> None:
        for one in tuple(self._running):
            one.set()
