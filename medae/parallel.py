"""Independent pieces of work, in this process or in several."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor
from typing import TypeVar

from medae.errors import DataError

MOST_WORKERS = 8
"""More processes than this wait for the disk."""

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """Cores that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST_WORKERS)


def unordered(function: Callable[[T], R], items: Sequence[T], workers: int = 1) -> Generator[tuple[int, R]]:
    """``(place, function(items[place]))`` of every item, as they are done.

    workers: processes; 1 works in this one, in order. With more, function, items and results are pickled, and an
    exception of one item ends the whole: let ``function`` return its failures. Each process has one thread for numerics.
    Raises DataError if a process dies, most often for want of memory.
    """
    if workers <= 1 or len(items) <= 1:
        for place, item in enumerate(items):
            yield place, function(item)
        return
    from joblib import Parallel, delayed, parallel_config

    # loky replaces a process whose memory has grown, and says so from a thread of its own
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor", UserWarning)
    with parallel_config(backend="loky", inner_max_num_threads=1):
        pool = Parallel(n_jobs=min(workers, len(items)), return_as="generator_unordered")
        results = pool(delayed(_placed)(function, place, item) for place, item in enumerate(items))
        try:
            for result in results:  # noqa: UP028 (yield from would close the pool before the warning is silenced)
                yield result
        except BrokenExecutor as error:
            raise DataError(
                f"One of {min(workers, len(items))} processes that read scans died.",
                remedy="Most often memory ran out: use fewer workers (--workers 1 reads one scan at a time).",
            ) from error
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that items are left when the caller has seen enough
                results.close()


def _placed(function: Callable[[T], R], place: int, item: T) -> tuple[int, R]:
    return place, function(item)
