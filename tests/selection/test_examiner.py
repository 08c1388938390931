"""The background examiner: it finds everything, stops at once, and no file can end its work."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import save_file

from tests.conftest import make_state
from tests.selection.conftest import TINY, World
from vae_manager.errors import VaeFileError
from vae_manager.library import hashing
from vae_manager.library.files import vae_file
from vae_manager.library.hashing import HashCache, sha256_of, stamp_of
from vae_manager.library.health import trip_of
from vae_manager.selection import examiner as module
from vae_manager.selection.checkpoint import FactsCache
from vae_manager.selection.examiner import Examiner, Progress
from vae_manager.selection.facts import REVISION
from vae_manager.store import file_key, open_store

WAIT = 120.0
"""Seconds after which something hangs: no test takes them, also on a busy machine."""


@pytest.fixture
def caches(tmp_path: Path) -> tuple[HashCache, FactsCache]:
    return HashCache(open_store(tmp_path / "home")), FactsCache(open_store(tmp_path / "home"))


@pytest.fixture
def examiner(caches: tuple[HashCache, FactsCache]) -> Iterator[Examiner]:
    made = Examiner(*caches)
    yield made
    assert made.cancel(WAIT)


class Pace:
    """What happens before each piece of a file is hashed; the background thread can be made to wait there."""

    def __init__(self) -> None:
        self.before: Callable[[int], None] = lambda piece: None
        self.reached, self.go_on = threading.Event(), threading.Event()

    def hold(self, at: int = 3) -> None:
        """Have the background thread wait before that piece of whatever it hashes, until `go_on`."""

        def before(piece: int) -> None:
            if piece == at and threading.current_thread() is not threading.main_thread():
                self.reached.set()
                assert self.go_on.wait(WAIT)

        self.before = before


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    """Hash in pieces of 64 KiB, as a checkpoint is hashed in pieces of megabytes."""
    monkeypatch.setattr(hashing, "CHUNK", 1 << 16)
    plain, pace = hashing.hashlib.sha256, Pace()

    class Paced:
        def __init__(self) -> None:
            self.inner, self.pieces = plain(), 0

        def update(self, data: memoryview) -> None:
            self.pieces += 1
            pace.before(self.pieces)
            self.inner.update(data)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    monkeypatch.setattr(hashing.hashlib, "sha256", Paced)
    return pace


def big(path: Path, size: int = 1 << 20) -> Path:
    with path.open("wb") as file:
        file.write(b"\x08" + bytes(7) + b"{}      ")
        file.truncate(size)
    return path


def test_it_finds_everything_and_keeps_it(world: World, examiner: Examiner, caches, tmp_path: Path):
    vae, model = vae_file(world.vae("a.safetensors")), vae_file(world.checkpoint("m.safetensors"))
    examiner.add([vae], [model])
    assert examiner.wait(WAIT) and examiner.progress == Progress() and not examiner.problems
    hashes, facts = HashCache(open_store(tmp_path / "home")), FactsCache(open_store(tmp_path / "home"))
    for file in (vae, model):
        assert hashes.peek(file) == sha256_of(file.path)
        assert facts.digest(file, compute=False)
    # the same weights, as a file of their own and baked in
    assert facts.digest(vae, compute=False) == facts.digest(model, compute=False)


def test_it_finds_vae_files_whose_numbers_are_none(world: World, examiner: Examiner, caches):
    state = make_state(TINY)
    state["decoder.conv_out.weight"].fill_(float("nan"))
    save_file(state, str(world.folder / "VAE" / "nan.safetensors"))
    broken, sound = vae_file(world.folder / "VAE" / "nan.safetensors"), vae_file(world.vae("sound.safetensors"))
    assert caches[1].health(broken) == ()  # nobody has looked
    examiner.add([broken, sound])
    assert examiner.wait(WAIT)
    assert "holds NaN" in caches[1].health(broken)[0] and caches[1].health(sound) == ()


def test_progress_is_told_from_the_first_piece_to_the_last(examiner: Examiner, pace: Pace, tmp_path: Path):
    seen: list[Progress] = []
    pace.before = lambda piece: seen.append(examiner.progress)
    examiner.add([vae_file(big(tmp_path / "a.safetensors"))])
    assert examiner.wait(WAIT)
    assert len(seen) >= 16 and all(told.current == "a.safetensors" and 0 <= told.share <= 1 for told in seen)
    assert [(a.done, a.share) for a in seen] == sorted((a.done, a.share) for a in seen)
    assert seen[-1].total == 3 and any(0 < told.share < 1 for told in seen)


def test_cancelling_stops_in_the_middle_of_a_file(examiner: Examiner, caches, pace: Pace, tmp_path: Path):
    file = vae_file(big(tmp_path / "a.safetensors"))
    pace.hold()
    examiner.add([file], [file])
    assert pace.reached.wait(WAIT)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "vae-manager examiner")
    assert not examiner.cancel(0)  # it is told, and has not ended yet
    pace.go_on.set()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert caches[0].peek(file) is None and examiner.progress == Progress()
    small = vae_file(big(tmp_path / "b.safetensors", 1 << 16))
    examiner.add([small])  # it can be used again
    assert examiner.wait(WAIT) and caches[0].peek(small)


def test_a_foreground_request_does_not_wait_for_the_queue(examiner: Examiner, caches, pace: Pace, tmp_path: Path):
    queue = [vae_file(big(tmp_path / f"{number}.safetensors")) for number in range(3)]
    pace.hold()
    examiner.add(queue)
    assert pace.reached.wait(WAIT)
    mine = vae_file(big(tmp_path / "mine.safetensors"))
    assert examiner.sha256(mine) == sha256_of(mine.path)
    assert all(caches[0].peek(file) is None for file in queue)
    pace.go_on.set()


def test_it_rests_while_something_more_important_runs(examiner: Examiner, caches, pace: Pace, tmp_path: Path):
    file = vae_file(big(tmp_path / "a.safetensors", 4 << 20))
    with examiner.paused(), examiner.paused():
        examiner.add([file])
        time.sleep(0.1)
        assert examiner.progress.done == 0 and examiner.progress.share == 0 and caches[0].peek(file) is None
    assert examiner.wait(WAIT) and caches[0].peek(file)


def test_a_paused_examiner_can_be_cancelled(examiner: Examiner, tmp_path: Path):
    with examiner.paused():
        examiner.add([vae_file(big(tmp_path / "a.safetensors"))])
        assert examiner.cancel(WAIT)


def test_a_file_replaced_while_it_is_hashed_is_begun_anew(examiner: Examiner, caches, pace: Pace, tmp_path: Path):
    path = big(tmp_path / "a.safetensors", 4 << 20)
    old = vae_file(path)
    pace.hold()
    examiner.add([old])
    assert pace.reached.wait(WAIT)
    os.replace(big(tmp_path / "new", 2 << 20), path)
    pace.go_on.set()
    assert examiner.wait(WAIT)
    assert caches[0].peek(old) is None and caches[0].peek(vae_file(path)) == sha256_of(path)


def test_a_file_that_never_holds_still_is_given_up(examiner: Examiner, pace: Pace, tmp_path: Path):
    path = big(tmp_path / "a.safetensors", 1 << 20)
    times = itertools.count(1)
    pace.before = lambda piece: os.utime(path, ns=(0, next(times)))
    examiner.add(checkpoints=[vae_file(path)])
    assert examiner.wait(WAIT)
    assert "changed while it was being read" in examiner.problems[str(path)]


def test_a_file_deleted_while_it_is_hashed(examiner: Examiner, caches, pace: Pace, tmp_path: Path):
    gone, other = big(tmp_path / "a.safetensors", 4 << 20), vae_file(big(tmp_path / "b.safetensors", 1 << 16))
    pace.hold()
    examiner.add([vae_file(gone), other])
    assert pace.reached.wait(WAIT)
    gone.unlink()
    pace.go_on.set()
    assert examiner.wait(WAIT)
    assert examiner.problems[str(gone)] == "it is not there any more" and caches[0].peek(other)


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be read there")
def test_what_cannot_be_read_is_a_problem_and_ends_nothing(examiner: Examiner, caches, world: World, tmp_path: Path):
    # a folder can be looked at but not read, also by root
    (tmp_path / "folder.safetensors").mkdir()
    good = vae_file(world.vae("good.safetensors"))
    examiner.add([vae_file(tmp_path / "folder.safetensors"), good])
    assert examiner.wait(WAIT)
    assert "it is a folder" in examiner.problems[str(tmp_path / "folder.safetensors")] and caches[0].peek(good)
    with pytest.raises(VaeFileError, match="it is a folder"):
        examiner.sha256(vae_file(tmp_path / "folder.safetensors"))


class Clock(threading.Event):
    """A clock that stands still but where somebody works or waits; as an event, it counts what is waited for."""

    now = rested = worked = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        Clock.now += timeout or 0.0
        Clock.rested += timeout or 0.0
        return self.is_set()

    @classmethod
    def work(cls, piece: int) -> None:
        cls.now += 1.0
        cls.worked += 1.0


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_a_share_of_the_time_is_left_to_others(share: float, caches, pace: Pace, monkeypatch, tmp_path: Path):
    Clock.now = Clock.rested = Clock.worked = 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    monkeypatch.setattr(module, "threading", SimpleNamespace(**{**vars(threading), "Event": Clock}))
    pace.before = Clock.work
    examiner = Examiner(HashCache(None), FactsCache(), share)
    examiner.add([vae_file(big(tmp_path / "a.safetensors"))])
    assert examiner.wait(WAIT)
    assert Clock.worked >= 16 and Clock.rested == pytest.approx(Clock.worked * (1 / share - 1), rel=0.1)
    with pytest.raises(ValueError, match="share"):
        Examiner(*caches, share=0)


def test_two_threads_may_add_at_once(examiner: Examiner, caches, tmp_path: Path):
    files = [vae_file(big(tmp_path / f"{number}.safetensors", 1 << 16)) for number in range(40)]
    threads = [threading.Thread(target=examiner.add, args=([file],)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert examiner.wait(WAIT) and all(caches[0].peek(file) for file in files)


def test_a_round_trip_is_made_of_what_is_in_doubt_only_and_kept(
    world: World, examiner: Examiner, caches, tmp_path: Path
):
    doubted, other = vae_file(world.vae("a.safetensors")), vae_file(world.vae("b.safetensors"))
    junk = world.folder / "VAE" / "junk.safetensors"
    junk.write_bytes(b"junk")
    assert caches[1].trip(doubted) is None  # nobody has looked
    examiner.add([doubted, other], doubted=[doubted, vae_file(junk)])
    assert examiner.wait(WAIT)
    facts = FactsCache(open_store(tmp_path / "home"))
    trip = facts.trip(doubted)
    assert trip is not None and trip.psnr < 15  # random weights give no picture back
    again = trip_of(doubted)  # in another thread, which may sum in another order
    assert again is not None and trip.curve == pytest.approx(again.curve, rel=1e-3, abs=1e-4)
    assert trip.contrast == pytest.approx(again.contrast, rel=1e-3, abs=1e-4)
    assert facts.trip(other) is None and facts.trip(vae_file(junk)) is None


@pytest.mark.parametrize("row", [{"contrast": 1.0}, {"curve": None}, {"curve": [0.0, 1.0]}, {"curve": ["a"] * 4}])
def test_a_round_trip_that_is_kept_otherwise_is_none(world: World, tmp_path: Path, row: dict[str, object]):
    file, store = vae_file(world.vae("a.safetensors")), open_store(tmp_path / "other")
    whole = {"contrast": 1.0, "brightness": 0.0, "psnr": 30.0, "chroma": 1.0, "curve": [0.0, 1.0, 0.0, 0.0]}
    for kept, known in ((whole, True), (whole | row if "curve" in row else row, False)):
        store.put(f"trip {REVISION}", file_key(file.path), stamp_of(file), kept)
        assert (FactsCache(store).trip(file) is not None) == known


def test_a_round_trip_stops_between_two_pictures(world: World, caches):
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        caches[1].trip(vae_file(world.vae("a.safetensors")), compute=True, progress=stop)
    assert seen == [(1, 8), (2, 8)]
    assert caches[1].trip(vae_file(world.folder / "VAE" / "a.safetensors")) is None
