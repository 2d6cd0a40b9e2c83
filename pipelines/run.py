"""A pipeline: stages chained from one YAML. What nothing changed for is not run again.

    name: hippocampus
    shared: {data: …, split: …}          # keys of every stage
    stages:
      pretrain: {stage: pretrain, config: pretrain/hippocampus}
      finetune: {stage: finetune, config: finetune/hippocampus, encoder: "stage:pretrain"}

A stage's keys are those of its ``config`` (a path relative to the YAML, or a shipped name), then ``shared``, then its
own. A model of ``stage:NAME`` is that of an earlier stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

import medae
from medae.config import read_yaml, to_dict, validate
from medae.errors import ConfigError
from medae.plain_words import nearest
from pipelines.configs import find_config, merge, read_config
from pipelines.console import Screen, shown
from pipelines.files import write_json
from pipelines.outcome import Finished, open_mlflow, show
from pipelines.parent import Named, Parent
from pipelines.stage import KINDS, NAME, StageConfig, check_stage, program_of, run_stage

REFERENCE = "stage:"
OF_THE_PIPELINE = ("name", "experiment")
"""Keys of a stage that are the pipeline's."""


class Pipeline(Named):
    """The configuration of a pipeline; ``stages`` keep their order."""

    name: str = Field(pattern=NAME)
    shared: dict[str, Any] = Field(default_factory=dict)
    stages: dict[str, dict[str, Any]]


def read_pipeline(name: str, overrides: Sequence[str] = ()) -> tuple[Pipeline, dict[str, tuple[str, dict[str, Any]]]]:
    """The pipeline, and the kind and keys of each stage, before models of earlier stages are filled in.

    Overrides start with a stage's name (``pretrain.fit.steps=9``) or are keys of the pipeline (``shared.data.root=…``).
    """
    path = find_config(name, "pipelines")
    content = read_yaml(path)
    check_stage("run", content, name)
    stages = content.get("stages")
    names = list(stages) if isinstance(stages, dict) else []
    full = [_full_key(item, names) for item in overrides]
    pipeline = validate(Pipeline, read_config(name, "pipelines", full), where=path)
    return pipeline, {label: _stage(label, keys, pipeline, path) for label, keys in pipeline.stages.items()}


def _full_key(override: str, stages: Sequence[str]) -> str:
    """An override with the whole path of its key. Raises ConfigError if that begins with no stage or key of the pipeline."""
    first = override.partition("=")[0].strip().split(".")[0]
    if first in stages:
        return f"stages.{override}"
    if first in Pipeline.model_fields:
        return override
    raise ConfigError(
        f"The pipeline has no stage and no key '{first}'{nearest(first, [*stages, *Pipeline.model_fields]) or '.'}",
        where=f"--set {override}",
        remedy=f"Begin with a stage ({', '.join(stages)}), such as {stages[0] if stages else 'pretrain'}.fit.steps=200, or "
        "with shared for all stages, such as shared.data.root=FOLDER.",
    )


def _stage(label: str, keys: Mapping[str, Any], pipeline: Pipeline, path: Path) -> tuple[str, dict[str, Any]]:
    own = dict(keys)
    kind = own.pop("stage", None)
    if kind not in KINDS:
        raise ConfigError(
            f"The stage is '{kind}'.", where=f"stages.{label}.stage", remedy=f"Choose one of {', '.join(KINDS)}."
        )
    if given := [key for key in OF_THE_PIPELINE if key in own or key in pipeline.shared]:
        raise ConfigError(
            f"A stage has no {' and no '.join(given)} of its own in a pipeline: the pipeline's is taken.",
            where=f"stages.{label}.{given[0]}" if given[0] in own else f"shared.{given[0]}",
            remedy=f"Set {given[0]} at the top of the pipeline, or by --set {given[0]}=…",
        )
    base: dict[str, Any] = {}
    if (used := own.pop("config", None)) is not None:
        beside = path.parent / str(used)
        base = read_yaml(beside if beside.is_file() else find_config(str(used), kind))
    content = merge(merge(base, pipeline.shared), own)
    content |= {key: getattr(pipeline, key) for key in OF_THE_PIPELINE}
    earlier = list(pipeline.stages)[: list(pipeline.stages).index(label)]
    for key, value in content.items():
        if isinstance(value, str) and value.startswith(REFERENCE) and value.removeprefix(REFERENCE) not in earlier:
            raise ConfigError(
                f"'{value}' is not an earlier stage.",
                where=f"stages.{label}.{key}",
                remedy=f"Earlier: {', '.join(earlier)}.",
            )
    return kind, content


def stage_config(kind: str, content: Mapping[str, Any], models: Mapping[str, str], where: str) -> StageConfig:
    """A stage's configuration with the models of earlier stages filled in."""

    def filled(value: Any) -> Any:
        is_reference = isinstance(value, str) and value.startswith(REFERENCE)
        return models[value.removeprefix(REFERENCE)] if is_reference else value

    found: StageConfig = validate(
        program_of(kind).Config, {key: filled(value) for key, value in content.items()}, where=where
    )
    return found


def run(
    name: str, overrides: Sequence[str], runs: Path, *, resume: bool = True, force: bool = False, as_json: bool = False
) -> dict[str, Finished]:
    """Run the stages in order under one parent run. An interrupted stage goes on, unless ``resume`` is false."""
    screen = Screen(as_json)
    pipeline, stages = read_pipeline(name, overrides)
    for label, (kind, content) in stages.items():  # all are validated before the first is run
        stage_config(kind, content, dict.fromkeys(stages, "."), where=f"{name}: stages.{label}")
    folder = runs / pipeline.name
    parent = Parent(pipeline, folder, "pipeline", screen)
    finished: dict[str, Finished] = {}
    with parent:
        for place, (label, (kind, content)) in enumerate(stages.items(), start=1):
            models = {done: str(stage.model) for done, stage in finished.items()}
            config = stage_config(kind, content, models, where=f"{name}: stages.{label}")
            screen.note(f"\n— {label}, stage {place} of {len(stages)} —")
            finished[label] = run_stage(
                kind, config, folder, screen, resume=resume, force=force, parent=parent.open, label=label
            )
            show(finished[label], screen)
    results = {label: to_dict(stage.result) for label, stage in finished.items()}
    summary = {"pipeline": pipeline.name, "parent_run_id": parent.run_id, "stages": results, "medae": medae.__version__}
    summary["metrics"] = {label: result["metrics"] for label, result in results.items()}
    write_json(folder / "result.json", summary)
    screen.say(f"\nAll stages are done. Results: {shown(folder / 'result.json')}")
    screen.say("Look at the reports:")
    for stage in finished.values():
        screen.say(f"  {shown(stage.folder / 'report.html')}")
    screen.say(f"Look at the runs: {open_mlflow()}")
    screen.json(summary)
    return finished
