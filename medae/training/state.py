"""Where a training stands: everything in a checkpoint that is no tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from medae.config import flatten
from medae.errors import TrainingError
from medae.training.config import FitConfig

TIMING = ("seconds", "samples_per_second")
"""Keys of an epoch's record that say how fast it was: they, and what a probe says of its own
time, alone differ between a resumed and an unbroken run."""


@dataclass
class TrainingState:
    """Progress after ``step`` finished steps.

    history: a record an epoch, see ``fit``. rows: the losses of the steps of an unfinished epoch. stale: epochs with the
    monitored metric since the best one. delivered: how many records of the history the tracker has. seconds: spent so far.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_value: float | None = None
    stale: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    delivered: int = 0
    run_id: str = ""

    def facts(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def restore(cls, facts: Mapping[str, Any]) -> TrainingState:
        """From a checkpoint's JSON."""
        return cls(**facts)

    def judge(self, record: Mapping[str, float], config: FitConfig, *, sparse: bool = False) -> bool:
        """Note an epoch's value of the monitored metric; true if it is the best so far.

        A value that is not a number is never the best. sparse: epochs without the metric are passed over, as when a probe
        takes its time only now and then. Raises TrainingError if the metric is not in the record and should be.
        """
        if config.monitor is None or (sparse and config.monitor not in record):
            return False
        if config.monitor not in record:
            raise TrainingError(
                f"There is no metric '{config.monitor}' to choose the best weights by.",
                where="fit.monitor",
                remedy=f"Choose one of: {', '.join(name for name in record if name not in ('step', *TIMING))}.",
            )
        value = record[config.monitor]
        sign = 1 if config.mode == "max" else -1
        better = not math.isnan(value) and (self.best_value is None or sign * value > sign * self.best_value)
        if better:
            self.best_step, self.best_value, self.stale = self.step, value, 0
        else:
            self.stale += 1
        self.stopped_early = config.patience is not None and self.stale >= config.patience
        return better


def mean_of_rows(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each term over the steps that have it, exactly rounded, so that no order of summing matters."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: math.fsum(column) / len(column) for name, column in columns.items()}


def environment(device: torch.device, dtype: torch.dtype, processes: int) -> dict[str, Any]:
    """What decides the last bits of a training apart from its configuration."""
    return {
        "CPU threads": torch.get_num_threads(),
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "processes": processes,
        "torch": torch.__version__,
    }


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One phrase a difference, e.g. ``CPU threads: 1 before, 2 now``."""
    return [f"{key}: {before.get(key)} before, {value} now" for key, value in now.items() if before.get(key) != value]


def check_same_setup(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises TrainingError that names each setting in which a checkpoint and the training to resume differ."""
    old, new = flatten(before), flatten(now)
    changes = [
        f"{key}: {old.get(key)!r} before, {new.get(key)!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if changes:
        raise TrainingError(
            "The checkpoint belongs to another configuration:\n    " + "\n    ".join(changes),
            where="resume",
            remedy="Resume with the old settings (only fit.steps and fit.workers may change), or start anew elsewhere.",
        )
