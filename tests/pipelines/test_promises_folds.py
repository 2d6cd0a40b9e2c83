"""What a detection in folds promises: every scan scored once, by a detector that has not seen it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detections import TINY
from pictures import leave_blank

from medae.artifact import load_artifact
from medae.config import validate
from medae.errors import ConfigError, DataError
from medae.metrics.evaluations import load_evaluation
from medae.tracking.client import open_client
from pipelines import detect_folds
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import DIGITS, open_dataset
from pipelines.detect import Config
from pipelines.stage import run_stage

SMALL = (
    *TINY,
    "name=folded",
    "experiment=promises",
    "validation_batches=0",
    "fit={steps: 2, epoch_steps: 2}",
)


@pytest.fixture(scope="module")
def folded(smoke, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("folded")
    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        detect_folds.command("phantoms", SMALL, {"folds": 2}, out, False, False, True)
    return out / "folded"


@pytest.fixture
def work(smoke, monkeypatch) -> Path:
    monkeypatch.chdir(smoke.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return smoke.folder


def result_of(folded: Path) -> dict:
    (place,) = folded.glob("folds-*/result.json")
    found: dict = json.loads(place.read_text())
    return found


def test_every_scan_is_scored_once_by_a_detector_that_has_not_seen_it(folded, work):
    result = result_of(folded)
    assert result["facts"]["sentences"][0].startswith("The detector ")
    dataset = open_dataset(validate(Config, read_config("phantoms", "detect", [*SMALL, "split.test=2"])), Screen())
    digests = {case.id: {ref.sha256[:DIGITS] for ref in case.images.values()} for case in dataset.manifest.cases}
    assert set(result["metrics"]["detector"]["cases"]) == set(digests)
    scored = []
    for fold in result["folds"]:
        folder = folded / fold["folder"]
        cases = set(json.loads((folder / "result.json").read_text())["metrics"]["detector"]["cases"])
        seen = set(load_artifact(folder / "model").meta.seen)
        assert not {case for case in cases if digests[case] & seen}
        scored += sorted(cases)
    assert sorted(scored) == sorted(digests)


def test_the_figures_are_those_of_all_scans_together(folded):
    result = result_of(folded)
    rows = result["metrics"]
    assert list(rows)[:2] == ["detector", "intensity"]
    for row, metrics in rows.items():
        parts = [
            load_evaluation(folded / fold["folder"] / "evaluations" / f"{row}-filtered.json") for fold in result["folds"]
        ]
        assert metrics["n_test"] == sum(len(part.scans) for part in parts) == 10
        lesions = sum(part.pooled.n_lesion for part in parts)
        voxels = lesions + sum(part.pooled.n_normal for part in parts)
        assert metrics["summary"]["prevalence"] == pytest.approx(lesions / voxels)
        assert 0 < metrics["average_precision_unfiltered"] < 1
    page = next(folded.glob("folds-*/report.html")).read_text()
    assert "Each fold has a threshold of its own" in page
    assert result["normals"] == "lesion_free_scans"
    for fold, each in enumerate(result["folds"], start=1):
        facts = json.loads((folded / each["folder"] / "result.json").read_text())["facts"]
        assert f"fold {fold}: The threshold {facts['calibration']['detector']['threshold']:.4g} is reached in" in page
    assert "Scored is the absolute side of" in page and "recalibrate on normal scans of another site" in page
    assert "False positives in the mask" in page.split("Groups", 1)[1], "by what the phantoms say of themselves"
    assert "fold-1-" in page


def test_the_folds_are_children_of_one_run_and_register_nothing(folded, work):
    client = open_client()
    runs = [client.get_run(fold["run_id"]) for fold in result_of(folded)["folds"]]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert client.get_run(parent).data.tags["medae.stage"] == "folds"
    assert client.get_run(parent).info.status == "FINISHED"
    assert not client.search_registered_models("name LIKE '%folded%'")


def test_finished_folds_are_not_run_again(folded, work, monkeypatch, capsys):
    monkeypatch.setattr("pipelines.detect.train", lambda *_, **__: pytest.fail("trained again"))
    before = next(folded.glob("folds-*/result.json")).read_text()
    detect_folds.command("phantoms", SMALL, {"folds": 2}, folded.parent, False, False, True)
    assert next(folded.glob("folds-*/result.json")).read_text() == before
    assert json.loads(capsys.readouterr().out) == json.loads(before)


def test_a_given_model_scores_the_fold_that_it_has_not_seen(folded, work, tmp_path):
    first, second = (folded / fold["folder"] for fold in result_of(folded)["folds"])
    config = validate(Config, read_config("phantoms", "detect", [*SMALL, "folds=2", "fold=0", f"model={first / 'model'}"]))
    given = run_stage("detect", config, tmp_path, Screen()).result.metrics["detector"]
    own = json.loads((first / "result.json").read_text())["metrics"]["detector"]
    assert given["cases"].keys() == own["cases"].keys()
    assert given["average_precision_pooled"] == pytest.approx(own["average_precision_pooled"], abs=1e-6)
    other = config.model_copy(update={"model": str(second / "model")})
    with pytest.raises(DataError, match="test scans"):
        run_stage("detect", other, tmp_path, Screen())


def test_folds_that_make_no_sense_are_refused(work, tmp_path):
    for wrong, words in (
        (("folds=2", "fold=2"), "one of folds"),
        (("fold=0",), "one of folds"),
        (("folds=2", "model=somewhere"), "leave model out, or name the fold"),
    ):
        with pytest.raises(ConfigError, match=words):
            validate(Config, read_config("phantoms", "detect", [*SMALL, *wrong]))
    config = validate(Config, read_config("phantoms", "detect", [*SMALL, "folds=2", "split.test=2"]))
    with pytest.raises(ConfigError, match="a stage is one of them"):
        run_stage("detect", config, tmp_path, Screen())


def test_a_later_fold_without_a_normal_validation_scan_is_refused_before_the_first_is_trained(work, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.detect.train", lambda *_, **__: pytest.fail("trained, and a later fold cannot be"))
    overrides = [*SMALL, "split.validation=1", "split.salt='2:'"]
    with pytest.raises(DataError, match="Fold 3 of 3: None of 1 scans is without a lesion"):
        detect_folds.command("phantoms", overrides, {"folds": 3}, tmp_path, False, False, True)
    assert not list(tmp_path.rglob("run.json"))
