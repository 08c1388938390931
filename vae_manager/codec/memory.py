"""How much memory this process may still take, and how to tell that it ran out.

A computer's free memory is not what a process may take: a container, a service or a shell sets limits of its own,
and whoever goes beyond them is killed. Each kind of device is asked by its own interface, never by main memory's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from vae_manager.errors import BadInputError

MOST = 2.0**63
"""No memory is as large."""

UNKNOWN = 1 << 30
"""Bytes taken to be free on a device that does not tell: little enough for the smallest cards that are used."""

OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, XPU, MPS, NPU
    "out_of_memory",
    "out_of_device_memory",  # SYCL
    "out_of_host_memory",
    "out_of_resources",
    "can't allocate memory",  # torch's allocator on the CPU
    "cannot allocate memory",  # errno ENOMEM
    "not enough memory",  # torch's allocator on Windows
    "not enough gpu video memory",  # DirectML
    "could not allocate tensor",  # DirectML
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cufft_alloc_failed",
    "hipblas_status_alloc_failed",
    "rocblas_status_memory_error",
    "miopenstatusallocfailed",
    "invalid buffer size",  # MPS: one tensor larger than a buffer may be
    "allocation on device",  # ComfyUI's and Forge's own words around the driver's
    "could not create a primitive",  # oneDNN, where an allocation of its own failed
    "bad_alloc",  # C++
    "bad allocation",  # C++ on Windows
)
"""What torch and the libraries below it say, in lower case, when an allocation failed."""

_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Version 2 and version 1: the limit, what is taken, and what of that is cached files that can be dropped."""


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can take on the device now; blocks that torch caches count as free.

    A device that does not tell has `UNKNOWN` bytes.
    """
    if device.type == "cpu":
        return _main_memory()
    try:
        return _device_memory(device)
    except (AttributeError, AssertionError, RuntimeError):  # an older torch, or a driver that does not tell
        return UNKNOWN


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's or Python's says that memory ran out."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in OUT_OF_MEMORY)


def release_cached(device: torch.device) -> None:
    """Give blocks that torch caches back to the driver."""
    if device.type in ("cuda", "mps", "xpu", "npu") and hasattr(module := getattr(torch, device.type), "empty_cache"):
        module.empty_cache()


def in_words(count: float) -> str:
    """An amount of memory for people: `1.3 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def read_bytes(text: str) -> int:
    """An amount of memory as people write it, in bytes: '2GiB', '500MB', '1e9'.

    Raises:
        BadInputError: it is none.
    """
    match = re.fullmatch(r"([0-9.e]+)\s*(|[kmgt]i?b?|b)", text.strip().lower())
    try:
        number, unit = (float(match.group(1)), match.group(2)) if match else (0.0, "")
    except ValueError:
        number, unit = 0.0, ""
    power = " kmgt".index(unit[0]) if unit and unit != "b" else 0
    count = number * (1024 if "i" in unit else 1000) ** power
    if not 1 <= count < MOST:
        raise BadInputError(f"{text[:40]!r} is no amount of memory; write 2GiB or 500MB.")
    return int(count)


# --- devices


def _device_memory(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "xpu":
        if hasattr(torch.xpu, "mem_get_info"):
            free, _ = torch.xpu.mem_get_info(device)
            return free + torch.xpu.memory_reserved(device) - torch.xpu.memory_allocated(device)
        # what other programs hold is not told: half of the rest is left to them
        return max(0, torch.xpu.get_device_properties(device).total_memory - torch.xpu.memory_allocated(device)) // 2
    return UNKNOWN


# --- main memory


def _main_memory() -> int:
    import psutil  # here: what computes nothing starts without it

    process = psutil.Process()
    bounds = [int(psutil.virtual_memory().available), *_cgroup_rooms(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    if sys.platform != "win32":
        import resource

        used = process.memory_info()
        for limit, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", 0))):
            soft, _ = resource.getrlimit(limit)
            if soft != resource.RLIM_INFINITY:
                bounds.append(soft - taken)
    return max(0, min(bounds))


def _cgroup_rooms(own: Path, mount: Path) -> Iterator[int]:
    """What each of the groups that this process is in, and each group above it, leaves free."""
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, below = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        names, root = _CGROUPS[1 if controllers else 0], mount / "memory" if controllers else mount
        group = root / re.sub(r"^(/\.\.)*/+", "", below)  # "/.." where the group lies outside our namespace
        for folder in (group, *group.parents):
            room = _room(folder, *names)
            if room is not None:
                yield room
            if folder == root:
                break


def _room(folder: Path, limit_name: str, taken_name: str, dropped_name: str) -> int | None:
    """Bytes free below the limit of a control group; None where it has none."""
    try:
        limit = (folder / limit_name).read_text().strip()
        if limit == "max":
            return None
        taken = int((folder / taken_name).read_text())
        stat = dict(line.split()[:2] for line in (folder / "memory.stat").read_text().splitlines())
        return int(limit) - taken + int(stat.get(dropped_name, 0))
    except (OSError, ValueError):
        return None
