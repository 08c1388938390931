"""Read parts of a file that others may change or cut short meanwhile.

Nothing is mapped into memory: touching a page of a mapped file that somebody has truncated ends the process (SIGBUS),
and with it the WebUI. Plain reads come back short instead, and are told. They go straight into the tensor's own
memory, so that nothing is held twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from vae_manager.errors import VaeFileError
from vae_manager.library.dtypes import TORCH

CHANGED = "it was changed or cut short while it was being read; try again when its download is finished"

_KINDS = (
    (stat.S_ISDIR, "a folder; name the file in it"),
    (stat.S_ISFIFO, "a pipe, no file"),
    (stat.S_ISSOCK, "a socket, no file"),
    (stat.S_ISCHR, "a device, no file"),
    (stat.S_ISBLK, "a device, no file"),
)


def os_reason(error: OSError) -> str:
    """The operating system's own words for an error, without the path (the caller names the file)."""
    return error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)


def open_file(path: Path) -> BinaryIO:
    """Open an ordinary file for plain reads; a pipe or device, which could make us wait for ever, is refused.

    Raises:
        VaeFileError: it cannot be opened, or is no ordinary file.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = next((said for is_kind, said in _KINDS if is_kind(mode)), "no ordinary file")
            raise VaeFileError(f"it is {kind}")
        return path.open("rb")
    except OSError as error:
        raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
    except ValueError as error:  # a NUL in the name
        raise VaeFileError("it cannot be read: there can be no file of that name") from error


Stamp = tuple[int, int, int, int]
"""Device, number, size and modification time: another stamp is another content."""


def stamp_of(file: BinaryIO) -> Stamp:
    """The stamp of an open file."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Source:
    """A file as it was when its header was read; parts of it are read only as long as it is still the same."""

    path: Path
    stamp: Stamp

    @property
    def size(self) -> int:
        return self.stamp[2]

    def read(self, start: int, count: int) -> Tensor:
        """`count` bytes from `start` on, as a new uint8 tensor.

        Raises:
            VaeFileError: the file is gone, was changed or cut short, or there is not enough memory.
        """
        raw = new_bytes(count)
        with open_file(self.path) as file:
            if stamp_of(file) != self.stamp:
                raise VaeFileError(CHANGED)
            try:
                file.seek(start)
                fill(file, raw)
            except OSError as error:
                raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
        return raw


def new_bytes(count: int) -> Tensor:
    """Memory for `count` bytes, as a uint8 tensor.

    Raises:
        VaeFileError: there is not so much.
    """
    try:
        return torch.empty(count, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        raise VaeFileError(f"there is not enough memory to read it ({count >> 20} MB at once)") from error


def fill(file: BinaryIO, raw: Tensor) -> None:
    """Read into all of a uint8 tensor.

    Raises:
        OSError: the file cannot be read.
        VaeFileError: it ends before.
    """
    left = memoryview(raw.numpy())  # type: ignore[arg-type]
    while len(left):
        count = file.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise VaeFileError(CHANGED)
        left = left[count:]


def as_numbers(name: str, raw: Tensor, dtype: str, shape: Sequence[int]) -> Tensor:
    """Bytes as a tensor of a safetensors type, without copying.

    Raises:
        VaeFileError: torch has no such type.
    """
    if dtype not in TORCH:
        raise VaeFileError(f"its tensor {name!r:.80} is of the type {dtype!r:.20}, which this torch does not know")
    try:
        return raw.view(TORCH[dtype]).reshape(tuple(shape))
    except RuntimeError as error:  # bytes that do not make so many numbers
        raise VaeFileError(f"its tensor {name!r:.80} cannot be read: the file is broken; fetch it again") from error
