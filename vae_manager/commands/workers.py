"""Where the work on many files is done: in this process, in several of this computer, or on a Dask cluster.

Whatever the place, it is the same function on the same items, and each item's result comes as soon as it is there, so
that what is done can be written down at once. A worker that dies takes nothing with it: a cluster does its items again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from vae_manager.codec.memory import free_bytes
from vae_manager.errors import BadInputError, VaeManagerError

MAX_JOBS = 8

MOST_JOBS = 61
"""Windows cannot wait for more processes."""

IN_FLIGHT = 1000
"""Items that are handed out at a time: enough for a large cluster, and little to take back when it is stopped."""

CONNECT, WORKERS = 10, 60
"""Seconds to wait for a scheduler to answer, and for its first worker."""

PAUSES = 0.7
"""Share of a Dask worker's memory that is planned with: at .8 it pauses, and at .95 it is killed."""

T = TypeVar("T")
R = TypeVar("R")

Each = Callable[[Callable[[T], R], Sequence[T]], Iterator[tuple[int, Callable[[], R]]]]
"""Does a function on every item. What comes, in the order in which they are done, is an item's number and what gives
its result, or raises what the function raised."""


class WorkerLost(VaeManagerError):
    """An item of which every worker that took it died."""


def count_jobs(wanted: int | None, items: int, worth: int | None) -> int:
    """How many processes: as asked for, else as many as pay.

    Args:
        worth: items for which starting another process is worth it; None: no process is started unless asked for.

    Raises:
        BadInputError: less than one was asked for.
    """
    if wanted is not None and wanted < 1:
        raise BadInputError(f"The number of jobs must be 1 or more, not {wanted}.")
    usual = min(os.cpu_count() or 1, MAX_JOBS, items // worth) if worth else 1
    return min(wanted or usual, items, MOST_JOBS) or 1


@contextmanager
def workers(jobs: int, scheduler: str | None) -> Iterator[Each[Any, Any]]:
    """Where there is work: the address of a Dask scheduler, or as many processes.

    Raises:
        BadInputError: there is no such scheduler, or it has no workers.
    """
    if scheduler is None and jobs == 1:
        yield lambda work, items: ((number, partial(work, item)) for number, item in enumerate(items))
        return
    with _cluster(scheduler) if scheduler else _processes(jobs) as executor:
        try:
            yield lambda work, items: _collected(executor, work, items)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def share() -> int | None:
    """Bytes of main memory that this worker may take; None where it has all that there is."""
    if _beside > 1:
        return free_bytes(torch.device("cpu")) // _beside
    limit = _dask_limit()
    if not limit:
        return None
    import psutil

    return max(1, int(PAUSES * limit) - psutil.Process().memory_info().rss)


_beside = 1
"""Processes that compute beside this one, this one included."""


def _processes(jobs: int) -> Executor:
    """They are started afresh (spawned): a fork of a process in which torch has threads can hang."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(jobs,))


def _begin(jobs: int) -> None:
    global _beside
    _beside = jobs
    torch.set_num_threads(1)


def _collected(executor: Executor, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, Callable[[], R]]]:
    """As `Each`; no more than `IN_FLIGHT` items are handed out at a time."""
    numbers: dict[Future[R], int] = {}
    done: SimpleQueue[Future[R]] = SimpleQueue()
    left = enumerate(items)
    while True:
        for number, item in islice(left, IN_FLIGHT - len(numbers)):
            future = executor.submit(work, item)
            numbers[future] = number
            future.add_done_callback(done.put)
        if not numbers:
            return
        future = done.get()
        yield numbers.pop(future), partial(_result, future)


def _result(future: Future[R]) -> R:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise VaeManagerError(
            "A process that computed has ended by itself, most likely for want of memory. What is done is kept: run "
            "it again with fewer --jobs."
        ) from error
    except ModuleNotFoundError as error:
        raise VaeManagerError(f"The cluster's workers need this program too: install it there ({error}).") from error
    except Exception as error:
        if type(error).__name__ == "KilledWorker":  # of the library `distributed`
            raise WorkerLost("every worker that took it died, most likely for want of memory") from error
        raise


# --- Dask


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask cluster as an executor."""
    try:
        from distributed import Client
    except ImportError as error:
        raise BadInputError(
            "--scheduler needs Dask: install `distributed`, with this program's extra 'dask'."
        ) from error
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError, asyncio.TimeoutError) as error:
        raise BadInputError(f"There is no Dask scheduler at {address[:80]!r}.") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise BadInputError(
                f"The scheduler at {address!r} has no workers; start one with `dask worker {address}`."
            ) from error
        yield client.get_executor(pure=False)


def _dask_limit() -> int | None:
    """What a Dask worker in this process may take in all; None where there is none, or it has no limit."""
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker().memory_manager.memory_limit
    except ValueError:  # not in a task
        return None
