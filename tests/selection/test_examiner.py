"""The background examiner: it finds everything, stops at once, and no file can end its work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.selection.conftest import World
from vae_manager.errors import VaeFileError
from vae_manager.library import hashing
from vae_manager.library.files import vae_file
from vae_manager.library.hashing import HashCache, sha256_of
from vae_manager.selection.checkpoint import FactsCache
from vae_manager.selection.examiner import Examiner, Progress
from vae_manager.store import open_store


@pytest.fixture
def caches(tmp_path: Path) -> tuple[HashCache, FactsCache]:
    return HashCache(open_store(tmp_path / "home")), FactsCache(open_store(tmp_path / "home"))


@pytest.fixture
def examiner(caches: tuple[HashCache, FactsCache]) -> Iterator[Examiner]:
    made = Examiner(*caches)
    yield made
    assert made.cancel(30)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash in pieces of 64 KiB, a millisecond each: a file of some MB takes as long as a checkpoint."""
    monkeypatch.setattr(hashing, "CHUNK", 1 << 16)
    plain = hashing.hashlib.sha256

    class Slow:
        def __init__(self) -> None:
            self.inner = plain()

        def update(self, data: memoryview) -> None:
            time.sleep(0.001)
            self.inner.update(data)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    monkeypatch.setattr(hashing.hashlib, "sha256", Slow)


def big(path: Path, size: int = 64 << 20) -> Path:
    with path.open("wb") as file:
        file.write(b"\x08" + bytes(7) + b"{}      ")
        file.truncate(size)
    return path


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


def test_it_finds_everything_and_keeps_it(world: World, examiner: Examiner, caches, tmp_path: Path):
    vae, model = vae_file(world.vae("a.safetensors")), vae_file(world.checkpoint("m.safetensors"))
    examiner.add([vae], [model])
    assert examiner.wait(60) and examiner.progress == Progress() and not examiner.problems
    hashes, facts = HashCache(open_store(tmp_path / "home")), FactsCache(open_store(tmp_path / "home"))
    for file in (vae, model):
        assert hashes.peek(file) == sha256_of(file.path)
        assert facts.digest(file, compute=False)
    # the same weights, as a file of their own and baked in
    assert facts.digest(vae, compute=False) == facts.digest(model, compute=False)


def test_progress_is_told_from_the_first_piece_to_the_last(examiner: Examiner, slow, tmp_path: Path):
    examiner.add([vae_file(big(tmp_path / "a.safetensors", 1 << 20))])
    seen: list[Progress] = []
    while not examiner.wait(0.002):
        seen.append(examiner.progress)
    told = [seen_ for seen_ in seen if seen_.current]
    assert told and all(seen_.current == "a.safetensors" and 0 <= seen_.share <= 1 for seen_ in told)
    assert [(a.done, a.share) for a in told] == sorted((a.done, a.share) for a in told)
    assert told[-1].total == 3 and any(0 < seen_.share < 1 for seen_ in told)


def test_cancelling_stops_in_the_middle_of_a_file(examiner: Examiner, caches, slow, tmp_path: Path):
    file = vae_file(big(tmp_path / "a.safetensors"))
    examiner.add([file], [file])
    until(lambda: examiner.progress.share > 0)
    begun = time.monotonic()
    assert examiner.cancel() and time.monotonic() - begun < 1
    assert caches[0].peek(file) is None and examiner.progress == Progress()
    assert not [thread for thread in threading.enumerate() if thread.name == "vae-manager examiner"]
    small = vae_file(big(tmp_path / "b.safetensors", 1 << 16))
    examiner.add([small])  # it can be used again
    assert examiner.wait(30) and caches[0].peek(small)


def test_a_foreground_request_does_not_wait_for_the_queue(examiner: Examiner, caches, slow, tmp_path: Path):
    queue = [vae_file(big(tmp_path / f"{number}.safetensors")) for number in range(3)]
    examiner.add(queue)
    until(lambda: examiner.progress.share > 0)
    mine = vae_file(big(tmp_path / "mine.safetensors", 1 << 20))
    assert examiner.sha256(mine) == sha256_of(mine.path)
    assert all(caches[0].peek(file) is None for file in queue)


def test_it_rests_while_something_more_important_runs(examiner: Examiner, caches, slow, tmp_path: Path):
    file = vae_file(big(tmp_path / "a.safetensors", 4 << 20))
    with examiner.paused(), examiner.paused():
        examiner.add([file])
        time.sleep(0.1)
        assert examiner.progress.done == 0 and examiner.progress.share == 0 and caches[0].peek(file) is None
    assert examiner.wait(30) and caches[0].peek(file)


def test_a_paused_examiner_can_be_cancelled(examiner: Examiner, tmp_path: Path):
    with examiner.paused():
        examiner.add([vae_file(big(tmp_path / "a.safetensors"))])
        assert examiner.cancel(5)


def test_a_file_replaced_while_it_is_hashed_is_begun_anew(examiner: Examiner, caches, slow, tmp_path: Path):
    path = big(tmp_path / "a.safetensors", 4 << 20)
    old = vae_file(path)
    examiner.add([old])
    until(lambda: examiner.progress.share > 0)
    os.replace(big(tmp_path / "new", 2 << 20), path)
    assert examiner.wait(30)
    assert caches[0].peek(old) is None and caches[0].peek(vae_file(path)) == sha256_of(path)


def test_a_file_that_never_holds_still_is_given_up(examiner: Examiner, slow, tmp_path: Path):
    path = big(tmp_path / "a.safetensors", 1 << 20)
    examiner.add(checkpoints=[vae_file(path)])
    while not examiner.wait(0.001):
        os.utime(path)
    assert "changed while it was being read" in examiner.problems[str(path)]


def test_a_file_deleted_while_it_is_hashed(examiner: Examiner, caches, slow, tmp_path: Path):
    gone, other = big(tmp_path / "a.safetensors", 4 << 20), vae_file(big(tmp_path / "b.safetensors", 1 << 16))
    examiner.add([vae_file(gone), other])
    until(lambda: examiner.progress.share > 0)
    gone.unlink()
    assert examiner.wait(30)
    assert examiner.problems[str(gone)] == "it is not there any more" and caches[0].peek(other)


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be read there")
def test_what_cannot_be_read_is_a_problem_and_ends_nothing(examiner: Examiner, caches, world: World, tmp_path: Path):
    # a folder can be looked at but not read, also by root
    (tmp_path / "folder.safetensors").mkdir()
    good = vae_file(world.vae("good.safetensors"))
    examiner.add([vae_file(tmp_path / "folder.safetensors"), good])
    assert examiner.wait(30)
    assert "it is a folder" in examiner.problems[str(tmp_path / "folder.safetensors")] and caches[0].peek(good)
    with pytest.raises(VaeFileError, match="it is a folder"):
        examiner.sha256(vae_file(tmp_path / "folder.safetensors"))


def test_a_share_of_the_time_is_left_to_others(caches, slow, tmp_path: Path):
    file = vae_file(big(tmp_path / "a.safetensors", 4 << 20))
    took = {}
    for share in (1.0, 0.2):
        examiner = Examiner(HashCache(None), FactsCache(), share)
        begun = time.monotonic()
        examiner.add([file])
        assert examiner.wait(60)
        took[share] = time.monotonic() - begun
    assert took[0.2] > 2.5 * took[1.0]
    with pytest.raises(ValueError, match="share"):
        Examiner(*caches, share=0)


def test_two_threads_may_add_at_once(examiner: Examiner, caches, tmp_path: Path):
    files = [vae_file(big(tmp_path / f"{number}.safetensors", 1 << 16)) for number in range(40)]
    threads = [threading.Thread(target=examiner.add, args=([file],)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert examiner.wait(60) and all(caches[0].peek(file) for file in files)
