"""How long the steps of a curve's trainings take, by trainings that are cut short."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from medae.config import digest
from medae.errors import TrackingError
from medae.parallel import usable_cores
from medae.tracking.client import delete_run
from pipelines.configs import merge
from pipelines.curve_cells import Cell
from pipelines.curve_work import Worker, checkpoints_of


@dataclass(frozen=True)
class Timed(Cell):
    """A training that is cut short. of: the one that is timed. run: which time it is."""

    of: str = ""
    run: int = 0

    @property
    def digest(self) -> str:
        """Also of which time it is."""
        return digest({"kind": "time", "of": self.of, "run": self.run, "content": self.content})[:12]

    @property
    def label(self) -> str:
        """One that no training of the curve can have."""
        return f"timing-{super().label}"


def cut_short(cells: Iterable[Cell], changes: Mapping[str, Any], runs: int) -> list[Timed]:
    """The cells with a shorter fit: all once, then all again. changes: keys over theirs."""
    every = list(cells)
    return [
        Timed(cell.kind, cell.name, merge(cell.content, changes), cell.count, cell.draw, cell.needs, cell.digest, run)
        for run in range(runs)
        for cell in every
    ]


@dataclass(frozen=True)
class Seconds:
    """step: of a training step, the first epoch left out, in which memory is allocated. rest: of all that is no training."""

    step: float
    rest: float
    steps: int


@contextmanager
def threads_of_a_job(jobs: int) -> Iterator[int]:
    """With the threads that each of ``jobs`` processes side by side will have: its share of the cores, unless
    OMP_NUM_THREADS says how many. Yields their number."""
    before = torch.get_num_threads()
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // jobs))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def measure(worker: Worker, cell: Timed) -> Seconds:
    """Train and score. The training leaves nothing behind, in its folder and in MLflow, unless it fails."""
    run = worker.stage(cell)
    members = checkpoints_of(run.finished.folder)
    epochs = [record for member in members for record in member.facts["state"]["history"]]
    seconds = [record["seconds"] for record in epochs if record["step"] > run.config.fit.epoch_steps]
    shutil.rmtree(worker.folder / cell.label)
    try:
        delete_run(run.finished.result.run_id)
    except TrackingError as error:
        worker.screen.warn(f"{error.what} It is of a training that was only timed.")
    step = len(members) * statistics.mean(seconds) / run.config.fit.epoch_steps
    return Seconds(step, max(0.0, run.seconds - sum(record["seconds"] for record in epochs)), run.config.fit.steps)
