"""Prediction of many scans: nothing twice, nothing lost, several models, every form of results, scans of another kind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medae.artifact import ArtifactMeta, load_artifact, save_artifact
from medae.data.bids import BIDSSource
from medae.errors import ArtifactError, ConfigError, DataError
from medae.export.at_work import Segmenting
from medae.formats.itk import read_itk
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.preprocessing.domain import Domain
from pipelines import predict
from pipelines.inputs import Scan
from pipelines.networks import network_config, seeded_network
from pipelines.predict_output import Writer

LABELS = {0: "background", 1: "one", 2: "two"}
AFFINE = np.diag([-1.0, 1.0, 1.0, 1.0])
DOMAIN = Domain(scans=2, modalities=("MR",), spacing=((1.0, 1.0),) * 3, extent=((8.0, 12.0),) * 3, reached={1: (), 2: ()})


def make_model(folder: Path, seed: int = 0, channels: tuple[str, ...] = ("T1w",), **facts) -> Path:
    labels = facts.pop("labels", LABELS)
    plan = Plan(
        space=SpacePlan(channels=channels, foreground="all"),
        network=NetworkPlan(widths=(4, 4), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3), (3, 3, 3))),
        sampling=SamplingPlan(patch=(8, 8, 8)),
    )
    model = seeded_network(network_config({"kind": "unet"}, plan, classes=len(labels)), seed)
    meta = {"kind": "segmenter", "network": model.config, "plan": plan, "target": "label", "labels": labels, **facts}
    save_artifact(folder, model, ArtifactMeta(**meta))
    return folder


def put(path: Path, number: int = 0, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).uniform(1, 99, (size, size, size)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return path


@pytest.fixture
def world(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    for number in range(3):
        put(tmp_path / "scans" / f"s{number}.nii.gz", number)
    return tmp_path


def predicted(world: Path, source: str = "scans", output: str = "out", model: str = "model", **options):
    return predict.run(str(world / model), world / source, world / output, {"device": "cpu", **options})


def stop_at_the_third(monkeypatch):
    """Ctrl-C while the third scan is predicted. Returns how it is predicted otherwise, and what it was called with."""
    whole, count = Segmenting._apply, []

    def stopped(self, given):
        count.append(given)
        if len(count) == 3:
            raise KeyboardInterrupt
        return whole(self, given)

    monkeypatch.setattr(Segmenting, "_apply", stopped)
    return whole, count


def test_what_is_done_is_not_done_again(world: Path, monkeypatch, capsys):
    first = predicted(world)
    assert set(first["cases"]) == {"s0", "s1", "s2"} and first["cases"]["s0"]["files"] == ["s0.nii.gz"]
    stamps = {path.name: path.stat().st_mtime_ns for path in (world / "out").glob("*.nii.gz")}
    done = []
    whole = Segmenting._apply
    monkeypatch.setattr(Segmenting, "_apply", lambda self, given: done.append(given) or whole(self, given))
    assert predicted(world) == first and not done
    assert "3 of 3 scans done (3 of them before)" in capsys.readouterr().out
    put(world / "scans" / "s1.nii.gz", 7)  # another scan of that name
    (world / "out" / "s2.nii.gz").unlink()
    put(world / "scans" / "s3.nii.gz", 3)
    again = predicted(world)
    assert len(done) == 3 and set(again["cases"]) == {"s0", "s1", "s2", "s3"}
    assert (world / "out" / "s0.nii.gz").stat().st_mtime_ns == stamps["s0.nii.gz"]


def test_a_run_that_was_stopped_goes_on(world: Path, monkeypatch):
    _, count = stop_at_the_third(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predicted(world)
    assert not (world / "out" / "result.json").exists() and (world / "out" / ".result.jsonl").is_file()
    assert not list((world / "out").glob(".new-*")), "nothing is left half written"
    count.clear()
    result = predicted(world)
    assert set(result["cases"]) == {"s0", "s1", "s2"} and 1 <= len(count) <= 2
    assert not (world / "out" / ".result.jsonl").exists()


def test_results_of_another_model_and_files_of_unknown_origin_stay(world: Path):
    put(world / "out" / "s1.nii.gz")
    before = (world / "out" / "s1.nii.gz").read_bytes()
    with pytest.raises(DataError, match="no run has recorded") as caught:
        predicted(world)
    assert "s1.nii.gz" in str(caught.value)
    assert (world / "out" / "s1.nii.gz").read_bytes() == before and not (world / "out" / "s0.nii.gz").exists()
    predicted(world, force=True)
    make_model(world / "other", 1)
    with pytest.raises(DataError, match="results of another model"):
        predicted(world, model="other")
    assert predicted(world, model="other", force=True)["models"] == [load_artifact(world / "other").digest]


def test_several_models_are_averaged_and_their_disagreement_is_written(world: Path):
    make_model(world / "other", 1)
    alone = [predicted(world, output=name, model=name)["cases"]["s0"]["volume_ml"] for name in ("model", "other")]
    result = predicted(world, models=[str(world / "other")])
    case = result["cases"]["s0"]
    assert case["files"] == ["s0.nii.gz", "s0_disagreement.nii.gz"] and len(result["models"]) == 2
    disagreement = nib.load(world / "out" / "s0_disagreement.nii.gz")
    values = disagreement.get_fdata()
    assert np.array_equal(disagreement.affine, AFFINE) and 0 <= values.min() < values.max() <= 1
    labels = [np.asarray(nib.load(world / name / "s0.nii.gz").dataobj) for name in ("model", "other", "out")]
    same = labels[0] == labels[1]
    assert same.any() and not same.all() and np.array_equal(labels[2][same], labels[0][same])
    assert alone[0] != alone[1]
    twice = predicted(world, output="twice", models=[str(world / "model")])
    assert twice["cases"]["s0"]["disagreement_mean"] == pytest.approx(0, abs=1e-6)
    assert np.array_equal(nib.load(world / "twice" / "s0.nii.gz").dataobj, labels[0])


def test_another_model_s_files_never_pass_for_one_s_own(world: Path, monkeypatch):
    make_model(world / "other", 1)
    predicted(world)
    before = {path.name: path.read_bytes() for path in (world / "out").glob("*.nii.gz")}
    whole, _ = stop_at_the_third(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predicted(world, model="other", force=True)
    monkeypatch.setattr(Segmenting, "_apply", whole)
    assert not (world / "out" / "result.json").exists()
    with pytest.raises(DataError, match="results of another model"):
        predicted(world)
    predicted(world, force=True)
    assert {path.name: path.read_bytes() for path in (world / "out").glob("*.nii.gz")} == before


def test_a_write_that_failed_is_done_again(world: Path, monkeypatch):
    make_model(world / "other", 1)
    full = Writer.write

    def fails(self, scan, native, layers):
        full(self, scan, native, layers[:1])
        raise DataError("The disk is full.", where=scan.name)

    monkeypatch.setattr(Writer, "write", fails)
    with pytest.raises(DataError, match="3 of 3 scans failed"):
        predicted(world, models=[str(world / "other")])
    monkeypatch.setattr(Writer, "write", full)
    assert set(predicted(world, models=[str(world / "other")])["cases"]) == {"s0", "s1", "s2"}


def test_two_folders_into_one_and_a_scan_that_was_mended(world: Path):
    put(world / "more" / "m0.nii.gz", 8)
    first = predicted(world)
    both = predicted(world, "more")
    assert both["cases"] == {"m0": both["cases"]["m0"], **first["cases"]}
    assert set(predicted(world)["cases"]) == {"m0", "s0", "s1", "s2"}
    good = (world / "scans" / "s1.nii.gz").read_bytes()
    (world / "scans" / "s1.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 of 3 scans failed"):
        predicted(world)
    (world / "scans" / "s1.nii.gz").write_bytes(good)
    assert predicted(world)["cases"]["s1"] == first["cases"]["s1"]


@pytest.mark.parametrize("name", ["dataset.json", "cases.csv", "report.html"])
def test_files_of_a_folder_that_others_made_stay(world: Path, name: str):
    (world / "out").mkdir()
    (world / "out" / name).write_text("precious")
    with pytest.raises(DataError, match="no run has recorded"):
        predicted(world, to="nnunet")
    assert (world / "out" / name).read_text() == "precious"


def test_a_single_result_never_takes_the_place_of_another_scan(world: Path):
    before = (world / "scans/s1.nii.gz").read_bytes()
    for force in (False, True):
        with pytest.raises(DataError, match="there already") as refused:
            predicted(world, "scans/s0.nii.gz", "scans/s1.nii.gz", force=force)
        assert "--force" not in str(refused.value)
    assert (world / "scans/s1.nii.gz").read_bytes() == before
    predicted(world, "scans/s0.nii.gz", "scans/s0_label.nii.gz")
    make_model(world / "other", seed=1)
    first = (world / "scans/s0_label.nii.gz").read_bytes()
    predicted(world, "scans/s0.nii.gz", "scans/s0_label.nii.gz", "other", force=True)
    assert (world / "scans/s0_label.nii.gz").read_bytes() != first, "what medae made may be replaced"
    with pytest.raises(ConfigError, match="name is that of a file"):
        predicted(world, "scans/s0.nii.gz", "out.nrrd", to="nrrd")


def test_what_fails_for_one_reason_is_said_once(world: Path):
    for name in ("x", "y"):
        (world / "bad").mkdir(exist_ok=True)
        (world / "bad" / f"{name}.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 2 scans failed") as refused:
        predicted(world, "bad")
    assert "No scan was predicted" in str(refused.value)


def test_results_of_two_scans_never_have_one_name(world: Path):
    for name in ("sub-01_T1w", "sub-01_FLAIR"):
        put(world / "flat" / f"{name}.nii.gz")
    with pytest.raises(DataError, match="both be called sub-01_dseg"):
        predicted(world, "flat", to="bids")
    image = nib.load(world / "flat" / "sub-01_T1w.nii.gz")
    nib.save(image, world / "flat" / "sub-01_T1w.nii")
    with pytest.raises(DataError, match="both be called sub-01_T1w"):
        predicted(world, "flat")


def test_hashed_ids_stay_hashed_in_bids(world: Path):
    for name in ("Meier_Eva", "sub-MuellerHans_x"):
        put(world / "folder" / "image" / f"{name}.nii.gz", len(name))
    make_model(world / "model", channels=("image",))
    predicted(world, "folder", to="bids", format="folder")
    written = " ".join(str(path.relative_to(world / "out")) for path in (world / "out").rglob("*"))
    texts = " ".join(path.read_text() for path in (world / "out").rglob("*.json"))
    assert "Meier" not in written + texts and "Mueller" not in written + texts
    assert len(list((world / "out").glob("sub-*"))) == 2


def test_a_derivative_goes_where_bids_has_it(world: Path):
    put(world / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", 5)
    (world / "bids" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    result = predicted(world, "bids", output="bids/derivatives/medae", to="bids")
    assert result["cases"]["sub-01"]["files"][0] == "sub-01/anat/sub-01_dseg.nii.gz"
    sidecar = json.loads((world / "bids/derivatives/medae/sub-01/anat/sub-01_dseg.json").read_text())
    assert sidecar["Sources"] == ["bids::sub-01/anat/sub-01_T1w.nii.gz"]


def test_a_damaged_picture_ends_no_run(world: Path):
    predicted(world)
    for path in (world / "out" / ".views").glob("*.json"):
        path.write_text("{")
    (world / "out" / ".views" / ".ranks.json").write_text("")
    put(world / "scans" / "s9.nii.gz", 9)
    assert len(predicted(world)["cases"]) == 4
    assert "s9" in (world / "out" / "report.html").read_text()


def test_every_model_of_several_is_asked(world: Path):
    make_model(world / "strict", 1, domain=DOMAIN.model_copy(update={"spacing": ((0.2, 0.2),) * 3}))
    with pytest.raises(DataError, match="Voxels are 1 mm"):
        predicted(world, models=[str(world / "strict")])


@pytest.mark.parametrize("facts", [{"labels": {0: "background", 1: "else", 2: "two"}}, {"channels": ("FLAIR",)}])
def test_models_of_other_tasks_are_not_averaged(world: Path, facts):
    make_model(world / "other", 1, **facts)
    with pytest.raises(ArtifactError, match="other labels or channels"):
        predicted(world, models=[str(world / "other")])


def test_files_in_the_numbers_of_nnunet_are_the_channels_of_scans(world: Path):
    make_model(world / "two", channels=("FLAIR", "T1w"))
    for number in (0, 1):
        put(world / "raw" / f"a_000{number}.nii.gz", number)
        put(world / "raw" / f"b_000{number}.nii.gz", 9 - number)
    assert set(predicted(world, "raw", model="two", to="nnunet")["cases"]) == {"a", "b"}
    said = json.loads((world / "out" / "dataset.json").read_text())
    assert said["channel_names"] == {"0": "FLAIR", "1": "T1w"} and said["labels"] == {"background": 0, "one": 1, "two": 2}
    with pytest.raises(DataError, match="channel 1 of a scan, and the model takes 1: T1w"):
        predicted(world, "raw", output="one")
    for number in (1, 2, 7):
        put(world / "amos" / f"amos_{number:04}.nii.gz", number)
    assert set(predicted(world, "amos", output="amos-out")["cases"]) == {"amos_0001", "amos_0002", "amos_0007"}


def test_a_channel_never_takes_the_place_of_another(world: Path):
    make_model(world / "two", channels=("FLAIR", "T1w"))
    for name, channel in (("a_0000", 0), ("a_0001", 1), ("b_0000", 0)):
        put(world / "raw" / f"{name}.nii.gz", channel)
    whole = predicted(world, "raw", model="two")
    assert "The scan lacks T1w." in whole["cases"]["b"]["remarks"]
    scan = Scan("c", files={"T1w": world / "raw" / "a_0001.nii.gz"})
    prepared = scan.prepare(load_artifact(world / "two").meta.plan.space, None, None)
    assert prepared.present.tolist() == [False, True]


def test_bids_in_bids_out(world: Path):
    for place in ("sub-01/ses-a/anat/sub-01_ses-a_acq-fast_T1w", "sub-02/anat/sub-02_T1w"):
        put(world / "bids" / f"{place}.nii.gz", 5)
    (world / "bids" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    result = predicted(world, "bids", to="bids")
    out, base = world / "out", "sub-01/ses-a/anat/sub-01_ses-a_acq-fast_dseg"
    assert result["cases"]["sub-01_ses-a"]["files"] == [f"{base}.nii.gz", f"{base}.json"]
    assert nib.load(out / "sub-02" / "anat" / "sub-02_dseg.nii.gz").shape == (10, 10, 10)
    said = json.loads((out / "dataset_description.json").read_text())
    assert said["DatasetType"] == "derivative" and said["GeneratedBy"][0]["Name"] == "medae"
    assert load_artifact(world / "model").digest[:12] in said["GeneratedBy"][0]["Description"]
    assert (out / "dseg.tsv").read_text() == "index\tname\n0\tbackground\n1\tone\n2\ttwo\n"
    assert json.loads((out / f"{base}.json").read_text())["LabelMap"] == {"one": 1, "two": 2}
    # what is written is found again as the label maps of the data set by its name, and never taken for references without
    (world / "bids" / "derivatives").mkdir()
    out.rename(world / "bids" / "derivatives" / "medae")
    assert not any(case.targets for case in BIDSSource(root=world / "bids").manifest().cases)
    manifest = BIDSSource(root=world / "bids", derivatives="medae").manifest()
    assert all("label" in case.targets for case in manifest.cases)
    assert not [each for each in manifest.findings if each.level == "error"]


def test_segmentations_for_slicer(world: Path):
    assert predicted(world, to="nrrd")["cases"]["s0"]["files"] == ["s0.seg.nrrd"]
    predicted(world, output="nifti")
    for number in range(3):
        again = read_itk(world / "out" / f"s{number}.seg.nrrd")
        plain = nib.load(world / "nifti" / f"s{number}.nii.gz")
        assert np.allclose(again.native.matrix(), plain.affine) and np.array_equal(again.array, np.asarray(plain.dataobj))


def test_dicom_is_for_scans_that_are_dicom(world: Path):
    with pytest.raises(DataError, match="3 of 3 scans failed"):
        predicted(world, to="dicom")
    failed = json.loads((world / "out" / "result.json").read_text())["failed"]
    assert all("this scan is no DICOM" in reason for reason in failed.values())
    assert not list((world / "out").glob("*.dcm"))


def test_a_scan_of_another_kind_is_refused_and_the_others_are_done(world: Path, capsys):
    make_model(world / "model", domain=DOMAIN)
    put(world / "scans" / "s1.nii.gz", 1, size=30)
    labels = np.random.default_rng(0).integers(0, 3, (10, 10, 10)).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, AFFINE), world / "scans" / "labels.nii.gz")
    hounsfield = np.random.default_rng(0).uniform(-1000, 900, (10, 10, 10)).astype(np.float32)
    nib.save(nib.Nifti1Image(hounsfield, AFFINE), world / "scans" / "ct.nii.gz")
    with pytest.raises(DataError, match="2 of 5 scans failed"):
        predicted(world)
    result = json.loads((world / "out" / "result.json").read_text())
    assert set(result["cases"]) == {"s0", "s1", "s2"}
    assert "it is a label map" in result["failed"]["labels"] and "as CT has" in result["failed"]["ct"]
    assert any("What is seen is 30 mm" in remark for remark in result["cases"]["s1"]["remarks"])
    assert any("reaches the" in remark for remark in result["cases"]["s0"]["remarks"]), "noise is segmented to the edges"
    shown = " ".join(capsys.readouterr().err.split())
    assert "What is seen is 30 mm from left to right, in the training scans 8 to 12 mm." in shown
    assert set(predicted(world, anyway=True)["cases"]) == {"s0", "s1", "s2", "labels", "ct"}


def test_a_scan_that_the_model_was_trained_with_is_named(world: Path):
    seen = hashlib.sha256((world / "scans" / "s2.nii.gz").read_bytes()).hexdigest()[:16]
    make_model(world / "model", seen=(seen,))
    result = predicted(world)
    assert [name for name, case in result["cases"].items() if predict.SEEN in case["remarks"]] == ["s2"]


def test_reading_ahead_changes_nothing(world: Path):
    one, three = predicted(world), predicted(world, output="ahead", workers=3)
    assert one["cases"] == three["cases"]


def test_memory_of_the_gpu_that_does_not_suffice_fails_a_scan_not_the_rest(world: Path, monkeypatch):
    whole, count = Segmenting._apply, []

    def small(self, given):
        count.append(given)
        if len(count) == 2:
            raise torch.OutOfMemoryError
        return whole(self, given)

    monkeypatch.setattr(Segmenting, "_apply", small)
    with pytest.raises(DataError, match="--device cpu"):
        predicted(world)
    assert set(json.loads((world / "out" / "result.json").read_text())["cases"]) == {"s0", "s2"}
