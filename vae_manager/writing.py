"""Files are written whole or not at all: a kill, a full disk or an error leaves the old file or the new one.

A file is written beside its target, synced and renamed over it. What a killed writer left is cleared by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_numbers = itertools.count()

LEFTOVERS = (".vae-manager-*.tmp", ".*.vae-manager-tmp")
"""How files that are being written are called; the second by earlier versions."""
LEFTOVER_AGE = 3600.0
"""Seconds without a write after which a temporary file's writer is surely gone."""


def write_whole(target: Path, save: Callable[[Path], object]) -> None:
    """Have `save` write a file beside the target, sync it, then rename it over the target.

    A link stays a link: what it points to is replaced. A file that was there passes its permissions on.

    Raises:
        OSError: it cannot be written; its `filename` is the target's. Nothing is left of what was begun.
    """
    real = Path(os.path.realpath(target))
    _clear_leftovers(real.parent)
    # A short name of its own: the target's may be as long as names can be. Two containers may share process numbers.
    part = real.with_name(f".vae-manager-{os.getpid()}-{next(_numbers)}-{secrets.token_hex(4)}.tmp")
    try:
        save(part)
        _sync(part)
        if real.exists():
            with contextlib.suppress(OSError):
                shutil.copymode(real, part)
        os.replace(part, real)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(target)) from error
    except Exception as error:
        raise _from_safetensors(error, target) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def save_tensors(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, whatever bytes its folder's name is made of. The same tensors and
    texts give the same bytes.

    Raises:
        OSError: as `write_whole`.
    """
    from safetensors.torch import save, save_file  # brings torch, which not every command needs

    given, texts = dict(tensors), {key: _utf8(value) for key, value in metadata.items()} if metadata else None

    def write(part: Path) -> None:
        try:
            str(part).encode()
        except UnicodeEncodeError:  # safetensors opens names of UTF-8 only
            part.write_bytes(save(given, texts))
        else:
            save_file(given, str(part), texts)
        _in_order(part)

    write_whole(target, write)


def _in_order(path: Path) -> None:
    """Sort the texts in a safetensors file's header, which are written in another order each time."""
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


@lru_cache(maxsize=64)  # once: a folder may hold a hundred thousand pictures, and each of them is written
def _clear_leftovers(folder: Path) -> None:
    """Remove what killed writers began in a folder: only files called as ours are, and only old ones."""
    for pattern in LEFTOVERS:
        with contextlib.suppress(OSError):
            for left in folder.glob(pattern):
                with contextlib.suppress(OSError):  # another process may be clearing too
                    if time.time() - left.stat().st_mtime > LEFTOVER_AGE:
                        left.unlink()


def _utf8(text: str) -> str:
    """A text with what UTF-8 cannot hold (parts of a file's name) written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _from_safetensors(error: Exception, target: Path) -> Exception:
    """safetensors says "I/O error: No space left on device (os error 28)" in an error that is no OSError."""
    number = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    if number is None:
        return error
    return OSError(int(number.group(1)), os.strerror(int(number.group(1))), str(target))


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
