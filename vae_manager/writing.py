"""Files are written whole or not at all: a kill, a full disk or an error leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_numbers = itertools.count()


def write_whole(target: Path, save: Callable[[Path], object]) -> None:
    """Have `save` write a file beside the target, sync it, then rename it over the target.

    A link stays a link: what it points to is replaced. A file that was there passes its permissions on.

    Raises:
        OSError: it cannot be written; its `filename` is the target's. Nothing is left of what was begun.
    """
    real = Path(os.path.realpath(target))
    # A short name of its own: the target's may be as long as names can be.
    part = real.with_name(f".vae-manager-{os.getpid()}-{next(_numbers)}.tmp")
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
    """Write a safetensors file, whole or not at all, whatever bytes its folder's name is made of.

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

    write_whole(target, write)


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
