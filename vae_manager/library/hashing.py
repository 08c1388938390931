"""sha256 of model files, remembered until the file changes.

A1111's own cache must not be read for this: it files every VAE under one title, so its "VAE hash" is another
file's after a switch. Ours is keyed by resolved path, size and modification time in nanoseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from vae_manager.errors import VaeFileError, os_reason
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.library.reading import open_file
from vae_manager.store import Store, file_key

CHUNK = 4 << 20

KIND = "sha256"
"""Of the store's rows."""

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
    """The known hashes, in memory and in the store. Safe to share between threads and processes."""

    def __init__(self, store: Store | None = None, alone: bool = False) -> None:
        """`store`: where to keep the hashes; None keeps them for this process only. `alone`: what is not known is not
        looked for again, for nobody else is expected to compute it meanwhile."""
        self._store = store or Store(None)
        self._unknown: set[tuple[str, str]] | None = set() if alone else None
        _take_over(self._store)

    def peek(self, file: VaeFile) -> str | None:
        """The hash, if it is known for just this version of the file. Never reads the file."""
        version = str(file.path), stamp_of(file)
        if self._unknown and version in self._unknown:
            return None
        found = self._store.get(KIND, file.key, stamp_of(file))
        if isinstance(found, str) and len(found) == 64:
            return found
        if self._unknown is not None:
            self._unknown.add(version)
        return None

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
        self._store.put(KIND, file.key, stamp_of(file), sha256)
        if self._unknown:
            self._unknown.discard((str(file.path), stamp_of(file)))
        return sha256


def stamp_of(file: VaeFile) -> str:
    """Changes whenever the file does: what is known of a file is good for one stamp."""
    return f"{file.size} {file.mtime_ns}"


def _take_over(store: Store) -> None:
    """Hashes took minutes of reading: those that an older version kept in JSON go into the store, once."""
    if store.path is None or not (old := store.path.with_name("hashes.json")).is_file():
        return
    try:
        document = json.loads(old.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    for path, entry in document.items() if isinstance(document, dict) else ():
        right = isinstance(entry, list) and [type(part) for part in entry] == [int, int, str] and len(entry[2]) == 64
        if right and os.path.isabs(path):  # a relative one may be any file's
            store.put(KIND, file_key(path), f"{entry[0]} {entry[1]}", entry[2], later=True)
    if store.flush():
        for name in ("hashes.json", "headers.json", "colors.json"):  # the latter two are soon known again
            with contextlib.suppress(OSError):
                store.path.with_name(name).unlink()
