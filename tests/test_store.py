"""The store remembers between processes, and never stops anybody."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from vae_manager import store as module
from vae_manager.store import FILE, Store, open_store


def rows(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return database.execute("SELECT count(*) FROM entries").fetchone()[0]


def works(store: Store) -> bool:
    """Whether all of it works for this process, whatever the disk does."""
    store.put("k", "a", "1", {"x": [1.5, None]})
    store.put("k", "b", "1", "later", later=True)
    store.change("k", "n", "1", lambda old: (old or 0) + 1)
    store.change("k", "n", "1", lambda old: (old or 0) + 1)
    store.flush()
    return [store.get("k", key, "1") for key in "abn"] == [{"x": [1.5, None]}, "later", 2]


def test_what_is_put_is_there_in_the_next_process(tmp_path: Path):
    path = tmp_path / "deep" / FILE
    assert works(Store(path))
    again = Store(path)
    assert [again.get("k", key, "1") for key in "abn"] == [{"x": [1.5, None]}, "later", 2]
    assert again.get("k", "a", "2") is None and again.get("other", "a", "1") is None
    again.change("k", "n", "2", lambda old: old)
    assert Store(path).get("k", "n", "1") is None


def test_a_name_that_is_no_valid_text(tmp_path: Path):
    Store(tmp_path / FILE).put("k", "\udcff.pt", "1", "\udcff")
    assert Store(tmp_path / FILE).get("k", "\udcff.pt", "1") == "\udcff"


def damaged(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def cut(path: Path) -> None:
    store = Store(path)
    for number in range(400):
        store.put("k", f"{number}", "1", "x" * 100, later=True)
    store.flush()
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + b"\xff" * (len(whole) - 5000))


@pytest.mark.parametrize("damage", [damaged, cut])
def test_a_damaged_store_is_set_aside_and_begun_anew(tmp_path: Path, caplog, damage):
    path = tmp_path / FILE
    damage(path)
    store = Store(path)
    for number in range(400):
        store.get("k", f"{number}", "1")
    assert works(store) and Store(path).get("k", "b", "1") == "later"
    assert len(list(tmp_path.glob(f"{FILE}.unreadable-*"))) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def a_folder(path: Path, monkeypatch) -> None:
    path.mkdir()


def no_folder(path: Path, monkeypatch) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where the data folder should be")


def full(path: Path, monkeypatch) -> None:
    Store(path).put("k", "old", "1", 1)
    connect = sqlite3.connect

    def small(*args, **options):
        opened = connect(*args, **options)
        opened.execute("PRAGMA max_page_count = 1")  # SQLITE_FULL, as on a full disk
        opened.execute("CREATE TEMP TRIGGER t BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'full'); END")
        return opened

    monkeypatch.setattr(module.sqlite3, "connect", small)


def read_only(path: Path, monkeypatch) -> None:
    Store(path).put("k", "old", "1", 1)
    connect = sqlite3.connect
    monkeypatch.setattr(
        module.sqlite3, "connect", lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options)
    )


def no_locks(path: Path, monkeypatch) -> None:
    class Broken:
        def execute(self, *args):
            raise sqlite3.OperationalError("disk I/O error")

        def close(self):
            pass

    monkeypatch.setattr(module.sqlite3, "connect", lambda *args, **options: Broken())


@pytest.mark.parametrize("trouble", [a_folder, no_folder, full, read_only, no_locks])
def test_trouble_is_one_warning_and_the_work_goes_on(tmp_path: Path, monkeypatch, caplog, trouble):
    path = tmp_path / "home" / FILE
    path.parent.mkdir()
    trouble(path, monkeypatch)
    store = Store(path)
    assert works(store) and works_again(store)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    if trouble is read_only:
        assert store.get("k", "old", "1") == 1


def works_again(store: Store) -> bool:
    return all(store.get("k", f"missing {number}", "1") is None for number in range(300))


def test_another_program_s_lock_is_waited_for_once_only(tmp_path: Path, monkeypatch, caplog):
    path = tmp_path / FILE
    Store(path).put("k", "old", "1", 1)
    slept: list[float] = []
    connect = sqlite3.connect

    def counting(*args, timeout: float, **options):
        slept.append(timeout)
        return connect(*args, timeout=timeout, **options)

    monkeypatch.setattr(module.sqlite3, "connect", counting)
    with connect(path) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        store = Store(path)
        assert works(store) and works_again(store)
        holder.rollback()
    assert len(caplog.records) == 1 and slept and max(slept) <= 0.5
    monkeypatch.setattr(module, "REST", 0.0)
    store._rests.clear()
    assert store.flush() and Store(path).get("k", "a", "1")


def test_rows_that_nobody_asks_for_are_dropped(tmp_path: Path, monkeypatch):
    path = tmp_path / FILE
    store = Store(path)
    for key in ("kept", "old"):
        store.put("k", key, "1", key)
    now, day = time.time(), 86_400
    monkeypatch.setattr(module.time, "time", lambda: now + 100 * day)
    again = Store(path)
    assert again.get("k", "kept", "1") == "kept"  # asked for: its time begins anew
    again.put("k", "new", "1", 1)
    monkeypatch.setattr(module.time, "time", lambda: now + 200 * day)
    Store(path).put("k", "newer", "1", 1)
    assert rows(path) == 3 and Store(path).get("k", "old", "1") is None and Store(path).get("k", "kept", "1") == "kept"


def test_the_number_of_rows_is_bounded(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_ROWS", 10)
    path = tmp_path / FILE
    store = Store(path)
    for number in range(50):
        store.put("k", f"{number}", "1", number, later=True)
    store.flush()
    Store(path).put("k", "x", "1", 1)
    assert rows(path) == 10


def test_one_row_does_not_rewrite_the_file(tmp_path: Path):
    path = tmp_path / FILE
    store = Store(path)
    for number in range(3000):
        store.put("k", f"{number}", "1", "x" * 1000, later=True)
    store.flush()
    written: list[str] = []
    store._connection().set_trace_callback(written.append)
    store.put("k", "one", "1", 1)
    assert sum(line.startswith("INSERT") for line in written) == 1


def count(path: Path, times: int) -> None:
    store = Store(path)
    for _ in range(times):
        store.change("k", "n", "1", lambda old: (old or 0) + 1)


def test_processes_and_threads_lose_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BUSY", 30.0)  # a slow machine must not fail this
    path = tmp_path / FILE
    count(path, 1)
    workers = [multiprocessing.Process(target=count, args=(path, 20)) for _ in range(2)]
    workers += [threading.Thread(target=count, args=(path, 20)) for _ in range(2)]  # type: ignore[list-item]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert Store(path).get("k", "n", "1") == 81


def test_one_object_for_a_folder(tmp_path: Path):
    store = open_store(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert open_store(tmp_path / "link") is store and json.dumps(os.listdir(tmp_path)) == '["link"]'
