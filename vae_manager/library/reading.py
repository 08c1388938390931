"""Read parts of a file that others may change or cut short meanwhile.

Nothing is mapped into memory: touching a page of a mapped file that somebody has truncated ends the process (SIGBUS),
and with it the WebUI. Plain reads come back short instead, and are told. They go straight into memory that becomes the
tensor's own, so that nothing is held twice.

Numbers are first only bits, whole numbers of their size in a numpy array: hashing and comparing them takes no torch.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vae_manager.errors import VaeFileError, os_reason
from vae_manager.library.dtypes import BITS, torch_type

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Bits = np.ndarray[Any, np.dtype[Any]]

CHANGED = "it was changed or cut short while it was being read; try again when its download is finished"

_KINDS = (
    (stat.S_ISDIR, "a folder; name the file in it"),
    (stat.S_ISFIFO, "a pipe, no file"),
    (stat.S_ISSOCK, "a socket, no file"),
    (stat.S_ISCHR, "a device, no file"),
    (stat.S_ISBLK, "a device, no file"),
)


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

    def read(self, start: int, count: int) -> Bits:
        """`count` bytes from `start` on, as a new array of uint8.

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


def new_bytes(count: int) -> Bits:
    """Memory for `count` bytes, as an array of uint8.

    Raises:
        VaeFileError: there is not so much.
    """
    import numpy as np  # here: what reads nothing but headers starts in half the time

    try:
        return np.empty(count, dtype=np.uint8)
    except (ValueError, MemoryError) as error:
        raise VaeFileError(f"there is not enough memory to read it ({count >> 20} MB at once)") from error


def fill(file: BinaryIO, raw: Bits) -> None:
    """Read into all of an array of uint8.

    Raises:
        OSError: the file cannot be read.
        VaeFileError: it ends before.
    """
    left = memoryview(raw)  # type: ignore[arg-type]
    while len(left):
        count = file.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise VaeFileError(CHANGED)
        left = left[count:]


def as_bits(name: str, raw: Bits, dtype: str, shape: Sequence[int]) -> Bits:
    """Bytes as the bits of numbers of a safetensors type: whole numbers without sign of its size, nothing copied.

    Raises:
        VaeFileError: its numbers have no whole bytes, or the bytes do not make so many of them.
    """
    size = BITS.get(dtype, 0) // 8
    if not size:
        raise _unknown(name, dtype)
    try:
        return raw.view(f"u{size}").reshape(tuple(shape))
    except ValueError as error:
        raise VaeFileError(f"its tensor {name!r:.80} cannot be read: the file is broken; fetch it again") from error


def as_tensor(name: str, bits: Bits, dtype: str) -> Tensor:
    """The tensor of a safetensors type that has these bits, in the same memory.

    Raises:
        VaeFileError: torch has no such type.
    """
    import torch  # here: what is only hashed or compared needs no torch

    if (own := torch_type(dtype)) is None:
        raise _unknown(name, dtype)
    return torch.from_numpy(bits.view(f"i{bits.itemsize}" if bits.itemsize > 1 else bits.dtype)).view(own)


def _unknown(name: str, dtype: str) -> VaeFileError:
    return VaeFileError(f"its tensor {name!r:.80} is of the type {dtype!r:.20}, which this torch does not know")
