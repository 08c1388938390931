"""Freed memory goes back to the system, so that a run takes what its plan says.

glibc keeps what was freed for later. Strips of one stage do not fit into the holes that strips of another leave, so
the resident size would pass what is in use by 5 to 70 % (docs/tiling.md). Other C libraries and a GPU's allocator are
left to themselves.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import torch

TRIMS = 16
"""How often memory of the size of a plan's peak may pass before the heap is trimmed: what is not yet given back is at
most this part of it."""


def _glibc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; TypeError: Windows
        return None


_trim = _glibc_trim()


def trim() -> None:
    """Give every freed page back now."""
    if _trim is not None:
        _trim(0)


def with_slack(peak: int, device: torch.device) -> int:
    """What a run takes of the memory of `device` whose strips and weights take `peak` bytes there: up to a part of it
    is not yet given back. A GPU's allocator gives freed memory out again."""
    return peak + peak // TRIMS if device.type == "cpu" else peak


def without_slack(limit: int, device: torch.device) -> int:
    """How much a run's strips and weights may take on `device`, so that it stays within `limit` bytes."""
    return limit * TRIMS // (TRIMS + 1) if device.type == "cpu" else limit


class Heap:
    """Trims the heap from time to time in a run whose plan takes `peak` bytes, and whose maps are on `storage`."""

    def __init__(self, peak: int, storage: torch.device) -> None:
        self._every = peak // TRIMS if storage.type == "cpu" else math.inf
        self._passed = 0

    def passed(self, size: int) -> None:
        """`size` bytes were made, and others were freed for them, or will be: strips, or the weights of a pass."""
        self._passed += size
        if self._passed >= self._every:
            self._passed = 0
            trim()
