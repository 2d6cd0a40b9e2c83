"""The MLflow run that the runs of several stages belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from medae.config import Config, to_dict
from medae.errors import GoneError, Interrupted
from medae.tracking.mlflow import MlflowTracker
from pipelines.console import Screen
from pipelines.files import read_json, write_json

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Named(Config):
    """What has a name, and an experiment in MLflow."""

    name: str
    experiment: str = "medae"


class Parent:
    """The MLflow run of a pipeline, of folds or of a curve: started by the first stage that has work to do, taken up again
    after an interruption. kind: the run's tag ``medae.stage``; each kind has a record of its own in the folder."""

    def __init__(self, config: Named, folder: Path, kind: str, screen: Screen) -> None:
        self._config, self._folder, self._kind, self._screen = config, folder, kind, screen
        self._record = folder / f"{kind}.json"
        self._tracker: MlflowTracker | None = None
        self._ended = False
        last = self._last()
        self.run_id: str | None = last.get("run_id")
        self._unfinished = last.get("status") in ("RUNNING", "FAILED", "KILLED")

    def _last(self) -> dict[str, Any]:
        """The record of the run before. All kinds once had it in one file, which did not say the kind."""
        for record in (self._record, self._folder / "pipeline.json"):
            if record.is_file():
                last = read_json(record)
                return last if last.get("kind", self._kind) == self._kind else {}
        return {}

    def open(self) -> str:
        """The id of the run, which is started or reopened if it is not open yet. One that the store has lost, or another
        store has, is begun anew: its stages have runs of their own."""
        if self._tracker is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._tracker = self._start(self.run_id if self._unfinished else None)
            except GoneError as error:
                self._screen.warn(f"{error.what} A new one is begun.")
                self._tracker = self._start(None)
            self.run_id = self._tracker.run_id
            self._note("RUNNING")
            self._tracker.params(to_dict(self._config))
        return self._tracker.run_id

    def _start(self, run_id: str | None) -> MlflowTracker:
        return MlflowTracker.start(
            self._config.experiment,
            self._config.name,
            folder=self._folder,
            run_id=run_id,
            tags={"medae.stage": self._kind},
            system_seconds=None,
        )

    def __enter__(self) -> Parent:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stopped = kind is not None and issubclass(kind, (KeyboardInterrupt, Interrupted))
        self.end("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")

    def end(self, status: Status) -> None:
        """Close the run, if it was opened now or left open by a process that was killed. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        if self._unfinished and status == "FINISHED":
            self.open()
        if self._tracker is not None:
            self._tracker.end(status)
            self._note(status)

    def _note(self, status: str) -> None:
        write_json(self._record, {"kind": self._kind, "run_id": self.run_id, "status": status})
