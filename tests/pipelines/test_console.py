"""Progress: a bar on a terminal, a line from time to time in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines import console
from pipelines.console import Screen


@pytest.fixture
def screen():
    made = Screen()
    made.notes = Console(file=io.StringIO(), width=100, highlight=False)
    return made


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The clock, which stands still until a test moves it."""
    seconds = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_transfer_in_a_log_is_a_line_from_time_to_time(screen, now):
    with screen.transfer("Fetching") as report:
        for now[0], done in ((1.0, 10), (31.0, 2_000_000), (32.0, 3_000_000)):
            report(done, 4_000_000)
        now[0] = 70.0
        report(5_000_000, None)
    assert screen.notes.file.getvalue() == "Fetching: 2.0 MB of 4.0 MB\nFetching: 5.0 MB\n"


@pytest.mark.parametrize(("total", "words"), [(4_000_000, ("2.0/4.0 MB", "left")), (None, ("2.0/? MB",))])
def test_a_transfer_on_a_terminal_shows_bytes_and_time_left(screen, total, words):
    screen.notes = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with screen.transfer("Fetching [x]") as report:
        report(2_000_000, total)
    shown = screen.notes.file.getvalue()
    assert all(word in shown for word in ("Fetching [x]", *words)), shown


def test_a_warning_of_one_thing_is_given_once(screen):
    for about in ("one", "one", "two", ""):
        screen.warn("A label is rare.", about)
    for _ in range(2):
        screen.warn("Another.")
    assert screen.notes.file.getvalue() == 3 * "Warning: A label is rare.\n" + 2 * "Warning: Another.\n"


def test_counts_are_shown_as_counts(screen):
    screen.notes = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with screen.progress("Checking") as report:
        report(3, 7)
    assert "3/7" in screen.notes.file.getvalue()


def test_long_work_in_a_log_says_how_much_is_left(screen, now):
    with screen.progress("Scoring cases") as report:
        for now[0], done in ((20.0, 1), (40.0, 2), (50.0, 3)):
            report(done, 6)
    assert screen.notes.file.getvalue() == "Scoring cases: 2 of 6, 0:01:20 left\n"
