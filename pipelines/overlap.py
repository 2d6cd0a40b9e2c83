"""Reading, computing and writing of many scans, each while the others are done: memory holds a few scans at most."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from medae.errors import MedaeError

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")


class Steps(ABC, Generic[Item, Read, Made, Written]):
    """The three steps of each item. read and write run in threads beside ``make``, which runs in the caller's."""

    @abstractmethod
    def read(self, item: Item) -> Read:
        """From disk."""

    @abstractmethod
    def make(self, item: Item, read: Read) -> Made:
        """What takes the processor, or the GPU."""

    @abstractmethod
    def write(self, item: Item, made: Made) -> Written:
        """To disk."""


def overlapped(
    items: Sequence[Item], steps: Steps[Item, Read, Made, Written], readers: int = 1
) -> Iterator[tuple[Item, Written | MedaeError]]:
    """Every item with what was written of it, or with why it failed, in order.

    readers: threads, each of which is at most one item ahead. So memory holds as many items that are read, one that is made
    and one that is written. Only a MedaeError is an item's own failure; anything else ends the whole.
    """
    to_do, ahead = iter(items), deque[tuple[Item, Future[Read]]]()
    writing: tuple[Item, Future[Written] | MedaeError] | None = None
    reading, writer = ThreadPoolExecutor(readers), ThreadPoolExecutor(1)

    def read_on() -> None:
        item = next(to_do, None)
        if item is not None:
            ahead.append((item, reading.submit(steps.read, item)))

    try:
        for _ in range(readers):
            read_on()
        while ahead:
            item, future = ahead.popleft()
            made: Made | MedaeError
            try:
                scan = future.result()
                read_on()
                made = steps.make(item, scan)
                del scan
            except MedaeError as error:
                made = error
                if len(ahead) < readers:
                    read_on()
            del future
            if writing is not None:
                ended = _ended(writing[1])
                yield writing[0], ended
            writing = (item, made) if isinstance(made, MedaeError) else (item, writer.submit(steps.write, item, made))
            del made
        if writing is not None:
            ended = _ended(writing[1])
            yield writing[0], ended
    finally:
        for pool in (reading, writer):
            pool.shutdown(wait=True, cancel_futures=True)


def _ended(writing: Future[Written] | MedaeError) -> Written | MedaeError:
    if isinstance(writing, MedaeError):
        return writing
    try:
        return writing.result()
    except MedaeError as error:
        return error
