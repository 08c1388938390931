"""Freed memory goes back to the system, so that a run takes what its plan says.

glibc keeps what was freed for later. Strips of one stage do not fit into the holes that strips of another leave, so
the resident size would pass what is in use by 5 to 70 % (docs/tiling.md). Other C libraries and a GPU's allocator are
left to themselves.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

import torch

from vae_manager.codec.streaming.kernels import SIDES, Kernel, planes_of

SLACK = 16
"""Between two looks at the heap, a run takes about this part of its plan."""

READY = planes_of(max(SIDES)) // 9
"""How much larger than a layer's 3×3 weights they may get when they are made ready."""


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


def resident_bytes() -> int:
    """What the process has in memory now; 0 where there is no heap to trim, or the system is not Linux."""
    if _trim is None:
        return 0
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def with_slack(peak: int, device: torch.device) -> int:
    """What a run takes of the memory of `device` whose strips and weights take `peak` bytes there: a part of it is not
    given back at once. A GPU's allocator gives freed memory out again."""
    return peak + peak // SLACK if device.type == "cpu" else peak


def without_slack(limit: int, device: torch.device) -> int:
    """How much a run's strips and weights may take on `device`, so that it stays within `limit` bytes."""
    return limit * SLACK // (SLACK + 1) if device.type == "cpu" else limit


class Heap:
    """Trims the heap when a run on `device` passes the `peak` that its plan promises, without the slack."""

    def __init__(self, peak: int, device: torch.device) -> None:
        self._watches = device.type == "cpu"
        most = without_slack(peak, device)
        self._slack = peak - most
        self._ceiling = resident_bytes() + most

    def look(self, coming: int) -> None:
        """Trim if `coming` bytes more would make the process too large. Where that does not help, others have grown
        beside the run: what they have taken is not looked for again."""
        if self._watches and resident_bytes() + coming > self._ceiling:
            trim()
            self._ceiling = max(self._ceiling, resident_bytes() + self._slack)

    def watched(self, make: Callable[..., Kernel], weight: torch.Tensor, *others: object) -> Kernel:
        """`make(weight, *others)`, with a look before its weights are made ready and before each strip."""
        self.look(READY * weight.nbytes)
        kernel = make(weight, *others)

        def run(buffer: torch.Tensor) -> torch.Tensor:
            self.look(buffer.nbytes)  # what comes out is about as large
            return kernel(buffer)

        return run
