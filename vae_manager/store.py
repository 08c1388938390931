"""What can be computed again, in one SQLite file: hashes, digests, facts of headers, statistics of pictures.

Nothing here may stop a job. Where the file cannot be read or written (a full disk, a folder that is read-only, a file
system without locks, damage), that is told once and everything goes on in memory. What a user *made* (presets, rules,
calibrations) does not belong here but in JSON documents, see `storage`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("vae_manager")

FILE = "store.sqlite"

BUSY = 0.2
"""Seconds to wait for another process's write."""
REST = 60.0
"""Seconds for which a store that failed is let alone."""
BATCH = 200
"""Rows that may wait for the next `flush`."""
KEPT_DAYS = 180
"""Rows that nobody asked for in that time are dropped."""
KEPT_ROWS = 50_000
TOUCH_DAYS = 7
"""How exactly it is known when a row was last asked for."""

_DAY = 86_400

_SCHEMA = """CREATE TABLE IF NOT EXISTS entries (
    kind TEXT NOT NULL, key BLOB NOT NULL, stamp TEXT NOT NULL, value TEXT NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (kind, key)) WITHOUT ROWID"""
_PUT = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)"
_GET = "SELECT stamp, value, used FROM entries WHERE kind = ? AND key = ?"

_Key = tuple[str, bytes]


class Store:
    """Rows (kind, key) → value, each good for one stamp only. Safe to use from several threads and processes."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the file; None keeps everything for this process only."""
        self.path = path
        self._lock = threading.RLock()
        self._opened: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._memory: dict[_Key, tuple[str, str]] = {}
        self._waiting: dict[_Key, tuple[str, str]] = {}
        self._rests: dict[str, float] = {}
        self._told = self._pruned = False

    def get(self, kind: str, key: str, stamp: str) -> Any:
        """The value, if it was put with just this stamp; None where there is none."""
        with self._lock:
            found = self._memory.get(_key(kind, key))
            if found is None or found[0] != stamp:
                found = self._guarded("read", lambda: self._read(_key(kind, key))) or found
        return _parsed(found[1]) if found and found[0] == stamp else None

    def put(self, kind: str, key: str, stamp: str, value: Any, later: bool = False) -> None:
        """Keep a value that JSON can hold; `later`: written with the next `flush`, many rows at once."""
        with self._lock:
            self._memory[_key(kind, key)] = self._waiting[_key(kind, key)] = (stamp, json.dumps(value))
            if not later or len(self._waiting) >= BATCH:
                self.flush()

    def change(self, kind: str, key: str, stamp: str, make: Callable[[Any], Any]) -> None:
        """Make a new value of the old one (None where there is none of this stamp); no other writer comes between."""
        with self._lock:
            if self._guarded("write", lambda: self._change(kind, key, stamp, make)) is None:
                found = self._memory.get(_key(kind, key))
                old = _parsed(found[1]) if found and found[0] == stamp else None
                self.put(kind, key, stamp, make(old), later=True)

    def flush(self) -> bool:
        """Write the rows that wait; False where that cannot be done now."""
        with self._lock:
            return not self._waiting or bool(self._guarded("write", self._write))

    # --- under the lock

    def _read(self, key: _Key) -> tuple[str, str] | None:
        row = self._connection().execute(_GET, key).fetchone()
        if row is None:
            return None
        stamp, value, used = row
        self._memory[key] = (stamp, value)
        if time.time() - used > TOUCH_DAYS * _DAY:
            self._waiting.setdefault(key, (stamp, value))
        return stamp, value

    def _write(self) -> bool:
        database, now = self._connection(), int(time.time())
        with database:
            rows = [(*key, *row, now) for key, row in self._waiting.items()]
            database.executemany(_PUT, rows)
            if not self._pruned:
                database.execute("DELETE FROM entries WHERE used < ?", (now - KEPT_DAYS * _DAY,))
                database.execute(
                    "DELETE FROM entries WHERE (kind, key) IN"
                    " (SELECT kind, key FROM entries ORDER BY used DESC LIMIT -1 OFFSET ?)",
                    (KEPT_ROWS,),
                )
        self._waiting.clear()
        self._pruned = True
        return True

    def _change(self, kind: str, key: str, stamp: str, make: Callable[[Any], Any]) -> bool:
        database, row_key = self._connection(), _key(kind, key)
        with database:
            database.execute("BEGIN IMMEDIATE")
            row = database.execute(_GET, row_key).fetchone()
            value = json.dumps(make(_parsed(row[1]) if row and row[0] == stamp else None))
            database.execute(_PUT, (*row_key, stamp, value, int(time.time())))
        self._memory[row_key] = (stamp, value)
        self._waiting.pop(row_key, None)
        return True

    def _guarded(self, what: str, act: Callable[[], Any]) -> Any:
        """What `act` returns; None where the file cannot be used, which is told once."""
        if self.path is None or time.monotonic() < self._rests.get(what, 0.0):
            return None
        try:
            try:
                return act()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) or not self._set_aside(error):
                    raise
                return act()
        except (sqlite3.Error, OSError) as error:
            self._rests[what] = time.monotonic() + REST
            if not self._told:
                self._told = True
                log.warning("%s cannot be used (%s); the work goes on without it, in memory", self.path, error)
            return None

    def _connection(self) -> sqlite3.Connection:
        if self._opened is not None and self._pid != os.getpid():  # after a fork; closing it would drop the other's
            _orphans.append(self._opened)
            self._opened = None
        if self._opened is None:
            assert self.path is not None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = sqlite3.connect(self.path, timeout=BUSY, check_same_thread=False)
            try:
                # a crash of the whole computer may damage the file, which then is begun anew: worth no waiting
                opened.execute("PRAGMA synchronous = OFF")
                if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
                    opened.execute(_SCHEMA)
                    opened.commit()
            except BaseException:
                opened.close()
                raise
            self._opened, self._pid = opened, os.getpid()
            weakref.finalize(self, opened.close)
        return self._opened

    def _set_aside(self, error: sqlite3.DatabaseError) -> bool:
        """Move a damaged file out of the way; False where that cannot be done."""
        assert self.path is not None
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        kept = self.path.with_name(f"{self.path.name}.unreadable-{time.time_ns()}")
        try:
            os.replace(self.path, kept)
        except OSError:
            return False
        for ending in ("-journal", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}{ending}")
        self._told = True
        log.warning("%s was damaged (%s); it is kept as %s and a new one is begun", self.path, error, kept.name)
        return True


_orphans: list[sqlite3.Connection] = []
_stores: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_stores_lock = threading.Lock()


def open_store(folder: Path) -> Store:
    """The store in a folder of the program's data: one object for all that use it in this process."""
    path = os.path.realpath(folder / FILE)
    with _stores_lock:
        if (found := _stores.get(path)) is None:
            found = _stores[path] = Store(Path(path))
        return found


def file_key(path: Path | str) -> str:
    """What a file's rows are called: its resolved path, the same from every working folder."""
    return os.path.realpath(path)


def _key(kind: str, key: str) -> _Key:
    return kind, key.encode("utf-8", "surrogatepass")  # names of files may hold what UTF-8 cannot


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
