"""The reference says what there is: commands, keys, files, tags and figures, all of them and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from docpages import ROOT, table
from docworld import World
from mlflow import MlflowClient

from medae.metrics.anomaly import AnomalyEvaluation

REFERENCE = ROOT / "docs" / "reference"
STAGES = ("pretrain", "finetune", "detect")


@pytest.mark.parametrize("name", ["cli.md", "configuration.md"])
def test_a_generated_page_is_up_to_date(name, monkeypatch):
    monkeypatch.syspath_prepend(REFERENCE)
    import generate

    assert (REFERENCE / name).read_text(encoding="utf-8") == generate.page(name), "run docs/reference/generate.py"


def test_every_environment_variable_of_ours_is_documented():
    sources = [path for package in ("medae", "pipelines") for path in (ROOT / package).rglob("*.py")]
    used = {name for path in sources for name in re.findall(r'"(MEDAE_[A-Z_]+)"', path.read_text())}
    assert used
    assert used <= set(table(REFERENCE / "cli.md", "meaning"))


def matching(pattern: str) -> re.Pattern[str]:
    """A documented path or name as an expression: ``*`` and the placeholders stand for a part of a name."""
    return re.compile(re.sub(r"\\\*|ARM|CASE|ROW", r"[^/]+", re.escape(pattern)))


def assert_same(documented: list[str], found: set[str]) -> None:
    """Each that is found is documented, and each that is documented is found."""
    patterns = {text: matching(text) for text in documented}
    assert {name for name in found if not any(p.fullmatch(name) for p in patterns.values())} == set(), "not documented"
    assert {text for text, p in patterns.items() if not any(p.fullmatch(name) for name in found)} == set(), "not there"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_a_run_are_those_that_are_documented(world: World):
    found = {file for stage in STAGES for file in files(world.stage(stage))}
    assert_same(table(REFERENCE / "outputs.md", "path", "The folder of a run"), found)


def test_the_files_of_a_model_are_those_that_are_documented(world: World):
    assert_same(table(REFERENCE / "outputs.md", "path", "A model"), files(world.stage("detect") / "model"))


def test_the_keys_of_a_result_are_those_that_are_documented(world: World):
    first, second = (table(REFERENCE / "outputs.md", "key", "`result.json` of a stage", part) for part in (0, 1))
    result = json.loads((world.stage("finetune") / "result.json").read_text())
    assert_same(first, set(result))
    assert_same(second, set(result["metrics"]["scratch"]))


def test_the_tags_in_mlflow_are_those_that_are_documented(world: World):
    client = MlflowClient(f"sqlite:///{world.work}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    found = {name for run in runs for name in run.data.tags}
    documented = table(REFERENCE / "outputs.md", "tag", "In MLflow")
    assert {name for name in found if not any(matching(text).fullmatch(name) for text in documented)} == set()
    always = {text for text in documented if not text.startswith("git.")}  # outside a checkout there is none
    assert {text for text in always if not any(matching(text).fullmatch(name) for name in found)} == set()


def test_the_figures_of_a_detection_are_those_that_are_documented(world: World):
    evaluation = AnomalyEvaluation()
    empty = np.zeros((2, 2, 2))
    evaluation.add("case", empty, empty, empty + 1, empty, voxel_ml=1.0, scan_score=0.0)
    assert_same(table(REFERENCE / "metrics.md", "figure"), set(evaluation.summary()))
    arm = json.loads((world.stage("detect") / "result.json").read_text())["metrics"]["detector"]
    text = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    headline = text[text.index("**Headline.**") :].partition("`summary`")[0]
    assert set(re.findall(r"`(\w+)`", headline)) - {"metrics"} == set(arm) - {
        "summary",
        "intervals",
        "lesion_sizes",
        "cases",
    }
