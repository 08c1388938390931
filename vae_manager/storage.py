"""Small JSON documents of the user's, kept safe.

Every write goes to a temporary file in the same folder, is synced and then renamed over the old one, so that a
kill at any moment leaves the old document or the new one, never half of one. A lock file serialises writers of
several processes. A document that cannot be read is set aside beside itself, never overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vae_manager.json_text import parse_json

log = logging.getLogger("vae_manager")

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process's write before giving up."""

TEMPORARY = ".vae-manager-tmp"
LEFTOVER_AGE = 3600.0
"""Seconds after which a temporary file's writer is surely gone."""


def read_json(path: Path) -> Any:
    """The document, or None when there is none or it had to be set aside as damaged."""
    try:
        return _load(path)
    except OSError as error:
        log.warning("%s cannot be read (%s); going on without it", path, error.strerror)
    except ValueError:
        try:
            with _locked(path):
                return _load_or_set_aside(path)  # another process may have mended it meanwhile
        except OSError as error:
            log.warning("%s is damaged and could not be set aside (%s)", path, error.strerror)
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
        _write(path, json.dumps(document, indent=1))  # in ASCII: file names may hold what UTF-8 cannot
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


def _write(path: Path, text: str) -> None:
    target = Path(os.path.realpath(path))  # behind a link lies a file that the user keeps elsewhere
    _clear_leftovers(target)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=TEMPORARY, dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _clear_leftovers(target: Path) -> None:
    """Remove temporaries of this document whose writers were killed: only ours, and only old ones."""
    with contextlib.suppress(OSError):
        for left in target.parent.glob(f".{glob.escape(target.name)}.*{TEMPORARY}"):
            if time.time() - left.stat().st_mtime > LEFTOVER_AGE:
                left.unlink()


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
