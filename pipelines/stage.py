"""What all stages share: where a run lives, when it is skipped, its MLflow run, its result and report.

A stage is a module with a ``Config`` class and ``run(config, stage) -> Outcome``. Its folder is named after a
fingerprint of everything that decides its outcome, so that a changed configuration never overwrites a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml
from pydantic import Field

import medae
from medae.artifact import Artifact, load_artifact
from medae.config import Config, digest, to_dict, validate
from medae.errors import ConfigError, MedaeError, TrainingError
from medae.export.pyfunc import log_pyfunc
from medae.report.html import Report
from medae.tracking.mlflow import MlflowTracker
from medae.tracking.models import resolve_model
from medae.tracking.privacy import public
from medae.training.faults import Interrupted
from pipelines.configs import read_config
from pipelines.console import Screen, shown
from pipelines.data import DataConfig, Dataset, open_dataset
from pipelines.files import read_json, set_aside, source_digest, write_json, write_text

KINDS = ("pretrain", "finetune", "detect")


class StageConfig(DataConfig):
    """What the configuration of every stage has beside its data.

    name: of the run, its folder and its registered model. experiment: the project's name in MLflow.
    """

    name: str
    experiment: str = "medae"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Result(Config):
    """``result.json``: what a stage found, and what it stands on.

    metrics: one entry an arm. model: folder of the artifact, relative to the run's folder.
    """

    stage: str
    name: str
    fingerprint: str
    run_id: str
    model: str | None = None
    registered: str | None = None
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


@dataclass
class Stage:
    """The surroundings that a stage's ``run`` works in."""

    kind: str
    folder: Path
    tracker: MlflowTracker
    screen: Screen
    dataset: Dataset
    inputs: Mapping[str, Artifact]
    resume: bool
    fingerprint: str
    provenance: dict[str, Any]

    def subtitle(self, text: str) -> str:
        """A report's second line; says so when the images are phantoms."""
        return f"{text} · phantoms, not patients" if self.dataset.manifest.phantom else text

    def figure(self, name: str) -> Path:
        """Where a figure of this name is written."""
        path = self.folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Finished:
    """A stage that is done: now or before."""

    folder: Path
    result: Result
    skipped: bool

    @property
    def model(self) -> Path | None:
        """The folder of the stage's model."""
        return None if self.result.model is None else self.folder / self.result.model


def program_of(kind: str) -> ModuleType:
    """The module of a stage."""
    if kind not in KINDS:
        raise ConfigError(f"'{kind}' is not a stage.", where="stage", remedy=f"Choose one of {', '.join(KINDS)}.")
    return import_module(f"pipelines.{kind}")


def command(
    kind: str,
    name: str,
    overrides: Sequence[str],
    extra: Mapping[str, Any],
    runs: Path,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """What ``medae pretrain``, ``finetune`` and ``detect`` do."""
    screen = Screen(as_json)
    config = validate(program_of(kind).Config, read_config(name, kind, overrides, extra), where=name)
    finished = run_stage(kind, config, runs / config.name, screen, resume=resume, force=force)
    show(finished, screen)
    screen.say(f"MLflow: {open_mlflow()}")
    screen.json(to_dict(finished.result))


def run_stage(
    kind: str,
    config: StageConfig,
    folder: Path,
    screen: Screen,
    *,
    resume: bool = False,
    force: bool = False,
    parent: Callable[[], str] | None = None,
    label: str | None = None,
) -> Finished:
    """Run a stage, or find that it was run before with the same fingerprint.

    folder: the run's folder is made below it, named ``label`` (or the kind) and fingerprint. parent: gives the MLflow run
    of the pipeline, asked only when there is work to do.
    Raises TrainingError when an unfinished run is in the way and ``resume`` was not asked for.
    """
    program = program_of(kind)
    dataset = open_dataset(config, screen)
    inputs = {key: load_artifact(resolve_model(uri)) for key, uri in program.inputs(config).items()}
    fingerprint = _fingerprint(kind, config, dataset, inputs)
    place = folder / f"{label or kind}-{fingerprint[:8]}"
    if force and place.exists():
        screen.note(f"The earlier run was moved to {shown(set_aside(place))}.")
    if (place / "result.json").is_file():
        result = validate(Result, read_json(place / "result.json"), where=place / "result.json")
        screen.note(f"{label or kind}: nothing changed since run {result.run_id}; skipped (--force runs it again).")
        return Finished(place, result, skipped=True)
    if not resume and any(place.rglob("checkpoints")):
        raise TrainingError(
            "An unfinished run of the same configuration is here.",
            where=shown(place),
            remedy="Go on with it by --resume, or start anew by --force (the old run is kept beside).",
        )
    return _run(program, kind, config, place, screen, dataset, inputs, fingerprint, parent, label)


def _run(
    program: ModuleType,
    kind: str,
    config: StageConfig,
    place: Path,
    screen: Screen,
    dataset: Dataset,
    inputs: Mapping[str, Artifact],
    fingerprint: str,
    parent: Callable[[], str] | None,
    label: str | None,
) -> Finished:
    place.mkdir(parents=True, exist_ok=True)
    record = place / "run.json"
    run_id = read_json(record)["run_id"] if record.is_file() else None
    tags = {"medae.stage": kind, "medae.fingerprint": fingerprint, "medae.phantom": str(dataset.manifest.phantom).lower()}
    tags |= {f"medae.input.{key}.run": str(artifact.meta.provenance.get("run_id", "")) for key, artifact in inputs.items()}
    tags |= {f"medae.input.{key}.digest": artifact.digest for key, artifact in inputs.items()}
    tracker = MlflowTracker.start(
        config.experiment,
        f"{config.name}/{label or kind}",
        folder=place,
        parent=parent and parent(),
        run_id=run_id,
        tags=tags,
    )
    write_json(record, {"run_id": tracker.run_id})
    provenance: dict[str, Any] = {"run_id": tracker.run_id, "stage": kind, "name": config.name, "medae": medae.__version__}
    provenance |= {"data": dataset.digest, "phantom": dataset.manifest.phantom, "source": source_digest()}
    stage = Stage(kind, place, tracker, screen, dataset, inputs, run_id is not None, fingerprint, provenance)
    try:
        logged = public(to_dict(config))  # the folder of the data may be named after a patient
        write_text(place / "config.yaml", yaml.safe_dump(logged, sort_keys=False, allow_unicode=True))
        tracker.params(logged)
        tracker.artifact(place / "config.yaml")
        dataset.log(tracker)
        screen.note(f"{label or kind}: run {tracker.run_id} in {shown(place)}")
        outcome = program.run(config, stage)
        finished = _finish(config, stage, outcome, fingerprint)
    except BaseException as error:
        tracker.end("KILLED" if isinstance(error, (KeyboardInterrupt, Interrupted)) else "FAILED")
        raise
    tracker.end()
    return finished


def _finish(config: StageConfig, stage: Stage, outcome: Outcome, fingerprint: str) -> Finished:
    """Register the models, write report and result, store all in MLflow."""
    registered = None
    for arm, model in outcome.models.items():
        suffix = "" if len(outcome.models) == 1 else f"-{arm}"
        name = f"medae-{config.name}-{stage.kind}{suffix}"
        uri = _register(stage, model, name)
        registered = registered or uri
    first = next(iter(outcome.models.values()), None)
    result = Result(
        stage=stage.kind,
        name=config.name,
        fingerprint=fingerprint,
        run_id=stage.tracker.run_id,
        model=None if first is None else first.relative_to(stage.folder).as_posix(),
        registered=registered,
        metrics=outcome.metrics,
        facts=outcome.facts,
    )
    outcome.report.write(stage.folder / "report.html")
    write_json(stage.folder / "result.json", to_dict(result))
    for name in ("report.html", "result.json", "figures", "plan.yaml", "transfer.json"):
        if (stage.folder / name).exists():
            stage.tracker.artifact(stage.folder / name)
    return Finished(stage.folder, result, skipped=False)


def _register(stage: Stage, model: Path, name: str) -> str | None:
    """The registered model's URI; None, with a warning, when the store cannot take it now."""
    try:
        return log_pyfunc(model, uri=stage.tracker.uri, run_id=stage.tracker.run_id, name=name)
    except MedaeError as error:
        stage.screen.warn(f"The model was not registered: {error.what} It is in {shown(model)}.")
        return None


def _fingerprint(kind: str, config: StageConfig, dataset: Dataset, inputs: Mapping[str, Artifact]) -> str:
    content = to_dict(config)
    for key in program_of(kind).inputs(config):
        content[key] = inputs[key].digest
    content["data"] = dataset.digest
    return digest({"stage": kind, "config": content, "medae": medae.__version__, "source": source_digest()})


def show(finished: Finished, screen: Screen) -> None:
    """The table of a stage's metrics, an arm a column, and where to look."""
    metrics = finished.result.metrics
    names = _numbers(metrics)
    if names:
        title = f"{finished.result.name}: {finished.result.stage}"
        screen.table(title, ["", *metrics], [[name, *(arm.get(name) for arm in metrics.values())] for name in names])
    screen.say(f"Report: {shown(finished.folder / 'report.html')}")
    if finished.model is not None:
        screen.say(f"Model:  {shown(finished.model)}")


def _numbers(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names: dict[str, None] = {}
    for values in metrics.values():
        names |= {name: None for name, value in values.items() if value is None or isinstance(value, (int, float))}
    return list(names)


def open_mlflow() -> str:
    """The command or address at which the runs are seen."""
    from medae.tracking.client import shown as shown_uri
    from medae.tracking.client import store_uri

    uri = store_uri()
    if uri.startswith("http"):
        return shown_uri(uri)
    return f"mlflow ui --backend-store-uri {uri}"
