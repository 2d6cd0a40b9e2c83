"""What a fine-tuning promises: an honest split, a plan that is followed, cases that choose, lineage, baselines, privacy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import mlflow
import nibabel as nib
import numpy as np
import pytest
import torch
from pictures import leave_blank
from typer.testing import CliRunner

from medae.artifact import load_artifact
from medae.config import to_dict, to_yaml, validate
from medae.data.split import labelled_subset, ordered
from medae.errors import ConfigError, DataError, TransferError
from medae.metrics.segmentation import LabelScore
from medae.plan import NetworkPlan, Plan, SamplingPlan
from medae.planning.fingerprint import fingerprint
from medae.planning.strides import total_strides
from medae.preprocessing.sampling import PatchSampler
from medae.report.html import Report
from medae.tracking.client import open_client
from medae.training.config import FitConfig
from pipelines import finetune, finetune_training
from pipelines.cli import app
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import image_digests, open_dataset
from pipelines.finetune import Config
from pipelines.plan import PlanChoice
from pipelines.stage import run_stage
from pipelines.training import warn_before_training

SMALL = (
    "experiment=promises",
    "data={format: phantom, root: runs/smoke-phantoms, subjects: 10, lesions: 0.5, spacing: 6.0}",
    "split.test=2",
    "split.validation=2",
    "plan={spatial_dims: 3, stem: space_to_depth, widths: [4, 8], patch: [24, 24, 24], batch: 2}",
    "fit={steps: 2, epoch_steps: 1}",
)


def small(*overrides: str) -> Config:
    return validate(Config, read_config("phantoms", "finetune", [*SMALL, *overrides]))


@pytest.fixture
def work(smoke, monkeypatch) -> Path:
    """The smoke run's working folder: its phantoms, its cache and its store are used again."""
    monkeypatch.chdir(smoke.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return smoke.folder


@pytest.fixture
def bare_report(monkeypatch) -> None:
    """No figures: what is tested does not show in them."""
    monkeypatch.setattr(finetune, "make_report", lambda *_, **__: Report("Fine-tuning", ""))


@pytest.fixture
def fingerprint_of(work, tmp_path, monkeypatch):
    """The fingerprint with which a configuration would run, had the run not been stopped at its start."""
    stopped = RuntimeError("stopped by the test")

    def call(config: Config) -> str:
        found = []

        def stop(_, stage):
            found.append(stage.fingerprint)
            raise stopped

        with monkeypatch.context() as patch:
            patch.setattr(finetune, "run", stop)
            with pytest.raises(RuntimeError, match="stopped by the test"):
                run_stage("finetune", config, tmp_path / "fingerprints", Screen())
        return found[0]

    return call


# --- the split ---


def test_an_encoder_that_has_seen_a_test_scan_is_refused_with_its_id(smoke, work, tmp_path):
    config = small(f"encoder={smoke.stage('pretrain') / 'model'}", "split.salt='b:'")
    assert set(open_dataset(config, Screen()).split.test) == {"sub-phantom001", "sub-phantom002"}
    with pytest.raises(DataError, match="1 of 2 test scans") as caught:
        run_stage("finetune", config, tmp_path, Screen())
    assert "sub-phantom001" in caught.value.what, "it trained the encoder"
    assert "sub-phantom002" not in caught.value.what, "it was a test scan of the pretraining too"
    assert not list(tmp_path.rglob("checkpoints"))
    assert not list(tmp_path.rglob("model-*"))


def test_a_segmenter_remembers_what_its_encoder_saw(smoke):
    encoder = set(load_artifact(smoke.stage("pretrain") / "model").meta.seen)
    fine = {arm: set(load_artifact(smoke.stage("finetune") / f"model-{arm}").meta.seen) for arm in ("pretrained", "scratch")}
    assert len(encoder) == 6
    assert encoder <= fine["pretrained"]
    assert len(fine["scratch"]) == 2, "two labelled scans and nothing else"


# --- the plan ---


def test_an_edited_plan_file_is_another_plan(smoke, fingerprint_of, tmp_path):
    plan = Plan.read(smoke.stage("finetune") / "plan.yaml")
    file = tmp_path / "plan.yaml"
    file.write_text(plan.as_yaml())
    before = fingerprint_of(small(f"plan={{file: {file}}}"))
    copy = tmp_path / "copy.yaml"
    copy.write_text(plan.as_yaml())
    assert fingerprint_of(small(f"plan={{file: {copy}}}")) == before, "what it says counts, not where it lies"
    sampling = plan.sampling.model_copy(update={"batch": plan.sampling.batch + 1})
    file.write_text(plan.model_copy(update={"sampling": sampling}).as_yaml())
    assert fingerprint_of(small(f"plan={{file: {file}}}")) != before


def test_a_plan_file_beside_hints_is_refused():
    with pytest.raises(ConfigError, match=r"a plan file decides everything: leave out file, or batch, widths"):
        small("plan={file: plan.yaml, widths: [4, 8], batch: 2}")


def encoder_plan(smoke, spacing: tuple[float, ...], strides: tuple[tuple[int, ...], ...]) -> Plan:
    own = Plan.read(smoke.stage("pretrain") / "plan.yaml")
    network = NetworkPlan(widths=(4,) * len(strides), strides=strides, kernels=((3, 3, 3),) * len(strides))
    space = own.space.model_copy(update={"spacing": spacing, "channels": ("of the encoder",)})
    return Plan(space=space, network=network, sampling=SamplingPlan(patch=(8, 8, 8)))


@pytest.mark.parametrize(
    ("spacing", "strides"),
    [
        ((3.0, 3.0, 3.0), ((1, 1, 1), (2, 2, 2), (2, 2, 2))),
        ((12.0, 12.0, 12.0), ((1, 1, 1), (2, 2, 2), (2, 2, 2))),
        ((4.0, 4.0, 60.0), ((2, 2, 1), (2, 2, 1), (2, 2, 1))),
    ],
    ids=["finer", "coarser", "thick"],
)
def test_the_patch_is_made_in_the_encoders_space(smoke, work, spacing, strides):
    manifest = open_dataset(small(), Screen()).manifest
    pretrained = encoder_plan(smoke, spacing, strides)
    made = PlanChoice(spatial_dims=3, widths=(4, 8)).around(pretrained, manifest, Screen())
    assert made.space == pretrained.space.model_copy(update={"channels": ("T1w",)})
    assert made.network == pretrained.network
    head_mm = np.median(np.multiply(fingerprint(manifest).boxes, 6.0), axis=0)
    for size, step, total, extent in zip(made.sampling.patch, spacing, total_strides(strides), head_mm, strict=True):
        assert size % total == 0, "whole cells of the bottleneck"
        assert total == 1 or size // total >= 4, "4 voxels where it is coarsest"
        voxels = round(extent / step)
        assert voxels <= size, "the median head is smaller than 128 voxels, so all of it is in the patch"
        assert size <= max(4 * total, 8 * math.ceil(voxels / 8)), "and little else"
    if max(spacing) == 60.0:
        assert made.sampling.patch[2] == round(head_mm[2] / 60.0) < 4, "an axis that is not pooled needs no 4 voxels"


def test_a_patch_that_was_asked_for_is_not_changed(smoke, work):
    manifest = open_dataset(small(), Screen()).manifest
    pretrained = encoder_plan(smoke, (3.0, 3.0, 3.0), ((1, 1, 1), (2, 2, 2)))
    made = PlanChoice(spatial_dims=3, patch=(20, 22, 24), batch=3).around(pretrained, manifest, Screen())
    assert (made.sampling.patch, made.sampling.batch) == ((20, 22, 24), 3)


def test_an_encoder_of_other_dimensions_is_refused(smoke, work):
    manifest = open_dataset(small(), Screen()).manifest
    with pytest.raises(ConfigError, match="3 dimensions, the plan for this data in 2"):
        PlanChoice(slice_axis=2).around(Plan.read(smoke.stage("pretrain") / "plan.yaml"), manifest, Screen())


def test_the_dimensions_are_compared_before_the_patch_is(smoke, work):
    manifest = open_dataset(small(), Screen()).manifest
    flat = encoder_plan(smoke, (3.0, 3.0, 3.0), ((1, 1, 1), (2, 2, 2)))
    network = NetworkPlan(widths=(4, 4), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)))
    space = flat.space.model_copy(update={"spatial_dims": 2, "slice_axis": 2})
    flat = Plan(space=space, network=network, sampling=SamplingPlan(patch=(8, 8)))
    with pytest.raises(ConfigError, match="2 dimensions, the plan for this data in 3"):
        PlanChoice(spatial_dims=3, patch=(24, 24, 24)).around(flat, manifest, Screen())


def test_a_shape_that_was_asked_for_in_vain_is_said(smoke, work, capsys):
    manifest = open_dataset(small(), Screen()).manifest
    pretrained = encoder_plan(smoke, (3.0, 3.0, 3.0), ((1, 1, 1), (2, 2, 2)))
    PlanChoice(spatial_dims=3, widths=(4, 8)).around(pretrained, manifest, Screen())
    said = " ".join(capsys.readouterr().err.split())
    assert "Warning: plan.widths [4, 8] is not used: the encoder has network.widths [4, 4]." in said
    assert "Kept from the encoder: space.spacing" in said, "which nobody asked for"


def test_a_network_that_the_encoder_does_not_allow_says_what_would(smoke, work, tmp_path):
    encoder = smoke.stage("pretrain") / "model"
    segnet = small(f"encoder={encoder}", "network={kind: segnet}", "plan={spatial_dims: 3, downsampling: maxpool}")
    with pytest.raises(ConfigError, match=r"encoder's shape does not allow[\s\S]*Pretrain[\s\S]*plan.downsampling: maxpool"):
        run_stage("finetune", segnet, tmp_path, Screen())


def test_an_encoder_that_does_not_fit_is_named_as_it_was_given(smoke, work, tmp_path, by_run):
    address = f"runs:/{smoke.result['stages']['pretrain']['run_id']}"
    other = small(f"encoder={address}", "network.encoder.block=residual", "transfer.minimum=0.9")
    with pytest.raises(TransferError) as refusal:
        run_stage("finetune", other, tmp_path, Screen())
    assert refusal.value.where == f"encoder: {address}"


def test_a_warm_up_beyond_the_training_is_said_and_so_is_a_vain_resume(smoke, work, tmp_path, bare_report, capsys):
    config = small("fit.steps=2", "fit.epoch_steps=1", "fit.schedule={warmup: 8}", "fit.rate=0.01", "name=short")
    run_stage("finetune", config, tmp_path, Screen(), resume=True, asked=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "The warm-up takes 8 steps and the whole training 2" in said
    assert "at 25% of its peak" in said
    assert "no unfinished run" in said


@pytest.mark.parametrize(("norm", "batch", "warned"), [("batch", 1, True), ("batch", 2, False), ("instance", 1, False)])
def test_batch_norm_of_a_single_patch_is_said(norm, batch, warned, capsys):
    sampler = SimpleNamespace(batch_size=batch, left_out=())
    warn_before_training(FitConfig(steps=20), sampler, norm, Screen())
    assert ("batch norm works with the statistics of many" in " ".join(capsys.readouterr().err.split())) == warned


# --- cases that choose the weights ---


def test_selected_cases_choose_the_weights_and_are_not_trained_on(smoke, work, tmp_path, monkeypatch, bare_report):
    plan = Plan.read(smoke.stage("finetune") / "plan.yaml")
    plan = plan.model_copy(update={"sampling": plan.sampling.model_copy(update={"batch": 3})})
    (tmp_path / "plan.yaml").write_text(plan.as_yaml())
    config = small(
        "labelled=4",
        "selection=2",
        f"plan={{file: {tmp_path / 'plan.yaml'}}}",
        "fit={steps: 3, epoch_steps: 1, monitor: dice_mean}",
    )
    drawn: list[tuple[str, ...]] = []
    states: list[dict[str, torch.Tensor]] = []
    chosen_on: set[str] = set()
    scored = finetune_training.score_arms

    class Recording(PatchSampler):
        def batch(self, step, process=0, processes=1):
            batch = super().batch(step, process, processes)
            drawn.append(batch.keys)
            return batch

    def rigged(models, test, *arguments, folder, **options):
        """The second of the three epochs is the best."""
        if folder.name != "selection":
            return scored(models, test, *arguments, folder=folder, **options)
        ((arm, model),) = models.items()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        chosen_on.update(case.id for case in test.cases)
        dice = (0.2, 0.9, 0.1)[len(states) - 1]
        score = LabelScore(dice=dice, hd95=1.0, surface_dice=dice, volume_ml_prediction=1.0, volume_ml_reference=1.0)
        return {arm: {case.id: {"CSF": score} for case in test.cases}}

    monkeypatch.setattr(finetune_training, "PatchSampler", Recording)
    monkeypatch.setattr(finetune_training, "score_arms", rigged)
    finished = run_stage("finetune", config, tmp_path / "runs", Screen())

    dataset = open_dataset(config, Screen())
    labelled = labelled_subset(dataset.manifest, dataset.split.train, 4, config.split.order_salt(), "tissue")
    assert [len(keys) for keys in drawn] == [3, 3, 3], "the batch of the plan file"
    assert {case for keys in drawn for case in keys} == set(labelled[:2])
    assert chosen_on == set(labelled[2:])

    kept = load_artifact(finished.folder / "model-scratch")
    tensors = kept.tensors()
    assert all(torch.equal(tensors[name], states[1][name]) for name in tensors)
    assert any(not torch.equal(tensors[name], states[2][name]) for name in tensors)
    facts = kept.meta.provenance
    assert (facts["labelled"], facts["labelled_to_train_on"], facts["kept_step"]) == (4, 2, [2])
    assert facts["chosen_by"] == "dice_mean of 2 labelled subjects"
    assert kept.meta.seen == image_digests(dataset.subset(labelled)), "cases that choose have been seen"

    inputs = open_client().get_run(finished.result.run_id).inputs.dataset_inputs
    cases = {given.dataset.name.rpartition("-")[2]: json.loads(given.dataset.profile)["cases"] for given in inputs}
    assert cases == {"training": 2, "validation": 2, "testing": 2}


# --- lineage ---


@pytest.fixture(scope="module")
def by_run(smoke, tmp_path_factory):
    """A fine-tuning whose encoder is named by the run that made it."""
    folder = tmp_path_factory.mktemp("by-run")
    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(finetune, "make_report", lambda *_, **__: Report("Fine-tuning", ""))
        address = f"runs:/{smoke.result['stages']['pretrain']['run_id']}"
        return run_stage("finetune", small(f"encoder={address}", "scratch=false", "name=lineage"), folder, Screen())


def test_an_encoder_named_by_its_run_leaves_its_lineage(smoke, work, by_run):
    assert not by_run.skipped
    pretraining = smoke.result["stages"]["pretrain"]["run_id"]
    tags = open_client().get_run(by_run.result.run_id).data.tags
    assert tags["medae.input.encoder.run"] == pretraining
    assert tags["medae.input.encoder.digest"] == load_artifact(smoke.stage("pretrain") / "model").digest
    assert set(by_run.result.models) == {"pretrained"}
    assert load_artifact(by_run.folder / "model-pretrained").meta.provenance["encoder_run"] == pretraining


@pytest.mark.parametrize("address", ["models:/medae-smoke-pretrain@newest", "models:/medae-smoke-pretrain/1", "folder"])
def test_the_same_encoder_by_another_address_is_the_same_run(smoke, work, by_run, address):
    encoder = smoke.stage("pretrain") / "model" if address == "folder" else address
    again = run_stage(
        "finetune", small(f"encoder={encoder}", "scratch=false", "name=lineage"), by_run.folder.parent, Screen()
    )
    assert again.skipped
    assert again.result.run_id == by_run.result.run_id


def test_a_registered_encoder_leaves_its_lineage(smoke, work, tmp_path, bare_report):
    config = small("encoder=models:/medae-smoke-pretrain@newest", "scratch=false", "fit.steps=1", "name=registered")
    finished = run_stage("finetune", config, tmp_path, Screen())
    pretraining = smoke.result["stages"]["pretrain"]["run_id"]
    assert open_client().get_run(finished.result.run_id).data.tags["medae.input.encoder.run"] == pretraining
    assert load_artifact(finished.folder / "model-pretrained").meta.provenance["encoder_run"] == pretraining


def test_encoder_none_trains_from_scratch_alone(work, tmp_path, bare_report):
    content = to_dict(small("name=alone", "fit.steps=1")) | {"encoder": "models:/there-is-none@newest"}
    file = tmp_path / "named.yaml"
    file.write_text(json.dumps(content))
    done = CliRunner().invoke(app, ["finetune", str(file), "--encoder", "none", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert set(result["models"]) == set(result["metrics"]) == {"scratch"}
    tags = open_client().get_run(result["run_id"]).data.tags
    assert not [name for name in tags if name.startswith("medae.input")]
    (folder,) = (tmp_path / "alone").glob("finetune-*")
    assert "encoder_run" not in load_artifact(folder / "model-scratch").meta.provenance
    assert not (folder / "transfer.json").exists()


def test_none_in_a_file_means_no_encoder():
    assert small("encoder=none").encoder is None
    assert small("encoder=null").encoder is None


# --- folders of one's own: the baseline, labels, privacy ---

SIZE, CENTRE = 24, 11.5
NAMES = tuple(f"scan{number}" for number in range(6))
ORDER = ordered(NAMES, "medae-0:")
TEST, TRAIN = ORDER[:2], ORDER[2:]


def ball(radius: float) -> np.ndarray:
    squares = sum((axis - CENTRE) ** 2 for axis in np.indices((SIZE,) * 3))
    return (squares <= radius**2).astype(np.uint8)


def write_case(root: Path, name: str, label: np.ndarray) -> None:
    noise = np.random.default_rng(NAMES.index(name)).normal(100.0, 5.0, label.shape)
    for kind, array in (("image", (noise + 40.0 * label).astype(np.float32)), ("mask", label)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), root / kind / f"{name}.nii.gz")


def own_data(root: Path, *overrides: str) -> Config:
    source = f"data={{format: folder, root: '{root}', images: image, labels: mask, ids: names, label_names: {{1: ball}}}}"
    split = "split={seed: 0, test: 2, validation: 0}"
    return small(source, split, "target=label", "labelled=2", "name=own", "device=cpu", *overrides)


@pytest.fixture(scope="module")
def balls(tmp_path_factory, smoke):
    """A finished fine-tuning beside the central ball. The data lie outside the working folder."""
    root = tmp_path_factory.mktemp("Ward 7") / "balls"
    for name in NAMES:
        write_case(root, name, ball(3.0 if name in TEST else 5.0 if name in TRAIN[:2] else 9.0))
    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        config = own_data(root, "baseline=central_ball")
        return root, run_stage("finetune", config, tmp_path_factory.mktemp("runs"), Screen())


def test_the_central_ball_is_fitted_to_the_labelled_cases_and_scored_on_the_test_cases(balls):
    _, finished = balls
    metrics, facts = finished.result.metrics, finished.result.facts
    assert facts["central_ball_radius_mm"] == 5.0, "not that of the test cases, nor of those whose labels are not used"
    assert set(metrics) == {"scratch", "central ball"}
    assert set(metrics["central ball"]["cases"]) == set(metrics["scratch"]["cases"]) == set(TEST)
    small_ball, large_ball = int(ball(3.0).sum()), int(ball(5.0).sum())
    assert metrics["central ball"]["dice_mean"] == pytest.approx(2 * small_ball / (small_ball + large_ball))
    assert set(finished.result.models) == {"scratch"}, "a rule is no model"
    assert "central ball" in (finished.folder / "report.html").read_text()


def test_no_place_of_the_data_is_stored_with_the_run(balls, work, tmp_path):
    root, finished = balls
    assert str(root) in (finished.folder / "config.yaml").read_text(), "the user's own copy can be run again"
    client = open_client()
    run = client.get_run(finished.result.run_id)
    assert run.data.params["data.root"] == "<path>"
    stored = Path(
        mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=tmp_path, tracking_uri=client.tracking_uri)
    )
    files = [path for path in stored.rglob("*") if path.is_file()]
    assert "root: <path>" in (stored / "params.yaml").read_text()
    assert {"report.html", "result.json", "plan.yaml"} <= {path.name for path in files}
    assert "config.yaml" not in {path.name for path in files}
    places = (str(root).encode(), b"Ward 7", str(work).encode())
    assert not [path.name for path in files for place in places if place in path.read_bytes()]


def test_a_case_with_a_label_that_is_not_declared_is_left_out_and_named(tmp_path, work, capsys):
    root = tmp_path / "data"
    for name in NAMES:
        write_case(root, name, ball(5.0))
    label = ball(5.0)
    label[0, 0, 0] = 2
    write_case(root, TRAIN[1], label)
    finished = run_stage("finetune", own_data(root), tmp_path / "runs", Screen())
    assert f"{TRAIN[1]} left out: has labels that are not declared: 2" in " ".join(capsys.readouterr().err.split())
    assert TRAIN[1] not in (finished.folder / "result.json").read_text()


def test_the_configuration_beside_a_run_repeats_it(balls, work):
    """``config.yaml`` is written with every default: read again, it is the run that is there."""
    root, finished = balls
    again = validate(Config, read_config(str(finished.folder / "config.yaml"), "finetune"))
    assert to_yaml(again) == to_yaml(own_data(root, "baseline=central_ball"))
    assert run_stage("finetune", again, finished.folder.parent, Screen()).skipped
