"""Errors that a user can act on: what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class MedaeError(Exception):
    """A user's error. The command line prints it without a traceback and exits with status 2.

    what: one sentence that names the problem. where: the file, configuration key or case it was found in.
    remedy: what the user can do.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come back from other processes whole."""
        return _restored, (type(self), self.what, self.where, self.remedy)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:  {self.where}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


def _restored(kind: type[MedaeError], what: str, where: str | None, remedy: str | None) -> MedaeError:
    return kind(what, where=where, remedy=remedy)


RESUME = "go on with --resume (Python: resume=True)"
"""In the remedy of a training that was stopped; commands that go on by themselves say otherwise."""


class ConfigError(MedaeError):
    """A configuration that cannot be used: unknown key, wrong type, contradictory choice."""


class DataError(MedaeError):
    """A data set or file that is missing, unreadable or not in the layout that was expected."""


class GeometryError(MedaeError):
    """Images whose grids (shape, spacing, orientation, position) do not fit each other or the operation."""


class ArtifactError(MedaeError):
    """A stored model that is missing, damaged or not of the kind that was asked for."""


class TransferError(MedaeError):
    """Weights that fit the receiving network too little to be called a transfer."""


class TrainingError(MedaeError):
    """A training that cannot go on: not-a-number loss, memory or disk exhausted, incompatible checkpoint."""


class DivergedError(TrainingError):
    """A training whose loss or gradient is no finite number any more."""


class Interrupted(TrainingError):
    """A training that was asked to stop (Ctrl-C, SIGTERM) and did so after writing a checkpoint. Exit status 130."""


class TrackingError(MedaeError):
    """A tracking store that cannot be reached or does not hold what was asked for."""


class GoneError(TrackingError):
    """A run that was to be reopened, and that the store does not hold any more."""
