"""What came out of a stage: its result and report, delivered to MLflow, shown to a person."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

import medae
from medae.config import Config, to_dict
from medae.errors import MedaeError
from medae.export.pyfunc import log_pyfunc
from medae.report.html import Report
from medae.tracking.client import shown as without_password
from medae.tracking.client import store_uri
from medae.tracking.mlflow import MlflowTracker
from pipelines.console import Screen, shown
from pipelines.files import read_json, write_json

NOT_WANTED = "not wanted"
"""In the place of a model's address: the configuration says not to register it."""

STORED = ("report.html", "result.json", "figures", "plan.yaml", "transfer.json")


class Result(Config):
    """``result.json``: what a stage found, and what it stands on.

    models: folder of each arm's artifact, relative to the run's folder; the first is the stage's own. registered: the
    address of each arm's model in MLflow, None while the store did not take it, ``not wanted``
    where it is not to be. metrics: one entry an arm.
    """

    stage: str
    name: str
    fingerprint: str
    run_id: str
    models: dict[str, str] = Field(default_factory=dict)
    registered: dict[str, str | None] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)
    medae: str = medae.__version__


@dataclass
class Outcome:
    """What a stage's ``run`` hands back.

    models: artifact folders by arm, the first is the stage's own. metrics: one entry an arm.
    """

    report: Report
    models: dict[str, Path] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A stage that is done: now or before."""

    folder: Path
    result: Result
    skipped: bool

    @property
    def model(self) -> Path | None:
        """The folder of the stage's own model."""
        first = next(iter(self.result.models.values()), None)
        return None if first is None else self.folder / first


def deliver(finished: Finished, tracker: MlflowTracker, screen: Screen) -> Finished:
    """Register the models that are not yet, write ``result.json``, store everything in MLflow."""
    result = finished.result
    registered = {arm: result.registered.get(arm) or _register(finished, arm, tracker, screen) for arm in result.models}
    result = result.model_copy(update={"registered": registered})
    write_json(finished.folder / "result.json", to_dict(result))
    for name in STORED:
        if (finished.folder / name).exists():
            tracker.artifact(finished.folder / name)
    return replace(finished, result=result)


def catch_up(finished: Finished, screen: Screen) -> Finished:
    """Send what MLflow could not take when the stage ended: waiting numbers and files, unregistered models."""
    result = finished.result
    waiting = (finished.folder / "mlflow_waiting.jsonl").exists()
    if not waiting and all(result.registered.get(arm) for arm in result.models):
        return finished
    experiment = read_json(finished.folder / "run.json").get("experiment", "medae")
    tracker = MlflowTracker.start(experiment, result.name, folder=finished.folder, run_id=result.run_id, system_seconds=None)
    try:
        return deliver(finished, tracker, screen)
    finally:
        tracker.end()


def _register(finished: Finished, arm: str, tracker: MlflowTracker, screen: Screen) -> str | None:
    """The registered model's address; None, with a warning, when the store cannot take it now."""
    result = finished.result
    suffix = "" if len(result.models) == 1 else f"-{arm}"
    folder = finished.folder / result.models[arm]
    try:
        name = f"medae-{result.name}-{result.stage}{suffix}"
        return log_pyfunc(folder, uri=tracker.uri, run_id=result.run_id, name=name)
    except MedaeError as error:
        screen.warn(f"The model was not registered: {error.what} It is in {shown(folder)}; run again to register it.")
        return None


MOST_COLUMNS = 4
BESIDE = ("n_test",)
"""Figures that need not be on the screen where there is little room."""


def show(finished: Finished, screen: Screen) -> None:
    """The table of a stage's metrics, what they mean in words, and where to look.

    An arm is a column; of many arms each is a row with the first figures, so that it fits a terminal (the report has all).
    """
    metrics = finished.result.metrics
    title = f"{finished.result.name}: {finished.result.stage}"
    rows = [[name, *(arm.get(name) for arm in metrics.values())] for name in _numbers(metrics)]
    labels = dict.fromkeys(label for arm in metrics.values() for label in arm.get("labels", {}))
    rows += [
        [f"dice of {label}", *(arm["labels"].get(label, {}).get("dice") for arm in metrics.values())] for label in labels
    ]
    if len(metrics) > MOST_COLUMNS:
        known = [row for row in rows if row[0] not in BESIDE and any(value is not None for value in row[1:])]
        names, *columns = zip(["", *metrics], *known[:MOST_COLUMNS], strict=True)
        screen.table(title, [str(name).replace("_", " ") for name in names], columns)
    elif rows:
        screen.table(title, ["", *metrics], rows)
    for sentence in finished.result.facts.get("sentences", ()):
        screen.say(sentence)
    screen.say(f"Report: {shown(finished.folder / 'report.html')}")
    if finished.model is not None:
        screen.say(f"Model:  {shown(finished.model)}")


def _numbers(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names: dict[str, None] = {}
    for values in metrics.values():
        names |= {name: None for name, value in values.items() if value is None or isinstance(value, (int, float))}
    return list(names)


def open_mlflow() -> str:
    """The address at which the runs are seen, or the command that opens them."""
    uri = store_uri()
    if uri.startswith("http"):
        return without_password(uri)
    beside = Path(sys.executable).with_name("mlflow")
    program = "mlflow" if shutil.which("mlflow") else shown(beside)
    return f"{program} ui --backend-store-uri {uri if uri.startswith('sqlite') else '$MLFLOW_TRACKING_URI'}"
