"""What a person sees: progress on stderr, results on stdout, JSON alone when it is asked for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

SECONDS_A_LINE = 30.0


class Screen:
    """Two consoles. ``notes`` (stderr) for what happens, ``results`` (stdout) for what came out.

    With ``as_json`` the results console is silent, so that stdout holds the JSON document and nothing else. brief: whether
    what many trainings have in common is left out.
    """

    brief = False

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.notes = Console(stderr=True, highlight=False)
        self.results = Console(quiet=as_json, highlight=False)
        self._warned: set[tuple[str, str]] = set()

    def note(self, text: str) -> None:
        """One line of what happens."""
        self.notes.print(escape(text), soft_wrap=True)

    def warn(self, text: str, about: str = "") -> None:
        """One line of what a user should know. about: what it is of, where it is to be said only once."""
        if about and (about, text) in self._warned:
            return
        self._warned.add((about, text))
        self.notes.print(f"[yellow]Warning:[/] {escape(text)}", soft_wrap=True)

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table among the results; columns of numbers are flush right."""
        table = Table(title=title, title_justify="left")
        for place, header in enumerate(headers):
            numbers = all(row[place] is None or isinstance(row[place], (int, float)) for row in rows)
            table.add_column(header, justify="right" if numbers else "left", no_wrap=place == 0)
        for row in rows:
            table.add_row(*(escape(cell(value)) for value in row))
        self.results.print(table)

    def say(self, text: str) -> None:
        """One line among the results."""
        self.results.print(escape(text), soft_wrap=True)

    def json(self, content: Mapping[str, Any]) -> None:
        """The result for programs, when it was asked for."""
        if self.as_json:
            Console(highlight=False, soft_wrap=True).print_json(json.dumps(content))

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A bar with count and time left, in a log a line every half minute; yields ``report(done, total)``.

        Where the count begins again, such as to read files that were made first, the time left does too.
        """
        began, last = time.monotonic(), 0

        def line(done: int, total: int | None) -> str:
            if not total or not done:
                return str(done)
            left = (time.monotonic() - began) / done * (total - done)
            return f"{done} of {total}, {timedelta(seconds=round(left))} left"

        with self._bar(title, line, MofNCompleteColumn(), TimeElapsedColumn()) as report:

            def counted(done: int, total: int) -> None:
                nonlocal began, last
                began, last = (time.monotonic() if done < last else began), done
                report(done, total)

            yield counted

    @contextmanager
    def transfer(self, title: str) -> Iterator[Callable[[int, int | None], None]]:
        """A bar with bytes, speed and time left, in a log a line every half minute; yields ``report(done, total)``.

        A total of None is not known. What is done at the first report counts for the bar, not for the speed.
        """

        def line(done: int, total: int | None) -> str:
            return decimal(done) + (f" of {decimal(total)}" if total else "")

        with self._bar(title, line, DownloadColumn(), TransferSpeedColumn()) as report:
            yield report

    @contextmanager
    def _bar(
        self, title: str, line: Callable[[int, int | None], str], *columns: ProgressColumn
    ) -> Iterator[Callable[[int, int | None], None]]:
        """A bar on a terminal; elsewhere ``line`` from time to time, of what takes longer than that."""
        if not self.notes.is_terminal:
            noted = time.monotonic()

            def report(done: int, total: int | None) -> None:
                nonlocal noted
                if time.monotonic() - noted > SECONDS_A_LINE:
                    noted = time.monotonic()
                    self.note(f"{title}: {line(done, total)}")

            yield report
            return
        around = (TextColumn("{task.description}"), BarColumn(), *columns, TextColumn("left"), TimeRemainingColumn())
        with Progress(*around, console=self.notes) as bars:
            task = bars.add_task(escape(title), total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


def cell(value: Any) -> str:
    """A table cell: three decimals, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def shown(path: Path) -> str:
    """A path relative to the working folder where possible."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return path.name
