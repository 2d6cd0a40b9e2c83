"""What the three stages leave behind: results, reports, artifacts, maps, and the runs in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import pytest
import torch

from medae.artifact import load_artifact
from medae.config import validate
from medae.errors import TrainingError
from pipelines.console import Screen
from pipelines.outcome import Finished, Result, show
from pipelines.run import run

STAGES = ("pretrain", "finetune", "detect")


@pytest.fixture
def client(smoke) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{smoke.folder}/mlflow.db")


def child_runs(client):
    (experiment,) = [found for found in client.search_experiments() if found.name == "medae"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [found for found in runs if found.data.tags["medae.stage"] == "pipeline"]
    children = {found.data.tags["medae.stage"]: found for found in runs if found is not parent}
    return parent, children


def test_three_children_stand_under_one_parent(client, smoke):
    parent, children = child_runs(client)
    assert set(children) == set(STAGES)
    assert {child.data.tags["mlflow.parentRunId"] for child in children.values()} == {parent.info.run_id}
    assert {found.info.status for found in (parent, *children.values())} == {"FINISHED"}
    assert smoke.result["parent_run_id"] == parent.info.run_id


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_holds_all_that_was_promised(client, smoke, stage):
    _, children = child_runs(client)
    child = children[stage]
    assert child.data.params["fit.steps"] == "4"
    assert child.data.params["data.format"] == "phantom"
    assert {"medae.fingerprint", "medae.phantom"} <= set(child.data.tags)
    assert any("git" in name for name in child.data.tags)
    assert any("torch" in name for name in {**child.data.tags, **child.data.params})
    contexts = {tag.value for given in child.inputs.dataset_inputs for tag in given.tags}
    read = {"pretrain": {"training", "validation"}, "finetune": {"training", "testing"}}
    assert {value for value in contexts if value.endswith("ing") or value == "validation"} == read.get(
        stage, {"training", "validation", "testing"}
    ), "a stage logs the cases that it reads and no others"
    assert all(given.dataset.digest for given in child.inputs.dataset_inputs)
    stored = {entry.path for entry in client.list_artifacts(child.info.run_id)}
    assert {"params.yaml", "plan.yaml", "report.html", "result.json", "figures"} <= stored
    name = next(name for name in child.data.metrics if name.endswith("loss"))
    assert [point.step for point in client.get_metric_history(child.info.run_id, name)] == [2, 4]
    assert any(name.startswith("system/") for name in child.data.metrics)
    result = smoke.result["stages"][stage]
    assert result["run_id"] == child.info.run_id
    assert set(result["registered"]) == set(result["models"])
    for address in result["registered"].values():
        version = client.get_model_version(*address.removeprefix("models:/").split("/"))
        assert version.run_id == child.info.run_id


def test_lineage_can_be_followed_both_ways(client, smoke):
    _, children = child_runs(client)
    tag = children["finetune"].data.tags["medae.input.encoder.run"]
    assert tag == children["pretrain"].info.run_id
    found = client.search_runs([children["pretrain"].info.experiment_id], f"tags.`medae.input.encoder.run` = '{tag}'")
    assert [child.info.run_id for child in found] == [children["finetune"].info.run_id]
    encoder = load_artifact(smoke.stage("pretrain") / "model")
    assert children["finetune"].data.tags["medae.input.encoder.digest"] == encoder.digest


def test_metrics_have_an_entry_an_arm_with_every_case(smoke):
    metrics = smoke.result["metrics"]["finetune"]
    assert set(metrics) == {"pretrained", "scratch"}
    for arm in metrics.values():
        assert arm["n_test"] == len(arm["cases"]) == 2
        values = [[label["dice"] for label in case.values()] for case in arm["cases"].values()]
        assert arm["dice_mean"] == pytest.approx(np.mean(values))
    detect = smoke.result["metrics"]["detect"]
    assert set(detect) == {"detector", "intensity", "equalised", "voxelwise", "blurred"}
    for arm in detect.values():
        assert arm["summary"]["dice_oracle"] >= arm["dice_mean"]
        assert not any("oracle" in name for name in arm), "what no user can reach is in no headline"
        assert arm["intervals"] == {}, "two subjects have none"
        assert sum(size["lesions"] for size in arm["lesion_sizes"].values()) == arm["summary"]["n_lesions"]
        assert set(arm["cases"]) == set(metrics["scratch"]["cases"])


def test_what_a_detection_came_to_stands_on_the_screen_as_in_its_report(smoke, capsys):
    folder = smoke.stage("detect")
    result = validate(Result, smoke.result["stages"]["detect"])
    (sentence,) = result.facts["sentences"]
    assert sentence.startswith("The detector ") and sentence in (folder / "report.html").read_text(encoding="utf-8")
    show(Finished(folder, result, skipped=False), Screen())
    assert sentence in capsys.readouterr().out


def test_no_figure_of_an_oracle_is_on_the_card_of_a_detector(smoke):
    figures = load_artifact(smoke.stage("detect") / "model").meta.metrics
    assert figures["dice_mean"] == smoke.result["metrics"]["detect"]["detector"]["dice_mean"]
    assert not any("oracle" in name for name in figures)


def test_only_the_encoder_differs_between_the_arms_at_the_start(smoke):
    report = json.loads((smoke.stage("finetune") / "transfer.json").read_text())
    assert report["share"] == 1.0
    assert {row["status"] for row in report["tensors"]} == {"loaded"}
    assert report["differences"] == []


@pytest.mark.parametrize("stage", STAGES)
def test_reports_stand_alone_and_say_phantoms(smoke, stage):
    page = (smoke.stage(stage) / "report.html").read_text()
    assert "phantoms, not patients" in page
    assert "data:image/png;base64," in page
    assert not any(outside in page for outside in ('src="http', 'href="http', "<link", "url(http"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_reports_show_what_augmentation_makes_of_the_patches(smoke, stage):
    page = (smoke.stage(stage) / "report.html").read_text()
    assert (smoke.stage(stage) / "figures" / "augmentation.png").exists()
    for name in ("rotation", "elastic", "gamma"):
        assert f">{name}<" in page
    assert ">bias field<" not in page


def test_maps_lie_on_the_scans_own_grid(smoke):
    cases = smoke.result["metrics"]["detect"]["detector"]["cases"]
    for case in cases:
        scan = nib.load(smoke.folder / "runs" / "smoke-phantoms" / case / "anat" / f"{case}_T1w.nii.gz")
        heat, flagged, mask = (
            nib.load(smoke.stage("detect") / "maps" / f"{case}_{kind}.nii.gz") for kind in ("heatmap", "anomaly", "mask")
        )
        for image in (heat, flagged, mask):
            assert image.shape == scan.shape
            assert np.array_equal(image.affine, scan.affine)
        inside = np.asarray(mask.dataobj) > 0
        assert not (np.asarray(heat.dataobj)[~inside]).any()
        threshold = smoke.result["metrics"]["detect"]["detector"]["threshold"]
        assert np.array_equal(np.asarray(flagged.dataobj) > 0, inside & (heat.get_fdata(dtype=np.float32) >= threshold))


def test_the_registered_model_answers_as_the_artifact_does(client, smoke):
    uri = smoke.result["stages"]["finetune"]["registered"]["pretrained"]
    artifact = load_artifact(smoke.stage("finetune") / "model-pretrained")
    image = np.random.default_rng(0).normal(size=(1, 1, 24, 24, 24)).astype(np.float32)
    mlflow.set_tracking_uri(f"sqlite:///{smoke.folder}/mlflow.db")
    try:
        answer = mlflow.pyfunc.load_model(uri).predict(image)
    finally:
        mlflow.set_tracking_uri(None)
    with torch.inference_mode():
        expected = artifact.model()(torch.from_numpy(image)).finest.numpy()
    found = next(iter(answer.values())) if isinstance(answer, dict) else answer
    assert np.allclose(np.asarray(found).reshape(expected.shape), expected, atol=1e-5)


def test_nothing_is_pickled(smoke):
    stored = [path for path in smoke.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in stored)
    assert not [path for path in stored if path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".ckpt"}]
    assert not [path for path in stored if path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05", b"\x80\x02")]


def test_no_source_file_unpickles():
    import medae
    import pipelines

    for package in (medae, pipelines):
        for path in Path(package.__file__).parent.rglob("*.py"):
            text = path.read_text()
            found = [word for word in ("torch.load", "import pickle", "joblib.load", "allow_pickle=True") if word in text]
            assert not found, f"{path}: {found}"


def test_no_absolute_path_and_no_user_reaches_the_store_or_the_reports(client, smoke):
    import getpass
    import socket

    _, children = child_runs(client)
    words = [str(smoke.folder), str(Path.home()) + "/", socket.gethostname()]
    for child in children.values():
        logged = json.dumps([child.data.params, child.data.tags, child.data.metrics, child.info.run_name])
        assert not [word for word in words if word in logged]
        assert (
            child.data.tags.get("mlflow.user") in (None, "", "unknown")
            or getpass.getuser() not in child.data.tags["mlflow.user"]
        )
    for stage in STAGES:
        for name in ("report.html", "result.json", "plan.yaml", "run.json"):
            assert str(smoke.folder) not in (smoke.stage(stage) / name).read_text()


def test_a_second_run_skips_every_stage_and_names_the_run(smoke, monkeypatch, capsys, client):
    monkeypatch.chdir(smoke.folder)
    before = len(client.search_runs([found.experiment_id for found in client.search_experiments()]))
    finished = run("smoke/phantoms", [], Path("runs"))
    assert all(stage.skipped for stage in finished.values())
    shown = capsys.readouterr().err
    assert all(stage.result.run_id in shown for stage in finished.values())
    assert len(client.search_runs([found.experiment_id for found in client.search_experiments()])) == before


def test_an_unfinished_run_is_not_overwritten(smoke, tmp_path, monkeypatch):
    from medae.config import validate
    from pipelines.configs import read_config
    from pipelines.console import Screen
    from pipelines.stage import program_of, run_stage

    monkeypatch.chdir(smoke.folder)
    overrides = ["data={format: phantom, root: runs/smoke-phantoms, subjects: 10, lesions: 0.5, spacing: 6.0}"]
    overrides += ["plan.widths=[4, 8]", "plan.patch=[24, 24, 24]", "split.test=2", "split.validation=2", "fit.steps=2"]
    overrides += ["fit.epoch_steps=1", "name=unfinished"]
    config = validate(program_of("pretrain").Config, read_config("phantoms", "pretrain", overrides))
    done = run_stage("pretrain", config, tmp_path, Screen())
    record = done.folder / "run.json"
    record.write_text(record.read_text().replace("true", "false"))
    with pytest.raises(TrainingError, match="--resume"):
        run_stage("pretrain", config, tmp_path, Screen())
    again = run_stage("pretrain", config, tmp_path, Screen(), resume=True)
    assert again.result.run_id == done.result.run_id
    forced = run_stage("pretrain", config, tmp_path, Screen(), force=True)
    assert forced.result.run_id != done.result.run_id
    assert (tmp_path / f"{done.folder.name}-old1" / "result.json").is_file()
    a, b = (load_artifact(folder / "model").tensors() for folder in (forced.folder, tmp_path / f"{done.folder.name}-old1"))
    assert all(torch.equal(a[name], b[name]) for name in a), "the same seed gives the same weights"
