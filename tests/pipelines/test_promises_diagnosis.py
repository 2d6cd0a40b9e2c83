"""What a diagnosis promises: known lesions in normal, unseen scans, each row scored on the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detections import TINY
from pictures import leave_blank

from medae.anomaly.detector import Scoring
from medae.artifact import load_artifact, save_artifact
from medae.config import validate
from medae.errors import ArtifactError, DataError
from pipelines import detect, diagnose, segmenting
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import image_digests, open_dataset
from pipelines.detect import Config
from pipelines.outcome import Finished
from pipelines.stage import run_stage

CELLS = "diagnosis={contrasts: [-0.9, 0.9], radii: [9.0], blurs: [0.0], lesions: 3}"
SMALL = (
    *TINY,
    "experiment=promises",
    "split.test=2",
    "validation_batches=0",
    "fit={steps: 2, epoch_steps: 2}",
)


def small(*overrides: str) -> Config:
    return validate(Config, read_config("phantoms", "detect", [*SMALL, *overrides]))


@pytest.fixture
def work(smoke, monkeypatch) -> Path:
    monkeypatch.chdir(smoke.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return smoke.folder


@pytest.fixture(scope="module")
def healthy(smoke, tmp_path_factory) -> Finished:
    """All scans are taken to be normal: only lesions that are put in can be found."""
    overrides = (
        "target=null",
        CELLS,
        "scoring={side: bright, rarity: all, compare: {ssim: {kind: residual, measure: ssim}}}",
        "scoring.postprocessing.median=[1, 1, 1]",
    )
    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return run_stage("detect", small("name=healthy", *overrides), tmp_path_factory.mktemp("healthy"), Screen())


def test_without_a_target_every_scan_is_normal_and_only_the_diagnosis_finds(healthy):
    rows = {"detector", "ssim", "intensity", "equalised", "voxelwise", "blurred"}
    assert set(healthy.result.metrics) == rows
    for metrics in healthy.result.metrics.values():
        assert metrics["average_precision_pooled"] is None
        assert 0 <= metrics["false_positive_rate_mean"] <= 1
    facts = healthy.result.facts["diagnosis"]
    assert set(facts["average_precision"]) == rows
    assert facts["lesions"] == {"-0.9, 9 mm, edge 0 mm": 6, "+0.9, 9 mm, edge 0 mm": 6}
    dark, bright = (facts["average_precision"]["intensity"][f"{sign}0.9, 9 mm, edge 0 mm"] for sign in "-+")
    assert bright > 0.5 > dark, "on the bright side, the intensity finds what was made bright and not what was made dark"
    best, differences = facts["best_baseline"], facts["difference"]
    assert facts["mean"][best] == max(facts["mean"][row] for row in ("intensity", "equalised", "voxelwise", "blurred"))
    assert set(differences) == rows - {best}
    for row, found in differences.items():
        assert found["difference"] == pytest.approx(facts["mean"][row] - facts["mean"][best], abs=2e-3)
        assert found["low"] is found["high"] is None, "two scans have no interval"
    assert facts["mean_unfiltered"] == pytest.approx(facts["mean"]), "the median's window is one voxel"
    page = (healthy.folder / "report.html").read_text()
    assert f": {differences['detector']['difference']:+.3f}. " in page
    assert "No test scan has a lesion" in page
    assert "What it can and cannot see" in page
    assert (healthy.folder / "figures" / "diagnosis.png").is_file()


def test_what_the_map_learnt_is_in_the_artifact_and_predict_scores_by_it(healthy, work):
    artifact = load_artifact(healthy.folder / "model")
    assert set(artifact.statistics()) == {"edges", "slopes", "values"}
    assert artifact.meta.calibration["scoring"]["rarity"] == "all"


def test_patients_are_left_out_and_a_test_without_normal_scans_is_refused_before_training(work, tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "train", lambda *_, **__: pytest.fail("trained, and nothing to diagnose on"))
    config = small(CELLS, "split={salt: 'b:', test: 1, validation: 2}")
    dataset = open_dataset(config, Screen())
    (only,) = dataset.split.test
    lesions = segmenting.reference(dataset.manifest, dataset.manifest.case(only), "lesion")[0]
    assert lesions.any(), "the one test scan has a lesion"
    with pytest.raises(DataError, match="No test scan is without a lesion"):
        run_stage("detect", config, tmp_path, Screen())


def test_a_reference_that_is_not_there_is_said_before_training(work, tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "train", lambda *_, **__: pytest.fail("trained first"))
    for reference, words in (("[99]", "none of the values"), ("[1], reference_from: atlas", "no label map 'atlas'")):
        cells = CELLS.replace("lesions: 3", f"lesions: 3, reference: {reference}, reference_from: tissue")
        cells = cells.replace(", reference_from: atlas, reference_from: tissue", ", reference_from: atlas")
        with pytest.raises(DataError, match=words):
            run_stage("detect", small(cells, "target=null"), tmp_path, Screen())


def test_lesions_that_cannot_be_put_in_are_said_before_training(work, tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "train", lambda *_, **__: pytest.fail("trained first"))
    background = CELLS.replace("lesions: 3", "lesions: 3, reference: [0], reference_from: tissue")
    with pytest.raises(DataError, match="The reference intensity is 0") as caught:
        run_stage("detect", small(background, "target=null"), tmp_path, Screen())
    assert str(caught.value.where).startswith("sub-phantom"), "it says which scan"
    with pytest.raises(DataError, match="No lesion of any kind fits"):
        run_stage("detect", small(CELLS.replace("[9.0]", "[90.0]"), "target=null"), tmp_path, Screen())


def test_a_diagnosis_that_fails_costs_the_diagnosis_alone(healthy, work, tmp_path, monkeypatch, capsys):
    def failing(*_, **__):
        (folder,) = tmp_path.glob("detect-????????")
        assert (folder / "evaluations" / "detector-filtered.json").is_file() and load_artifact(folder / "model")
        raise DataError("No lesion.", where="sub-x", remedy="Give room.")

    monkeypatch.setattr(detect, "run_diagnosis", failing)
    config = small(f"model={healthy.folder / 'model'}", "target=null", CELLS, "name=failing")
    finished = run_stage("detect", config, tmp_path, Screen())
    said = "The diagnosis could not be made: No lesion. (sub-x)"
    assert finished.result.facts["diagnosis_failed"] == said
    assert "diagnosis" not in finished.result.facts
    assert f"{said} Give room." in (finished.folder / "report.html").read_text()
    assert f"Warning: {said}" in capsys.readouterr().err


def test_a_detector_is_diagnosed_on_scans_that_it_has_not_seen(healthy, work, tmp_path, capsys):
    model = healthy.folder / "model"
    source = work / "runs" / "smoke-phantoms"
    cells = ["diagnosis.contrasts=[0.9]", "diagnosis.radii=[9.0]", "diagnosis.blurs=[0.0]", "diagnosis.lesions=2"]
    options = {"format": "phantom", "device": "cpu"}
    cells += ["data.subjects=10", "data.lesions=0.5", "data.spacing=6.0"]
    result = diagnose.run(str(model), source, tmp_path / "out", options, cells, as_json=True)
    dataset = open_dataset(small(), Screen())
    seen = set(load_artifact(model).meta.seen)
    unseen = [case for case in dataset.manifest.cases if not set(image_digests(dataset.subset([case.subject]))) & seen]
    assert len(unseen) == 2
    found = result["facts"]["diagnosis"]
    assert found["lesions"] == {"+0.9, 9 mm, edge 0 mm": 2 * len(unseen)}
    assert set(found["mean"]) == {"detector", "ssim", "intensity", "equalised", "blurred"}, "what learns nothing"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Left out here: voxel-wise" in page and "does not hold what they learn from normal scans" in page
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    assert "What it can and cannot see" in (tmp_path / "out" / "report.html").read_text()
    left_out = diagnose.run(str(model), source, tmp_path / "healthy", {**options, "target": "lesion"}, cells, as_json=True)
    lesions = sum(found["lesions"].values()) - sum(left_out["facts"]["diagnosis"]["lesions"].values())
    sick = [case for case in unseen if segmenting.reference(dataset.manifest, case, "lesion")[0].any()]
    assert lesions == 2 * len(sick)


def test_the_voxelwise_baseline_is_a_row_where_the_detectors_map_has_it(healthy, work, tmp_path):
    place = "place: {grid: [16, 16, 16]}"
    scoring = f"scoring={{{place}, map: {{kind: sum, of: [{{kind: residual}}, {{kind: intensity, {place}}}]}}}}"
    config = small(f"model={healthy.folder / 'model'}", "target=null", CELLS, scoring, "name=with-voxelwise")
    finished = run_stage("detect", config, tmp_path, Screen())
    expected = finished.result.facts["diagnosis"]
    keys = [CELLS, "data.subjects=10", "data.lesions=0.5", "data.spacing=6.0"]
    source, options = work / "runs" / "smoke-phantoms", {"format": "phantom", "device": "cpu"}
    result = diagnose.run(str(finished.folder / "model"), source, tmp_path / "out", options, keys, as_json=True)
    found = result["facts"]["diagnosis"]
    assert set(found["mean"]) == {"detector", "intensity", "equalised", "voxelwise", "blurred"}
    assert found["lesions"] == expected["lesions"], "the same test scans"
    assert found["average_precision"] == expected["average_precision"], "the same baseline, as it was learnt then"
    assert "Left out here" not in (tmp_path / "out" / "report.html").read_text()


def test_another_place_is_another_baseline():
    parts = [{"kind": "residual"}, {"kind": "intensity", "place": {"smooth": 2.0}}]
    scoring = validate(Scoring, {"map": {"kind": "sum", "of": parts}})
    statistics = scoring.build(1)["detector"].state_dict()
    assert "voxelwise" not in diagnose.maps_of(scoring, 1, statistics)
    same = validate(Scoring, {"map": {"kind": "sum", "of": parts}, "place": {"smooth": 2.0}, "rarity": "all"})
    learnt = same.build(1)["detector"].state_dict()
    maps = diagnose.maps_of(same, 1, {name: value + 1 for name, value in learnt.items()})
    kept = maps["voxelwise"].state_dict()
    assert kept and all(bool((value == learnt[f"part.parts.1.{name}"] + 1).all()) for name, value in kept.items())


def trained_at(spacing: float, model: Path, folder: Path) -> Path:
    """The same detector, were its training scans of this voxel size (mm)."""
    artifact = load_artifact(model)
    assert artifact.meta.domain is not None
    domain = artifact.meta.domain.model_copy(update={"spacing": ((spacing, spacing),) * 3})
    meta = artifact.meta.model_copy(update={"domain": domain})
    save_artifact(folder, artifact.model(), meta, artifact.statistics())
    return folder


def test_scans_are_held_to_what_the_model_was_trained_on(healthy, work, tmp_path, capsys):
    """Voxels of 6 mm are too large for a model of 0.6 mm, and larger than those of a model of 3.5 mm."""
    fine, coarser = (trained_at(mm, healthy.folder / "model", tmp_path / f"{mm}") for mm in (0.6, 3.5))
    source, options = work / "runs" / "smoke-phantoms", {"format": "phantom", "device": "cpu"}
    keys = ["diagnosis.contrasts=[0.9]", "diagnosis.radii=[9.0]", "diagnosis.blurs=[0.0]", "diagnosis.lesions=1"]
    keys += ["data.subjects=10", "data.lesions=0.5", "data.spacing=6.0"]
    words = r"Voxels are 6 mm from left to right, those of the training scans 0\.6 mm"
    with pytest.raises(DataError, match=words) as caught:
        diagnose.run(str(fine), source, tmp_path / "refused", options, keys)
    assert str(caught.value.where).startswith("sub-phantom") and "--anyway" not in str(caught.value.remedy)
    with pytest.raises(DataError, match=words):
        run_stage("detect", small(f"model={fine}", "target=null", "name=refused"), tmp_path, Screen())
    capsys.readouterr()

    result = diagnose.run(str(coarser), source, tmp_path / "said", options, keys, as_json=True)
    remarks = result["facts"]["remarks"]
    assert len(remarks) == 2 and all("those of the training scans 3.5 mm" in " ".join(each) for each in remarks.values())
    assert "is unlike the scans that the model was trained on" in capsys.readouterr().err
    assert "Scans unlike the model" in (tmp_path / "said" / "report.html").read_text()
    finished = run_stage("detect", small(f"model={coarser}", "target=null", "name=said"), tmp_path, Screen())
    assert finished.result.facts["remarks"].keys() >= remarks.keys()
    assert "is unlike the scans that the model was trained on" in capsys.readouterr().err
    assert "Scans unlike the model" in (finished.folder / "report.html").read_text()


def test_only_a_detector_is_diagnosed(smoke, work, tmp_path):
    with pytest.raises(ArtifactError, match="a detector is diagnosed"):
        diagnose.run(str(smoke.stage("pretrain") / "model"), work, tmp_path, {})
