"""Time and memory of one call."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What a call took. `peak_bytes`: CUDA's peak on a GPU; elsewhere how far the process's peak resident memory
    rose during the call (None where the platform does not tell), so a call after a bigger one shows 0."""

    seconds: float
    peak_bytes: int | None


def measure(device: str, call: Callable[[], T]) -> tuple[T, Measured]:
    """Run `call` and measure it, waiting for the device before and after."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before, start = _peak_resident(), time.perf_counter()
    result = call()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if cuda:
        return result, Measured(seconds, torch.cuda.max_memory_allocated())
    after = _peak_resident()
    return result, Measured(seconds, None if after is None or before is None else after - before)


def _peak_resident() -> int | None:
    """The most memory this process has ever held resident, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
