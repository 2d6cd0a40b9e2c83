"""Reading, computing and writing beside one another: in order, a few at a time, one failure is one failure."""

from __future__ import annotations

import threading
import time

import pytest

from medae.errors import DataError
from pipelines.overlap import Steps, overlapped


class Work(Steps[int, int, int, int]):
    def __init__(self, fails: dict[int, str] | None = None, seconds: float = 0.0) -> None:
        self.fails, self.seconds = fails or {}, seconds
        self.held, self.most, self.lock = 0, 0, threading.Lock()
        self.where: dict[str, set[str]] = {"read": set(), "make": set(), "write": set()}

    def step(self, name: str, item: int) -> None:
        self.where[name].add(threading.current_thread().name)
        time.sleep(self.seconds)
        if self.fails.get(item) == name:
            raise DataError(f"{item} fails to {name}")

    def read(self, item: int) -> int:
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        try:
            self.step("read", item)
        except DataError:
            with self.lock:
                self.held -= 1
            raise
        return item

    def make(self, item: int, read: int) -> int:
        try:
            self.step("make", item)
        except DataError:
            with self.lock:
                self.held -= 1
            raise
        return 10 * read

    def write(self, item: int, made: int) -> int:
        try:
            self.step("write", item)
        finally:
            with self.lock:
                self.held -= 1
        return made + 1


@pytest.mark.parametrize("readers", [1, 3])
def test_all_are_done_in_order(readers):
    work = Work()
    assert list(overlapped(range(7), work, readers)) == [(item, 10 * item + 1) for item in range(7)]
    assert work.where["make"] == {threading.current_thread().name}
    assert threading.current_thread().name not in work.where["read"] | work.where["write"]
    assert list(overlapped([], work, readers)) == []


@pytest.mark.parametrize("readers", [1, 2])
def test_a_failure_of_any_step_is_that_item_s_own(readers):
    work = Work({1: "read", 3: "make", 4: "write"})
    found = dict(overlapped(range(6), work, readers))
    assert [item for item, ended in found.items() if isinstance(ended, DataError)] == [1, 3, 4]
    assert str(found[3]) == "3 fails to make"
    assert [found[item] for item in (0, 2, 5)] == [1, 21, 51]
    every = list(overlapped(range(4), Work(dict.fromkeys(range(4), "read")), readers))
    assert all(isinstance(ended, DataError) for _, ended in every) and len(every) == 4


@pytest.mark.parametrize("readers", [1, 2])
def test_few_are_held_at_a_time(readers):
    work = Work(seconds=0.002)
    list(overlapped(range(20), work, readers))
    assert work.most <= readers + 3, "those that are read ahead, one that is made, one that is written, one that just ended"


def test_it_takes_as_long_as_the_longest_step_and_not_as_all_of_them():
    start = time.perf_counter()
    list(overlapped(range(10), Work(seconds=0.03), 1))
    assert time.perf_counter() - start < 0.7 * 10 * 3 * 0.03


def test_a_fault_of_medae_ends_the_whole():
    class Faulty(Work):
        def make(self, item: int, read: int) -> int:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(overlapped(range(5), Faulty(), 1))
