"""Small documents survive damage, kills and each other."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vae_manager import writing
from vae_manager.codec.pictures import save_picture
from vae_manager.storage import read_json, update_json
from vae_manager.writing import save_tensors


def test_absent_then_written_then_read(tmp_path: Path):
    path = tmp_path / "folder" / "a.json"
    assert read_json(path) is None
    assert update_json(path, lambda old: {"old": old, "name": "é"}) == {"old": None, "name": "é"}
    assert read_json(path) == {"old": None, "name": "é"}
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json", "a.json.lock"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_document_is_set_aside_never_overwritten(tmp_path: Path, damage: bytes):
    path = tmp_path / "a.json"
    path.write_bytes(damage)
    assert update_json(path, lambda old: [old]) == [None]
    (kept,) = tmp_path.glob("a.json.unreadable-*")
    assert kept.read_bytes() == damage


def test_a_failing_change_changes_nothing(tmp_path: Path):
    path = tmp_path / "a.json"
    update_json(path, lambda _: 1)
    with pytest.raises(ZeroDivisionError):
        update_json(path, lambda old: old / 0)
    with pytest.raises(TypeError):
        update_json(path, lambda _: object())
    assert read_json(path) == 1
    assert len(list(tmp_path.iterdir())) == 2


def count(path: Path, times: int) -> None:
    for _ in range(times):
        update_json(path, lambda old: (old or 0) + 1)


def test_two_processes_lose_nothing(tmp_path: Path):
    path = tmp_path / "a.json"
    workers = [multiprocessing.Process(target=count, args=(path, 40)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    assert read_json(path) == 80


def write_for_ever(path: Path) -> None:
    while True:
        update_json(path, lambda old: {"n": (old or {"n": 0})["n"] + 1, "pad": "x" * 200_000})


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_kill_in_mid_save_leaves_a_whole_document(tmp_path: Path):
    path = tmp_path / "a.json"
    for _ in range(5):
        worker = multiprocessing.Process(target=write_for_ever, args=(path,))
        worker.start()
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(120)
        assert json.loads(path.read_text())["n"] > 0
        assert not list(tmp_path.glob("*.unreadable-*"))


def test_a_document_that_cannot_be_read_is_not_replaced(tmp_path: Path):
    path = tmp_path / "a.json"
    path.mkdir()  # reading it is an error of the system, not of its content
    assert read_json(path) is None
    with pytest.raises(OSError):
        update_json(path, lambda old: 1)
    assert path.is_dir() and not list(tmp_path.glob("*.unreadable-*"))


def test_names_that_are_no_valid_text(tmp_path: Path):
    path = tmp_path / "a.json"
    update_json(path, lambda _: {"\udcff.pt": 1})
    assert read_json(path) == {"\udcff.pt": 1}


def test_a_link_is_written_through_and_the_mode_kept(tmp_path: Path):
    real = tmp_path / "synced" / "presets.json"
    real.parent.mkdir()
    real.write_text("[1]")
    real.chmod(0o664)
    link = tmp_path / "presets.json"
    link.symlink_to(real)
    update_json(link, lambda old: [*old, 2])
    assert link.is_symlink() and json.loads(real.read_text()) == [1, 2]
    assert real.stat().st_mode & 0o777 == 0o664


def test_a_byte_order_mark_is_read_over(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1] and update_json(path, lambda old: [*old, 2]) == [1, 2]
    assert not list(tmp_path.glob("*.unreadable-*"))


@pytest.mark.parametrize("write", [
    lambda path: update_json(path, lambda _: 1),
    lambda path: save_tensors(path, {"a": torch.ones(1)}),
    lambda path: save_picture(path.with_suffix(".png"), torch.zeros(1, 3, 2, 2), 8),
])  # fmt: skip
def test_temporaries_of_killed_writers_are_cleared(tmp_path: Path, write: Callable[[Path], object]):
    """A document's and a command's: both are written in the same way."""
    path, old = tmp_path / "a.json", time.time() - 2 * writing.LEFTOVER_AGE
    gone = {".vae-manager-7-0-abc.tmp", ".vae-manager-7-0.tmp", ".a.json.abc.vae-manager-tmp"}
    kept = {".vae-manager-8-0-new.tmp": time.time(), ".a.json.backup": old, "vae-manager-1.tmp": old}
    names = {**dict.fromkeys(gone, old), **kept}
    for name, written in names.items():
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (written, written))
    write(path)
    left = {found.name for found in tmp_path.iterdir()} - {"a.json", "a.json.lock", "a.png"}
    assert left == set(kept)


@pytest.mark.skipif(os.name == "nt", reason="locks are another system call there")
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_at_once(tmp_path: Path, monkeypatch, error: int):
    import fcntl

    def refuse(*args):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    path = tmp_path / "a.json"
    assert update_json(path, lambda old: [old]) == [None] and read_json(path) == [None]
