"""What a detection promises: unseen test scans, a given model that is only applied, and normals without a lesion."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from detections import TINY
from pictures import leave_blank
from scipy.ndimage import binary_dilation
from stored import stored_model

from medae.anomaly.calibration import calibrate
from medae.anomaly.detector import Scoring
from medae.artifact import load_artifact
from medae.config import validate
from medae.errors import ConfigError, DataError
from medae.preprocessing.sampling import PatchSampler
from medae.preprocessing.store import Store
from medae.report.html import Report
from medae.tracking.client import open_client
from pipelines import detect, detect_scoring, detect_scratch, pretrain
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import image_digests, open_dataset
from pipelines.detect import Config
from pipelines.detect_given import check_given, given_in_words, origin_of
from pipelines.detect_scoring import lesion_free
from pipelines.outcome import Finished
from pipelines.stage import run_stage

SMALL = (
    *TINY,
    "experiment=promises",
    "split.test=2",
    "validation_batches=2",
    "fit={steps: 4, epoch_steps: 4}",
)


def small(*overrides: str) -> Config:
    return validate(Config, read_config("phantoms", "detect", [*SMALL, *overrides]))


def lesion_of(folder: Path, case: str) -> np.ndarray:
    return np.asarray(nib.load(folder / "runs" / "smoke-phantoms" / case / "anat" / f"{case}_lesion.nii.gz").dataobj) > 0


def brain_of(folder: Path, case: str) -> np.ndarray:
    return np.asarray(nib.load(folder / "runs" / "smoke-phantoms" / case / "anat" / f"{case}_T1w.nii.gz").dataobj) != 0


@pytest.fixture
def work(smoke, monkeypatch) -> Path:
    """The smoke run's working folder: its phantoms, its cache and its store are used again."""
    monkeypatch.chdir(smoke.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return smoke.folder


# --- a given model ---


def test_a_model_that_has_seen_a_test_scan_is_refused_with_its_id(smoke, work, tmp_path):
    config = small(f"model={smoke.stage('detect') / 'model'}", "split.salt='b:'")
    assert set(open_dataset(config, Screen()).split.test) == {"sub-phantom001", "sub-phantom002"}
    with pytest.raises(DataError, match="1 of 2 test scans") as caught:
        run_stage("detect", config, tmp_path, Screen())
    assert "sub-phantom001" in caught.value.what, "a normal scan that it was trained on"
    assert "sub-phantom002" not in caught.value.what, "a test scan then as well"
    assert not list(tmp_path.rglob("model"))
    assert not list(tmp_path.rglob("maps"))


def test_a_model_that_was_calibrated_on_a_test_scan_is_refused(smoke, work, tmp_path):
    given = load_artifact(smoke.stage("detect") / "model")
    config = small(f"model={given.folder}", "split.salt='calibrated:8'")
    test = open_dataset(config, Screen()).subset(open_dataset(config, Screen()).split.test)
    validation = open_dataset(small(), Screen()).split.validation
    known = [case.id for case in test.cases if case.id in validation and not lesion_of(work, case.id).any()]
    assert known == ["sub-phantom005"]
    with pytest.raises(DataError, match="test scans") as caught:
        run_stage("detect", config, tmp_path, Screen())
    assert "sub-phantom005" in caught.value.what


def test_a_detector_that_has_learnt_from_a_calibration_scan_is_refused(smoke, work, tmp_path):
    given = load_artifact(smoke.stage("detect") / "model").meta
    config = small(f"model={smoke.stage('detect') / 'model'}", "split={salt: 'learnt:59', test: 1, validation: 3}")
    split = open_dataset(config, Screen()).split
    before = open_dataset(small(), Screen()).split
    assert set(split.test) <= set(before.test) and set(split.validation) & set(before.train)
    assert set(given.calibrated) and not set(given.calibrated) & set(given.learnt)
    with pytest.raises(DataError, match="model has learnt from 1 of 2 calibration scans: sub-phantom001"):
        run_stage("detect", config, tmp_path, Screen())
    compared = f"scoring.map={{kind: perceptual, features: {smoke.stage('detect') / 'model'}}}"
    with pytest.raises(DataError, match="features 1 has learnt from 1 of 3 calibration scans: sub-phantom001"):
        run_stage("detect", small(compared, "split={salt: 'learnt:59', test: 1, validation: 3}"), tmp_path, Screen())
    assert not list(tmp_path.rglob("model"))


def test_an_encoder_that_compares_has_not_seen_a_test_scan_and_travels_with_the_detector(smoke, work, tmp_path):
    compared = f"scoring.map={{kind: perceptual, features: {smoke.stage('detect') / 'model'}}}"
    with pytest.raises(DataError, match="features 1 has seen 1 of 2 test scans"):
        run_stage("detect", small(compared, "split.salt='b:'"), tmp_path, Screen())
    finished = run_stage("detect", small(compared, "name=compared"), tmp_path, Screen())
    artifact = load_artifact(finished.folder / "model")
    own = load_artifact(smoke.stage("detect") / "model")
    kept = artifact.meta.calibration["scoring"]["map"]["features"]
    assert kept["kind"] == "encoder" and kept["encoder"]["widths"] == list(own.meta.network.encoder.widths)
    weights, statistics = own.tensors(), artifact.statistics()
    name = "encoder.levels.0.0.conv.weight"
    assert torch.equal(statistics[f"extractor.{name}"], weights[name])


def test_a_segmenter_is_no_model_of_normal_anatomy(smoke, work, tmp_path):
    with pytest.raises(ConfigError, match="segmenter"):
        run_stage("detect", small(f"model={smoke.stage('finetune') / 'model-scratch'}"), tmp_path, Screen())
    assert not list(tmp_path.rglob("model"))


@pytest.fixture(scope="module")
def given(smoke, tmp_path_factory) -> Finished:
    """A detection by the model that the smoke run registered; the configuration's own network and objective are others."""

    def train(*_, **__):
        raise AssertionError("a model was given, and yet one is trained")

    config = small(
        "model=models:/medae-smoke-detect@newest",
        "network={kind: autoencoder}",
        "objective={kind: reconstruction}",
        "name=given",
    )
    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(detect, "train", train)
        return run_stage("detect", config, tmp_path_factory.mktemp("given"), Screen())


def test_a_given_model_is_not_trained_and_scores_as_it_did(smoke, given):
    assert not list(given.folder.rglob("checkpoints"))
    before, after = (load_artifact(place / "model") for place in (smoke.stage("detect"), given.folder))
    assert after.meta.network == before.meta.network
    assert after.meta.plan == before.meta.plan
    a, b = before.tensors(), after.tensors()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert given.result.metrics["detector"] == smoke.result["metrics"]["detect"]["detector"]


def test_a_given_models_numbers_are_logged_at_step_zero(work, given):
    client = open_client()
    run = client.get_run(given.result.run_id)
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    assert {"detector/test/average_precision_pooled", "intensity/test/dice_mean"} <= set(names)
    assert {point.step for name in names for point in client.get_metric_history(run.info.run_id, name)} == {0}
    contexts = {tag.value for used in run.inputs.dataset_inputs for tag in used.tags if tag.key == "mlflow.data.context"}
    assert contexts == {"training", "validation", "testing"}, "the voxel-wise baseline learns from training scans"


def test_a_given_models_origin_is_kept(smoke, work, given):
    before, after = (load_artifact(place / "model").meta for place in (smoke.stage("detect"), given.folder))
    training = smoke.result["stages"]["detect"]["run_id"]
    assert after.provenance["model_run"] == training
    assert after.provenance["objective"] == "denoising", "that of the model, not of the configuration"
    assert after.provenance["run_id"] == given.result.run_id
    assert after.provenance["normals"] == after.provenance["learnt_from"] == given.result.facts["learnt_from"]
    assert set(before.seen) <= set(after.seen)
    assert after.calibrated == before.calibrated, "the same scans again"
    tags = open_client().get_run(given.result.run_id).data.tags
    assert tags["medae.input.model.run"] == training
    assert tags["medae.input.model.digest"] == load_artifact(smoke.stage("detect") / "model").digest
    page = (given.folder / "report.html").read_text()
    assert "It learnt from scans without a lesion; the threshold was set here, on scans without a lesion." in page
    assert "The model was given" not in (smoke.stage("detect") / "report.html").read_text()
    assert "Training of the autoencoder" not in page
    assert "Training of the autoencoder" in (smoke.stage("detect") / "report.html").read_text()


def test_what_scoring_keeps_on_disk_is_removed_and_a_small_disk_is_refused_first(smoke, work, tmp_path, monkeypatch):
    draws = "scoring={map: {kind: residual, place: {}, draws: {number: 2, noise: 0.5, cell: 4}}}"
    config, seen = small(f"model={smoke.stage('detect') / 'model'}", draws, "name=scratch"), {}

    def estimated(*arguments):
        seen["needed"] = estimate(*arguments)
        return seen["needed"]

    def scored(scorer, *arguments):
        seen["before"] = [path.name for path in scorer.scratch.iterdir() if path.name.startswith("left")]
        result = score(scorer, *arguments)
        seen["size"] = sum(path.stat().st_size for path in scorer.scratch.iterdir())
        return result

    score, estimate = detect_scoring.Scorer.score, detect_scratch.scratch_bytes
    monkeypatch.setattr(detect_scoring.Scorer, "score", scored)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(DataError, match="disk is too small: reconstructions and maps") as caught:
            run_stage("detect", config, tmp_path, Screen())
        assert "size" not in seen and "--out" in str(caught.value.remedy)
    (folder,) = tmp_path.glob("detect-????????")
    (folder / "scratch").mkdir()
    (folder / "scratch" / "left-by-a-killed-run.npy").write_bytes(b"x")
    monkeypatch.setattr(detect_scratch, "scratch_bytes", estimated)
    run_stage("detect", config, tmp_path, Screen())
    assert seen["before"] == [] and not (folder / "scratch").exists()
    assert seen["size"] <= seen["needed"] <= 1.2 * seen["size"]


# --- slices of patients as normals ---


class Slices:
    """What a detection on lesion-free slices drew, and what it counted for the threshold."""

    def __init__(self) -> None:
        self.samplers: list[PatchSampler] = []
        self.drawn: list[tuple[str, torch.Tensor]] = []
        self.masks: list[np.ndarray] = []
        self.subjects: list[str] = []


@pytest.fixture(scope="module")
def sliced(smoke, tmp_path_factory) -> tuple[Slices, Finished]:
    seen = Slices()

    class Recording(PatchSampler):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            seen.samplers.append(self)

        def batch(self, step, process=0, processes=1):
            batch = super().batch(step, process, processes)
            seen.drawn.extend(zip(batch.keys, batch.image, strict=True))
            return batch

    def counting(maps, masks, rate, *, subjects, **options):
        masks = list(masks)
        seen.masks, seen.subjects = masks, list(subjects)
        return calibrate(maps, masks, rate, subjects=subjects, **options)

    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(pretrain, "PatchSampler", Recording)
        patch.setattr(detect_scoring, "calibrate", counting)
        config = small("normals=lesion_free_slices", "name=slices")
        return seen, run_stage("detect", config, tmp_path_factory.mktemp("slices"), Screen())


def test_slices_are_scored_with_their_neighbours(smoke, work, tmp_path):
    config = small(
        "name=neighbours",
        "plan.slices=3",
        "objective.cell=4",
        "augmentation.flip=[0.5, 0]",
        "scoring={map: {kind: residual, draws: {number: 2, noise: 0.5, cell: 4}}, compare: {features: {kind: perceptual}}, "
        "flips: true}",
    )
    finished = run_stage("detect", config, tmp_path, Screen())
    artifact = load_artifact(finished.folder / "model")
    assert artifact.meta.plan.space.slices == 3
    assert artifact.meta.provenance["mirrored"] == [0]
    assert artifact.meta.network.encoder.in_channels == 3
    assert artifact.tensors()["head.weight"].shape[0] == 1, "it answers for one slice"
    assert {"detector", "features", "intensity", "voxelwise"} <= set(finished.result.metrics)


def slice_of(store: Store, case: str, patch: torch.Tensor) -> int:
    """The slice that a patch shows: patches are larger than the phantoms, so it shows all of it, zeros around it."""
    image = np.asarray(store[case].image)[0]
    low = [(size - have) // 2 for size, have in zip(patch.shape[1:], image.shape[:2], strict=True)]
    shown = patch[0, low[0] : low[0] + image.shape[0], low[1] : low[1] + image.shape[1]].numpy()
    (number,) = [k for k in range(image.shape[2]) if np.array_equal(image[:, :, k], shown)]
    return number


def test_no_slice_with_a_lesion_is_ever_drawn(smoke, work, sliced):
    seen, _ = sliced
    training, validation = seen.samplers
    store = training.store
    sick = [case for case in training.case_ids if (store[case].targets["lesion"] != 0).any()]
    assert len(training.case_ids) == 6
    assert len(sick) == 3, "patients' slices are used, not only healthy scans"
    assert set(validation.case_ids) == {"sub-phantom005", "sub-phantom006"}
    drawn = [(case, slice_of(store, case, patch)) for case, patch in seen.drawn]
    assert len(drawn) == 4 * 8 + 2 * 8
    assert {case for case, _ in drawn} >= set(sick)
    assert not [place for place in drawn if store[place[0]].targets["lesion"][0, :, :, place[1]].any()]
    unrestricted = PatchSampler(store, sick, store.space, training.config, 0)
    batches = [unrestricted.batch(step) for step in range(4)]
    others = [
        (case, slice_of(store, case, patch))
        for batch in batches
        for case, patch in zip(batch.keys, batch.image, strict=True)
    ]
    assert any(store[case].targets["lesion"][0, :, :, number].any() for case, number in others), "it would have been"


def test_the_threshold_counts_lesion_free_slices_only(smoke, work, sliced):
    seen, finished = sliced
    assert set(seen.subjects) == {"sub-phantom005", "sub-phantom006"}
    assert sum(lesion_of(work, subject).any() for subject in seen.subjects) == 1
    for subject, mask in zip(seen.subjects, seen.masks, strict=True):
        sick = lesion_of(work, subject).any(axis=(0, 1))
        clean = ~binary_dilation(sick)  # the filter sees one slice on each side
        assert np.array_equal(mask, brain_of(work, subject) & clean)
        assert clean.any()
    calibration = finished.result.facts["calibration"]["detector"]
    assert calibration["normals"] == "lesion_free_slices"
    assert (calibration["n_scans"], calibration["n_subjects"]) == (2, 2)
    assert "lesion-free slices of patients, phantoms" in calibration["cohort"]
    assert calibration["achieved_mean"] <= 0.01


def test_lesion_free_is_a_whole_slice_by_hand():
    lesion = np.zeros((2, 3, 4), np.uint8)
    lesion[1, 0, 2] = 5
    for axis, place in ((0, 1), (1, 0), (2, 2)):
        free = lesion_free(lesion, axis)
        assert free.shape == lesion.shape
        assert not np.take(free, place, axis).any()
        assert np.delete(free, place, axis).all()
    seen = lesion_free(lesion, 2, slices=3)
    assert [bool(seen[:, :, k].all()) for k in range(4)] == [True, False, False, False], "what sees it is left out with it"


def test_the_report_says_that_normals_are_slices_of_patients(sliced):
    _, finished = sliced
    page = (finished.folder / "report.html").read_text()
    assert "lesion-free slices of patients, not healthy people" in page
    assert "False positives in the mask" in page
    assert "AUPRC, pooled, before filters and erosion" in page
    meta = load_artifact(finished.folder / "model").meta
    assert meta.provenance["normals"] == finished.result.facts["normals"] == "lesion_free_slices"
    assert meta.calibration["normals"] == "lesion_free_slices"


def test_the_numbers_without_the_filter_are_in_the_result(sliced):
    _, finished = sliced
    for row in ("detector", "intensity", "voxelwise"):
        metrics = finished.result.metrics[row]
        assert 0 < metrics["average_precision_unfiltered"] <= 1
        assert metrics["average_precision_unfiltered"] != metrics["average_precision_pooled"]
        assert 0 <= metrics["false_positive_rate_mean"] <= 1


def test_a_detector_has_seen_the_scans_that_its_threshold_rests_on(work, sliced):
    _, finished = sliced
    dataset = open_dataset(small(), Screen())
    used = dataset.subset([*dataset.split.train, *dataset.split.validation])
    meta = load_artifact(finished.folder / "model").meta
    assert meta.seen == image_digests(used)
    assert meta.calibrated == image_digests(dataset.subset(dataset.split.validation))
    assert meta.learnt == image_digests(dataset.subset(dataset.split.train))


def test_mirror_images_need_a_model_that_was_shown_some(tmp_path):
    with pytest.raises(ConfigError, match=r"set augmentation\.flip"):
        small("scoring.flips=true")
    assert small("scoring.flips=true", "augmentation.flip=[0.5, 0]").augmentation.mirrored == (0,)
    shown, not_shown = (
        stored_model(tmp_path / name, "autoencoder", provenance={"mirrored": axes})
        for name, axes in (("shown", [0]), ("not-shown", []))
    )
    check_given(shown, Scoring(flips=True), "lesion_free_scans")
    with pytest.raises(ConfigError, match="shown no mirror images"):
        check_given(not_shown, Scoring(flips=True), "lesion_free_scans")
    assert origin_of(shown)["mirrored"] == [0]


def test_what_a_given_model_learnt_from_is_its_own_record(tmp_path):
    of_slices = {"normals": "lesion_free_scans", "learnt_from": "lesion_free_slices"}
    detector = stored_model(tmp_path / "detector", "autoencoder", kind="detector", provenance=of_slices)
    assert origin_of(detector)["learnt_from"] == "lesion_free_slices", "not what its threshold was set on"
    pretrained = origin_of(stored_model(tmp_path / "pretrained", "autoencoder"))
    assert pretrained["learnt_from"] == "all_scans"
    said = (
        "The model was given. It learnt from all scans of its pretraining, with lesions where they have some; the threshold "
        "was set here, on scans without a lesion."
    )
    assert given_in_words(pretrained, "lesion_free_scans", "batch") == said
    hidden = given_in_words(pretrained, "lesion_free_scans", "instance")
    assert hidden.startswith(said) and "hides how bright a lesion is" in hidden


def test_a_model_that_is_trained_here_has_batch_norm_where_no_other_is_named():
    assert small().network["encoder"]["norm"] == "batch"
    assert small("network.encoder.norm=group").network["encoder"] == {"norm": "group"}
    assert small("network.encoder={block: plain}").network["encoder"] == {"norm": "batch", "block": "plain"}
    with pytest.raises(ConfigError, match="The encoder is a set of keys, not 'batch'"):
        small("network.encoder=batch")


def test_slices_need_a_plan_of_slices():
    volume = "plan={spatial_dims: 3, widths: [4, 8], patch: [24, 24, 24]}"
    with pytest.raises(ConfigError, match="lesion_free_slices needs a plan of slices"):
        small(volume, "normals=lesion_free_slices")


def test_scans_with_a_lesion_are_not_normal(work, tmp_path, monkeypatch):
    """Where no validation scan is without a lesion there is no threshold, and that is said before anything is trained."""
    monkeypatch.setattr(detect, "train", lambda *_, **__: pytest.fail("trained without a scan to calibrate on"))
    monkeypatch.setattr(detect, "make_report", lambda *_, **__: Report("", ""))
    with pytest.raises(DataError, match="None of 1 scans is without a lesion"):
        run_stage("detect", small("split={salt: 'sick:1', test: 2, validation: 1}"), tmp_path, Screen())


def test_validation_scans_without_a_voxel_that_counts_are_known_before_training(work, tmp_path, monkeypatch, capsys):
    def train(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(detect, "train", train)
    with pytest.raises(DataError, match="Not one of 1 validation scans has a voxel to set a threshold on"):
        run_stage("detect", small("scoring.postprocessing.erode=40"), tmp_path, Screen())
    sliced = ("normals=lesion_free_slices", "scoring.postprocessing.gaussian=[60, 0, 0]")  # which sees every slice
    config = small(*sliced)
    validation = open_dataset(config, Screen()).split.validation
    sick = [case for case in validation if lesion_of(work, case).any()]
    assert len(sick) == 1 and len(validation) == 2
    capsys.readouterr()
    with pytest.raises(InterruptedError):
        run_stage("detect", config, tmp_path, Screen())
    said = capsys.readouterr().err
    assert said.count("does not count for the threshold") == 1 and f"{sick[0]} does not count" in said
    learned = small(*sliced, "scoring.scan_score.kind=learned", "split.validation=3")
    with pytest.raises(ConfigError, match="normal validation subjects do not say"):
        run_stage("detect", learned, tmp_path, Screen())
