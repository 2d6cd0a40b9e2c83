"""Where batches come from, and the losses of the steps made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from medae.errors import TrainingError
from medae.preprocessing.batch import Batch

SHARE_EVERY = 10
"""Steps between two looks at the losses. Each look waits for the device, and, with several processes, for all of them."""


class BatchSource(Protocol):
    """Batches as a pure function of the step.

    batch_size: samples of the global batch. ``batches`` yields the batches of steps ``start`` to ``stop - 1``. Of each
    global batch, process ``p`` of ``n`` gets the ``p``-th of ``n`` equal contiguous parts.
    """

    @property
    def batch_size(self) -> int:
        """Samples in a step over all processes."""

    def batches(self, start: int, stop: int, process: int = 0, processes: int = 1, workers: int = 0) -> Iterator[Batch]:
        """One batch a step; ``workers`` processes may prepare them."""


def local_batch(source: BatchSource, processes: int) -> int:
    """Samples of a step in one process. Raises TrainingError if the global batch cannot be divided equally."""
    if source.batch_size % processes:
        raise TrainingError(
            f"A batch of {source.batch_size} cannot be divided equally among {processes} processes.",
            where="plan.sampling.batch",
            remedy=f"Choose a multiple of {processes}, or another number of processes.",
        )
    return source.batch_size // processes


class Losses:
    """The losses of an epoch's steps, fetched from the device a few steps at a time.

    first: number of the epoch's first step. rows: what was fetched, term -> value a step. stop: whether any process
    had been asked to stop at the last look; with several processes all of them learn it at the same step.
    """

    def __init__(self, accelerator: Accelerator, first: int, rows: Sequence[dict[str, float]] = ()) -> None:
        self.accelerator = accelerator
        self.first = first
        self.rows = list(rows)
        self.stop = False
        self._waiting: list[dict[str, Tensor]] = []

    def add(self, row: dict[str, Tensor]) -> None:
        """Take in a step's scalars, as they are on the device."""
        self._waiting.append(row)

    def fetch(self, stop: bool) -> str | None:
        """Bring what waits to the CPU, averaged over processes.

        Returns None, or one sentence about the first loss or gradient that is no finite number.
        """
        values = [value.float() for row in self._waiting for value in row.values()]
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        numbers = iter(self.accelerator.reduce(torch.stack([flag, *values]), reduction="mean").tolist())
        self.stop = next(numbers) > 0
        problem = None
        for waiting in self._waiting:
            row = {name: next(numbers) for name in waiting}
            for name, value in row.items():
                if problem is None and not math.isfinite(value):
                    problem = (
                        f"Training diverged: the {name.replace('_', ' ')} of step {self.first + len(self.rows)} is {value}."
                    )
            self.rows.append(row)
        self._waiting = []
        return problem
