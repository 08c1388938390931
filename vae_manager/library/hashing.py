"""sha256 of model files, remembered until the file changes.

A1111's own cache must not be read for this: it files every VAE under one title, so its "VAE hash" is another
file's after a switch. Ours is keyed by path, size and modification time in nanoseconds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from vae_manager.errors import VaeFileError
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.library.reading import open_file, os_reason
from vae_manager.storage import read_json, update_json

CHUNK = 4 << 20

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); raise from it to stop."""


def sha256_of(path: Path, progress: Progress | None = None) -> str:
    """The file's sha256 in 64 hexadecimal digits.

    Raises:
        VaeFileError: the file cannot be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    done = 0
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            while count := file.readinto(buffer):  # type: ignore[attr-defined]
                digest.update(buffer[:count])
                done += count
                if progress:
                    progress(done, size)
    except OSError as error:
        raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
    return digest.hexdigest()


class HashCache:
    """The known hashes, in memory and in one JSON file. Safe to share between processes."""

    def __init__(self, path: Path | None) -> None:
        """`path`: where to keep the hashes; None keeps them for this process only."""
        self._path = path
        self._known: dict[str, list[object]] | None = None

    def peek(self, file: VaeFile) -> str | None:
        """The hash, if it is known for just this version of the file. Never reads the file."""
        if self._known is None:
            self._known = _checked(read_json(self._path)) if self._path else {}
        entry = self._known.get(str(file.path))
        return str(entry[2]) if entry and entry[:2] == [file.size, file.mtime_ns] else None

    def sha256(self, file: VaeFile, progress: Progress | None = None) -> str:
        """The hash, computed if need be.

        Raises:
            VaeFileError: the file cannot be read, or changes while it is read.
        """
        if known := self.peek(file):
            return known
        sha256 = sha256_of(file.path, progress)
        try:
            changed = vae_file(file.path).version != file.version
        except OSError as error:
            raise VaeFileError("it was deleted while it was being read") from error
        if changed:
            raise VaeFileError("it was changed while it was being read; try again when its download is finished")
        self._remember(str(file.path), [file.size, file.mtime_ns, sha256])
        return sha256

    def _remember(self, key: str, entry: list[object]) -> None:
        if self._path is None:
            assert self._known is not None
            self._known[key] = entry
        else:
            self._known = update_json(self._path, lambda known: {**_checked(known), key: entry})


def _checked(document: object) -> dict[str, list[object]]:
    """The entries of a cache file that have the right form; anything else in it is forgotten, not trusted."""
    if not isinstance(document, dict):
        return {}
    return {
        key: value
        for key, value in document.items()
        if isinstance(value, list) and [type(part) for part in value] == [int, int, str] and len(value[2]) == 64
    }
