"""Find out in the background what takes long: hashes, digests and the health of baked VAEs.

What is found goes into the caches that everything else looks into (`HashCache`, `FactsCache`), so nobody waits for
an examiner: a rule that needs a hash matches once the hash is there. The work is ordered by its use: all headers
first, then the VAEs' hashes, the baked VAEs, the VAEs' digests, the round trips of those that are in doubt, and last
the checkpoints' hashes, which are gigabytes.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from vae_manager.errors import VaeFileError
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.library.hashing import HashCache
from vae_manager.selection.checkpoint import FactsCache

SAVE_EVERY = 5.0
"""Seconds between two writes of what was found."""

RETRIES = 2
"""How often a file is begun anew because it was replaced while it was looked at."""

Check = Callable[[int, int], None]
"""Called with (done, total) of one file; raises when the work is to stop."""


@dataclass(frozen=True)
class Progress:
    """Where an examiner is."""

    done: int = 0
    """Steps that are finished, since it began with nothing to do; each file takes two to four."""
    total: int = 0
    current: str | None = None
    """Name of the file that is looked at; None when nothing is."""
    share: float = 0.0
    """How much of `current` is done, 0 to 1."""


@dataclass(frozen=True, order=True)
class _Step:
    stage: int
    number: int
    """Keeps the order of `add` within a stage."""
    file: VaeFile
    tries: int = 0


class _Stopped(Exception):
    """The work was cancelled."""


def _cancel(examiner: weakref.ref[Examiner]) -> None:
    if (alive := examiner()) is not None:
        alive.cancel()


class Examiner:
    """One background thread that fills the caches. It lives while there is something to do.

    All methods may be called from any thread, and none but `sha256`, `wait` and `cancel` waits for anything.
    """

    def __init__(self, hashes: HashCache, facts: FactsCache, share: float = 1.0) -> None:
        """`share`: the part of its time that it works, above 0 to 1; the rest it leaves the disk and the cores."""
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        self._hashes, self._facts, self._share = hashes, facts, share
        # a thread that is still inside torch when Python ends brings the whole process down with an abort
        atexit.register(_cancel, weakref.ref(self))
        self._changed = threading.Condition()
        self._steps: list[_Step] = []
        self._numbers = itertools.count()
        self._known: set[tuple[int, tuple[str, int, int]]] = set()
        self._progress = Progress()
        self._problems: dict[str, str] = {}
        self._pauses = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._saved = self._worked = 0.0
        self._stages: tuple[Callable[[VaeFile, Check], object], ...] = (
            lambda file, _: facts.checkpoint(file),
            lambda file, _: facts.vae(file),
            hashes.sha256,
            self._baked,
            self._alone,
            lambda file, check: facts.trip(file, compute=True, progress=check),
            hashes.sha256,
        )

    @property
    def progress(self) -> Progress:
        """Where it is just now."""
        return self._progress

    @property
    def problems(self) -> dict[str, str]:
        """Path → why that file could not be examined, "it …"."""
        with self._changed:
            return dict(self._problems)

    def add(
        self, vaes: Iterable[VaeFile] = (), checkpoints: Iterable[VaeFile] = (), doubted: Iterable[VaeFile] = ()
    ) -> None:
        """Examine these files; what is known of them already costs nothing. Returns at once.

        `doubted`: of the VAEs in these it is to be found out what a round trip does to pictures.
        """
        with self._changed:
            for stages, files in (((1, 2, 4), vaes), ((0, 3, 6), checkpoints), ((5,), doubted)):
                for file in files:
                    for stage in stages:
                        self._push(_Step(stage, next(self._numbers), file))
            if self._steps and self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="vae-manager examiner", daemon=True
                )
                self._thread.start()

    def sha256(self, file: VaeFile, progress: Check | None = None) -> str:
        """One file's hash for somebody who waits: at once, in the caller's thread, while the others' work rests.

        Raises:
            VaeFileError: the file cannot be read, or changes while it is read.
        """
        with self.paused():
            return self._hashes.sha256(file, progress)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Rest while something more important runs, such as a job. May be nested."""
        with self._changed:
            self._pauses += 1
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is nothing left to do; False if `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout)

    def cancel(self, timeout: float = 5.0) -> bool:
        """Drop what is left to do. True when the thread has ended, which takes it no longer than one piece of a
        file; what it found already is kept."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._forget()
            self._stop.set()
            self._changed.notify_all()
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    # --- in the thread

    def _run(self, stop: threading.Event) -> None:
        while (step := self._next(stop)) is not None:
            try:
                self._worked = time.monotonic()
                self._breathe(stop)
                self._stages[step.stage](step.file, lambda done, total: self._tell(stop, done, total))
            except _Stopped:
                break
            except (VaeFileError, OSError) as error:
                self._failed(stop, step, str(error))
            except Exception as error:  # one strange file must not end the work on the others
                self._failed(stop, step, f"it could not be examined ({type(error).__name__}: {error})")
            self._save(stop)
        self._facts.save()

    def _next(self, stop: threading.Event) -> _Step | None:
        if not self._steps:
            self._facts.save()  # outside the lock: it may wait for another process
        with self._changed:
            if stop.is_set():
                return None
            if not self._steps:
                self._thread = None
                self._forget()
                self._changed.notify_all()
                return None
            step = heapq.heappop(self._steps)
            total = self._progress.total
            self._progress = Progress(total - len(self._steps) - 1, total, step.file.name)
            return step

    def _alone(self, file: VaeFile, check: Check) -> None:
        """A VAE file's weights: their digest, and whether they can be used at all."""
        self._facts.digest(file, compute=True, progress=check)
        self._facts.health(file, look="weights", progress=check)

    def _baked(self, file: VaeFile, check: Check) -> None:
        facts = self._facts.checkpoint(file)
        if facts.has_vae and facts.readable:
            self._facts.digest(file, compute=True, progress=check)
            self._facts.health(file, facts.family, "weights", progress=check)

    def _tell(self, stop: threading.Event, done: int, total: int) -> None:
        self._breathe(stop)
        with self._changed:
            if not stop.is_set():
                self._progress = replace(self._progress, share=done / total if total else 1.0)

    def _breathe(self, stop: threading.Event) -> None:
        """Between two pieces of work: leave the others their share, rest while paused, stop when cancelled."""
        stop.wait((time.monotonic() - self._worked) * (1 / self._share - 1))
        with self._changed:
            self._changed.wait_for(lambda: stop.is_set() or not self._pauses)
        if stop.is_set():
            raise _Stopped
        self._worked = time.monotonic()

    def _failed(self, stop: threading.Event, step: _Step, problem: str) -> None:
        """Begin a file anew that was replaced meanwhile; remember what is wrong with any other."""
        try:
            now = vae_file(step.file.path, step.file.name)
        except OSError:
            now, problem = step.file, "it is not there any more"
        with self._changed:
            if stop.is_set():
                return
            if now.version != step.file.version and step.tries < RETRIES:
                self._push(replace(step, file=now, tries=step.tries + 1, number=next(self._numbers)))
            else:
                self._problems[str(step.file.path)] = problem

    def _save(self, stop: threading.Event) -> None:
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._facts.save()
            self._saved = time.monotonic()

    # --- under the lock

    def _push(self, step: _Step) -> None:
        key = (step.stage, step.file.version)
        if key not in self._known:
            self._known.add(key)
            self._problems.pop(str(step.file.path), None)
            heapq.heappush(self._steps, step)
            self._progress = replace(self._progress, total=self._progress.total + 1)

    def _forget(self) -> None:
        self._steps.clear()
        self._known.clear()
        self._progress = Progress()
