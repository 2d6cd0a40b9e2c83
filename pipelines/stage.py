"""What all stages share: where a run lives, when it is skipped, and its MLflow run.

A stage is a module with a ``Config`` class, ``inputs(config)`` (the models that it starts from) and
``run(config, stage) -> Outcome``. Its folder is named after a fingerprint of everything that decides its outcome, so
that a changed configuration never overwrites a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from pydantic import Field

import medae
from medae.artifact import Artifact, load_artifact
from medae.config import digest, to_dict, to_yaml, validate
from medae.data.case import Manifest
from medae.errors import ConfigError, Interrupted, TrainingError
from medae.objectives.registry import SEGMENTERS
from medae.tracking.mlflow import MlflowTracker
from medae.tracking.models import resolve_model
from medae.training.faults import explained
from pipelines.configs import read_config
from pipelines.console import Screen, shown
from pipelines.data import DataConfig, Dataset, open_dataset
from pipelines.files import read_json, set_aside, source_digest, write_json, write_text
from pipelines.networks import device_of
from pipelines.outcome import NOT_WANTED, Finished, Outcome, Result, catch_up, deliver, open_mlflow, show

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a run may be called: it becomes the name of a folder and of registered models."""

KINDS = ("pretrain", "finetune", "detect")
WITHOUT_EFFECT = ("experiment", "device", "workers", "registered")
"""Keys that change where or how fast a stage runs, not what comes out."""


class StageConfig(DataConfig):
    """What the configuration of every stage has beside its data.

    name: of the run, its folder and its registered model. experiment: the project's name in MLflow. registered: whether the
    models become registered ones in MLflow; otherwise they are in the run's folder only.
    """

    name: str = Field(pattern=NAME)
    experiment: str = "medae"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    registered: bool = True

    def decisive(self) -> dict[str, Any]:
        """What a finished run must share to stand for this one. Stages with a plan or a fit say more of it."""
        return {key: value for key, value in to_dict(self).items() if key not in WITHOUT_EFFECT}


@dataclass
class Stage:
    """The surroundings that a stage's ``run`` works in."""

    kind: str
    folder: Path
    device: torch.device
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

    def uses(self, context: Literal["training", "validation", "testing", "unlabelled"], manifest: Manifest) -> None:
        """Log cases that the stage reads as a data set input of its run."""
        if manifest.cases:
            facts: dict[str, Any] = {
                "cases": len(manifest.cases),
                "subjects": len({case.subject for case in manifest.cases}),
            }
            facts |= {"source": manifest.source, "phantom": manifest.phantom}
            self.tracker.dataset(f"{manifest.source}-{context}", manifest.digest(), context, facts)


def program_of(kind: str) -> ModuleType:
    """The module of a stage."""
    if kind not in KINDS:
        raise ConfigError(f"'{kind}' is not a stage.", where="stage", remedy=f"Choose one of {', '.join(KINDS)}.")
    return import_module(f"pipelines.{kind}")


def check_stage(command: str, content: Mapping[str, Any], name: str) -> None:
    """Raise ConfigError if the file is plainly for another command. command: a stage, or ``run``."""
    commands = _commands_of(content)
    if commands and command not in commands:
        raise ConfigError(
            f"This is a configuration of medae {' or '.join(commands)}, not of medae {command}.",
            where=name,
            remedy=f"medae {commands[0]} {name}",
        )


def _commands_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The commands that a configuration can be for, as far as its network and the keys that one stage alone has tell."""
    if "stages" in content:
        return ("run",)
    network = content.get("network")
    network = network.get("kind") if isinstance(network, Mapping) else None
    if network in SEGMENTERS:
        return ("finetune",)
    keys = {kind: set(program_of(kind).Config.model_fields) for kind in KINDS}
    own = [
        kind for kind in KINDS if content.keys() & keys[kind].difference(*(keys[other] for other in KINDS if other != kind))
    ]
    if network is None:
        return tuple(own) if len(own) == 1 else ()
    return ("detect",) if own == ["detect"] else ("pretrain", "detect") if "finetune" not in own else ()


def read_stage(kind: str, name: str, overrides: Sequence[str], extra: Mapping[str, Any]) -> Any:
    """The configuration of a stage that a command names. Raises ConfigError."""
    check_stage(kind, read_config(name, kind), name)
    return validate(program_of(kind).Config, read_config(name, kind, overrides, extra), where=name)


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
    if resume and force:
        raise ConfigError(
            "--resume goes on with a run, --force begins a new one.", where="--resume --force", remedy="Choose one of them."
        )
    config = read_stage(kind, name, overrides, extra)
    finished = run_stage(kind, config, runs / config.name, screen, resume=resume, force=force, asked=resume)
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
    asked: bool = False,
    parent: Callable[[], str] | None = None,
    label: str | None = None,
) -> Finished:
    """Run a stage, or find that it was run before with the same fingerprint.

    resume: go on with an unfinished run. asked: by a person, who is told if there is none. folder: the run's folder is made
    below it, named ``label`` (or the kind) and fingerprint. parent: gives the MLflow run of the pipeline, asked only when
    there is work to do.
    Raises TrainingError when an unfinished run is in the way and ``resume`` was not asked for, or when another process
    is at work on it.
    """
    label = label or kind
    program = program_of(kind)
    device = device_of(config.device)
    dataset = open_dataset(config, screen)
    inputs = {key: load_artifact(resolve_model(uri)) for key, uri in program.inputs(config).items()}
    fingerprint = _fingerprint(kind, config, dataset, inputs)
    place = folder / f"{label}-{fingerprint[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f".{place.name}.lock", timeout=0), explained(place):
            if force and place.exists():
                screen.note(f"The earlier run was moved to {shown(set_aside(place))}.")
            if (finished := _done(place, label, config.registered, screen)) is not None:
                return finished
            unfinished = any(place.rglob("checkpoints"))
            if asked and not unfinished:
                screen.note(
                    "There is no unfinished run of this configuration and this medae to go on with: a new one begins."
                )
            if not resume and unfinished:
                raise TrainingError(
                    "An unfinished run of the same configuration is here.",
                    where=shown(place),
                    remedy="Go on with it by --resume, or start anew by --force (the old run is kept beside).",
                )
            place.mkdir(exist_ok=True)
            stage = _open(kind, label, config, place, device, screen, dataset, inputs, fingerprint, parent)
            return _run(program, config, stage)
    except Timeout as error:
        raise TrainingError(
            "Another process is at work on this run.", where=shown(place), remedy="Wait for it, or stop it."
        ) from error


def _done(place: Path, label: str, registered: bool, screen: Screen) -> Finished | None:
    """The finished run in this folder, after what MLflow still lacks of it was delivered. registered: whether its models are
    to be, even if they were not when it was made."""
    if not (place / "run.json").is_file() or not read_json(place / "run.json").get("finished"):
        return None
    result = validate(Result, read_json(place / "result.json"), where=place / "result.json")
    gone = [folder for folder in result.models.values() if not (place / folder).is_dir()]
    if gone:
        screen.warn(f"{label}: the finished run in {shown(place)} has lost {', '.join(gone)}.")
        return None
    screen.note(f"{label}: nothing changed since run {result.run_id}; skipped (--force runs it again).")
    if registered:
        wanted = {arm: None if address == NOT_WANTED else address for arm, address in result.registered.items()}
        result = result.model_copy(update={"registered": wanted})
    return catch_up(Finished(place, result, skipped=True), screen)


def _open(
    kind: str,
    label: str,
    config: StageConfig,
    place: Path,
    device: torch.device,
    screen: Screen,
    dataset: Dataset,
    inputs: Mapping[str, Artifact],
    fingerprint: str,
    parent: Callable[[], str] | None,
) -> Stage:
    """Start the stage's MLflow run, or reopen that of an interrupted one."""
    record = place / "run.json"
    run_id = read_json(record)["run_id"] if record.is_file() else None
    tags = {"medae.stage": kind, "medae.fingerprint": fingerprint, "medae.phantom": str(dataset.manifest.phantom).lower()}
    tags |= {f"medae.input.{key}.run": str(artifact.meta.provenance.get("run_id", "")) for key, artifact in inputs.items()}
    tags |= {f"medae.input.{key}.digest": artifact.digest for key, artifact in inputs.items()}
    tracker = MlflowTracker.start(
        config.experiment,
        f"{config.name}/{label}",
        folder=place,
        parent=parent and parent(),
        run_id=run_id,
        tags=tags,
    )
    write_json(record, {"run_id": tracker.run_id, "experiment": config.experiment, "finished": False})
    provenance: dict[str, Any] = {"run_id": tracker.run_id, "stage": kind, "name": config.name, "medae": medae.__version__}
    provenance |= {"data": dataset.digest, "phantom": dataset.manifest.phantom, "source": source_digest()}
    resumed = run_id is not None
    return Stage(kind, place, device, tracker, screen, dataset, inputs, resumed, fingerprint, provenance)


def _run(program: ModuleType, config: StageConfig, stage: Stage) -> Finished:
    """Run the stage's program and deliver what came out. Only then is the run marked as finished."""
    try:
        # This copy is for the user and names folders; MLflow gets the configuration without them.
        write_text(stage.folder / "config.yaml", to_yaml(config))
        stage.tracker.params(to_dict(config))
        stage.screen.note(f"{stage.kind}: run {stage.tracker.run_id} in {shown(stage.folder)}")
        outcome: Outcome = program.run(config, stage)
        result = Result(
            stage=stage.kind,
            name=config.name,
            fingerprint=stage.fingerprint,
            run_id=stage.tracker.run_id,
            models={arm: path.relative_to(stage.folder).as_posix() for arm, path in outcome.models.items()},
            registered={} if config.registered else dict.fromkeys(outcome.models, NOT_WANTED),
            metrics=outcome.metrics,
            facts=outcome.facts,
        )
        outcome.report.write(stage.folder / "report.html")
        finished = deliver(Finished(stage.folder, result, skipped=False), stage.tracker, stage.screen)
    except BaseException as error:
        stage.tracker.end("KILLED" if isinstance(error, (KeyboardInterrupt, Interrupted)) else "FAILED")
        raise
    stage.tracker.end()
    write_json(
        stage.folder / "run.json", {"run_id": stage.tracker.run_id, "experiment": config.experiment, "finished": True}
    )
    return finished


def _fingerprint(kind: str, config: StageConfig, dataset: Dataset, inputs: Mapping[str, Artifact]) -> str:
    """A digest of the data, the input models, the configuration, and medae itself."""
    content = config.decisive()
    content |= {key: artifact.digest for key, artifact in inputs.items()}
    # where data and manifest file lie and how many read it does not matter; how it is read, and who is on which side, does
    read = {key: value for key, value in content["data"].items() if key not in ("root", "brain_masks", "file", "workers")}
    content["data"] = read | {"digest": dataset.digest}
    if kind == "detect":  # scores are given by sex, age and site
        content["covariates"] = {case.id: case.covariates for case in dataset.subset(dataset.split.test).cases}
    content["sides"] = [dataset.split.train, dataset.split.validation, dataset.split.test]
    return digest({"stage": kind, "config": content, "medae": medae.__version__, "source": source_digest()})
