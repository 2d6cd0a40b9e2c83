"""What the labelled cases of a fine-tuning decide, and what they must not: the set of labels, who chooses the weights."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medae.artifact import load_artifact
from medae.config import validate
from medae.data.case import Case, ImageRef, Manifest
from medae.data.split import ordered
from medae.errors import ConfigError, DataError
from medae.training import checkpoint
from pipelines import finetune
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import open_dataset
from pipelines.finetune_members import shares_of
from pipelines.segmenting import label_names
from pipelines.stage import run_stage

NAMES = tuple(f"s{number}" for number in range(8))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MEDAE_DATA", "MEDAE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scans(folder: Path, labels: dict[str, tuple[int, ...]]) -> Path:
    """A table of scans of 12^3 voxels. labels: the values in a subject's label map, a slab each; without an entry, 1."""
    rows = []
    for number, name in enumerate(NAMES):
        image = np.random.default_rng(number).normal(50, 5, (12, 12, 12)).astype(np.float32)
        label = np.zeros((12, 12, 12), np.uint8)
        for place, value in enumerate(labels.get(name, (1,))):
            label[3 * place : 3 * place + 3, 2:10, 2:10] = value
        for kind, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}_{kind}.nii.gz")
        rows.append({"subject": name, "image": f"{name}_image.nii.gz", "label": f"{name}_label.nii.gz"})
    path = folder / "cases.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["subject", "image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def configured(path: Path, *overrides: str) -> finetune.Config:
    given = [f"data={{format: table, root: '{path}'}}", "split={test: 2, validation: 1}", "target=label", "encoder=none"]
    given += ["plan={widths: [4, 8], patch: [8, 8, 8], batch: 2}", "fit={steps: 2, epoch_steps: 1, schedule: {warmup: 1}}"]
    return validate(finetune.Config, read_config("phantoms", "finetune", [*given, *overrides]))


def test_the_set_of_labels_does_not_depend_on_which_cases_are_labelled(work: Path) -> None:
    """Nobody declared the labels; one subject has 2 alone, one has both, the others 1."""
    dataset = open_dataset(configured(scans(work, {"s0": (2,), "s1": (1, 2)})), Screen())
    every = {0: "background", 1: "label 1", 2: "label 2"}
    for name in ("s0", "s1", "s2"):
        assert label_names(dataset.subset([name]), "label") == every


def test_label_maps_of_nothing_are_refused_in_their_own_words(work: Path) -> None:
    with pytest.raises(DataError, match="hold nothing but background"):
        run_stage("finetune", configured(scans(work, dict.fromkeys(NAMES, ()))), work / "runs", Screen())


@pytest.mark.parametrize("selection", [5, 7, 10])
def test_more_cases_that_choose_than_are_labelled_are_refused(work: Path, selection: int) -> None:
    """Five training subjects, all of them labelled: ``labelled`` is not given."""
    config = configured(scans(work, {}), "labelled=null", f"selection={selection}", "fit.monitor=dice_mean")
    with pytest.raises(ConfigError, match=f"takes {selection} of 5 labelled"):
        run_stage("finetune", config, work / "runs", Screen())


def test_cases_that_choose_must_hold_something_to_be_found(work: Path) -> None:
    """Otherwise every answer is as good, and the first weights would be kept."""
    config = configured(scans(work, {}), "labelled=3", "selection=1", "fit.monitor=dice_mean")
    training = open_dataset(config, Screen()).split.train
    chooser = ordered(training, config.split.order_salt())[2]
    with pytest.raises(ConfigError, match="cases that choose the weights hold no voxel of 'label'"):
        run_stage(
            "finetune", config.model_copy(update={"data": configured(scans(work, {chooser: ()})).data}), work, Screen()
        )


# --- folds ---


def cases(*subjects: str) -> Manifest:
    ref = {"T1w": ImageRef(files=("a.nii.gz",), sha256="0" * 64, kind="intensity")}
    found = tuple(Case(id=f"{name}-{scan}", subject=name, images=ref) for name in subjects for scan in "ab")
    return Manifest(source="folder", root=Path("/data"), channels=("T1w",), cases=found)


def test_every_subject_is_held_out_once_with_all_its_scans_and_never_trained_on_there() -> None:
    shares = shares_of("scratch", 0, 1, 3, cases(*NAMES))
    assert [share.name for share in shares] == ["scratch-fold-1", "scratch-fold-2", "scratch-fold-3"]
    assert sorted(case.id for share in shares for case in share.held.cases) == sorted(c.id for c in cases(*NAMES).cases)
    for share in shares:
        subjects = [{case.subject for case in part.cases} for part in (share.training, share.held)]
        assert subjects[0] | subjects[1] == set(NAMES) and not subjects[0] & subjects[1]
        assert len(subjects[1]) in (2, 3)
    assert len({share.seed for share in shares}) == 3
    with pytest.raises(ConfigError, match="2 labelled subjects cannot be 3 folds"):
        shares_of("scratch", 0, 1, 3, cases("a", "b"))


@pytest.mark.parametrize("other", ["members=2", "unlabelled={kind: mean_teacher}", "labelled=3"])
def test_what_does_not_go_with_folds_is_refused(work: Path, other: str) -> None:
    with pytest.raises(ConfigError, match="folds"):
        configured(scans(work, {}), "fit.ema=0.9", "folds=4", other)


def test_folds_make_one_model_and_score_every_labelled_case_by_who_has_not_seen_it(work: Path) -> None:
    config = configured(scans(work, {}), "labelled=4", "folds=2", "fit.steps=3")
    finished = run_stage("finetune", config, work / "runs", Screen())
    out_of_fold = finished.result.facts["out_of_fold"]["scratch"]
    labelled = open_dataset(config, Screen()).split
    assert len(out_of_fold["cases"]) == 4 and not set(out_of_fold["cases"]) & set(labelled.test)
    artifact = load_artifact(finished.folder / "model-scratch")
    model = artifact.model()
    assert len(model.members) == 2
    for number, fold in enumerate(("scratch-fold-1", "scratch-fold-2")):
        stored = checkpoint.load(finished.folder / fold).tensors
        own = {name.removeprefix("ema/"): value for name, value in stored.items() if name.startswith("ema/")}
        assert all(torch.equal(artifact.tensors()[f"members.{number}.{name}"], value) for name, value in own.items())
    kept = {path.name.split(".")[0] for path in (finished.folder / "out-of-fold" / "scratch").glob("*.nii.gz")}
    assert kept == set(out_of_fold["cases"])
    assert "Out of fold" in (finished.folder / "report.html").read_text()


def test_with_folds_no_subject_has_to_be_spared_for_a_test(work: Path) -> None:
    path = scans(work, {})
    nobody = "split={test: 0, validation: 0}"
    with pytest.raises(DataError, match="has no subject"):
        run_stage("finetune", configured(path, nobody), work / "runs", Screen())
    config = configured(path, nobody, "labelled=8", "folds=2", "fit.steps=3", "baseline=central_ball")
    finished = run_stage("finetune", config, work / "runs", Screen())
    found = finished.result.metrics["scratch"]
    assert set(found["cases"]) == set(NAMES) and found == finished.result.facts["out_of_fold"]["scratch"]
    for name in NAMES:
        answer = nib.load(finished.folder / "predictions" / "scratch" / f"{name}.nii.gz").get_fdata() == 1
        truth = nib.load(work / f"{name}_label.nii.gz").get_fdata() == 1
        dice = 2 * (answer & truth).sum() / (answer.sum() + truth.sum())
        assert found["cases"][name]["label 1"]["dice"] == pytest.approx(dice)
    meta = load_artifact(finished.folder / "model-scratch").meta
    assert meta.provenance["scored"] == "out-of-fold" and meta.metrics["n_test"] == 8
    page = (finished.folder / "report.html").read_text()
    assert "segmented by the member that was trained without its label map" in page
    assert "central ball" in finished.result.metrics and "chosen on the very cases" in page
