"""What a person sees of a training: a live bar on a terminal, a line an epoch in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """Loss, metric, throughput and time left of a training of ``steps``.

    Only the main process shows anything (``visible``).
    """

    def __init__(self, console: Console, name: str, steps: int, visible: bool) -> None:
        self.console = console
        self.name = name or "training"
        self.steps = steps
        self.visible = visible
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]} {task.fields[metric]} {task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (visible and self._live),
            transient=True,
        )
        self._task = self._progress.add_task(escape(self.name), total=steps, loss="", metric="", speed="")
        self._first, self._done, self._began = 0, 0, time.perf_counter()

    @contextmanager
    def running(self, done: int) -> Iterator[None]:
        """Show progress inside, beginning after ``done`` steps."""
        self._first, self._done, self._began = done, done, time.perf_counter()
        self._progress.update(self._task, completed=done)
        with self._progress:
            yield

    def step(self, done: int, loss: float, batch: int) -> None:
        """Show that ``done`` steps of ``batch`` samples are finished, the last with ``loss``."""
        self._done = done
        speed = (done - self._first) * batch / (time.perf_counter() - self._began)
        self._progress.update(self._task, completed=done, loss=f"loss {loss:.4g}", speed=f"{speed:.4g} samples/s")

    def epoch(self, record: Mapping[str, float], monitor: str | None) -> None:
        """Show an epoch's result; in a log as one line."""
        metric = "" if monitor is None or monitor == "loss" or monitor not in record else f"{monitor} {record[monitor]:.4g}"
        self._progress.update(self._task, metric=metric)
        if not self.visible or self._live:
            return
        pace = (time.perf_counter() - self._began) / max(1, self._done - self._first)
        parts = [
            self.name,
            f"step {self._done}/{self.steps}",
            f"loss {record.get('loss', math.nan):.4g}",
            metric,
            f"rate {record['rate']:.3g}",
            f"{record['samples_per_second']:.4g} samples/s",
            f"{timedelta(seconds=round(pace * (self.steps - self._done)))} left",
        ]
        self._print("  ".join(part for part in parts if part))

    def note(self, text: str) -> None:
        """Say something besides."""
        if self.visible:
            self._print(text)

    def warn(self, text: str) -> None:
        """Say something that a person should not miss."""
        if self.visible:
            self._print(f"Warning: {text}", style="yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)
