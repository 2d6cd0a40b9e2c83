"""The Tracker protocol: all that the rest of medae knows about experiment tracking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """One run of an experiment. Numbers that cannot be delivered wait in a local file and are sent later."""

    @property
    def run_id(self) -> str:
        """The identity of the run, stored in checkpoints so that a resumed training continues it."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Log a (nested) configuration, flattened."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step. A step that was already logged under the same name is not logged twice."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""

    def dataset(self, name: str, digest: str, context: str, facts: Mapping[str, Any]) -> None:
        """Log a data set as an input by its digest. context: ``training``, ``validation``, ``testing`` or ``unlabelled``."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all below it."""

    def end(self, status: str = "FINISHED") -> None:
        """Close the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""


class NullTracker:
    """A tracker that keeps nothing."""

    run_id = ""

    def params(self, values: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Keep nothing."""

    def dataset(self, name: str, digest: str, context: str, facts: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep nothing."""

    def end(self, status: str = "FINISHED") -> None:
        """Keep nothing."""


class Arm:
    """A view of a tracker in which every metric's name begins with an arm's: the arms of a stage share its run."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self._tracker = tracker
        self._name = name

    @property
    def run_id(self) -> str:
        """The identity of the run."""
        return self._tracker.run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step, under ``<arm>/<name>``."""
        self._tracker.metrics({f"{self._name}/{name}": value for name, value in values.items()}, step)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log a configuration, under the arm's name."""
        self._tracker.params({self._name: values})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags, as ``<arm>.<name>``."""
        self._tracker.tags({f"{self._name}.{name}": value for name, value in values.items()})

    def dataset(self, name: str, digest: str, context: str, facts: Mapping[str, Any]) -> None:
        """Log a data set as an input of the run."""
        self._tracker.dataset(name, digest, context, facts)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file or folder, below the arm's name."""
        self._tracker.artifact(path, f"{self._name}/{folder}".rstrip("/"))

    def end(self, status: str = "FINISHED") -> None:
        """Nothing: the stage ends its run."""
