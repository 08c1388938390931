"""Small JSON documents of the user's, kept safe.

Every document is written whole or not at all (see `writing`). A lock file serialises writers of several processes. A
document that cannot be read is set aside beside itself, never overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vae_manager.errors import os_reason
from vae_manager.json_text import parse_json
from vae_manager.writing import write_whole

log = logging.getLogger("vae_manager")

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process's write before giving up."""


def read_json(path: Path) -> Any:
    """The document, or None when there is none or it had to be set aside as damaged."""
    try:
        return _load(path)
    except OSError as error:
        log.warning("%s cannot be read (%s); going on without it", path, os_reason(error))
    except ValueError:
        try:
            with _locked(path):
                return _load_or_set_aside(path)  # another process may have mended it meanwhile
        except OSError as error:
            log.warning("%s is damaged and could not be set aside (%s)", path, os_reason(error))
    return None


def update_json(path: Path, change: Callable[[Any], Any]) -> Any:
    """Read the document, let `change` make the new one out of it (None when there is none), and save that.

    Reading and writing happen under the lock, so two processes that update at once lose nothing.

    Raises:
        OSError: the document cannot be read or the folder not written; the old document is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        document = change(_load_or_set_aside(path))
        text = json.dumps(document, indent=1)  # in ASCII: file names may hold what UTF-8 cannot
        write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
        return document


def _load(path: Path) -> Any:
    """The document, or None when there is none; ValueError when it is damaged."""
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        return None


def _load_or_set_aside(path: Path) -> Any:
    try:
        return _load(path)
    except ValueError:
        set_aside(path, "was damaged")
        return None


def set_aside(path: Path, what: str) -> None:
    """Keep a file that cannot be used under another name. For the `change` of an `update_json`, under its lock.

    Raises:
        OSError: it cannot be renamed; then nothing may be written in its place.
    """
    kept = path.with_name(f"{path.name}.unreadable-{time.time_ns()}")
    os.replace(path, kept)
    log.warning("%s %s; it is kept as %s and a new one is begun", path, what, kept.name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the document's lock file. Where the file system has no locks, saving is worth more than the lock."""
    from filelock import FileLock, Timeout  # here: what only reads starts without it (and asyncio)

    target = Path(os.path.realpath(path))
    lock = FileLock(target.with_name(target.name + ".lock"), timeout=LOCK_TIMEOUT)
    try:
        lock.acquire(poll_interval=0.01)
    except Timeout as error:
        raise TimeoutError(
            errno.ETIMEDOUT, f"another process has held {path.name} for {LOCK_TIMEOUT:.0f} s", str(path)
        ) from error
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
