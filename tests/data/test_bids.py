"""BIDS: sessions, suffixes, derivatives, participants, and their faults."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medae.data.bids import BIDSSource
from medae.data.case import ImageRef, Manifest
from medae.data.sources import AutoSource, open_manifest
from medae.errors import DataError


def table(manifest: Manifest) -> dict[str, tuple[list[str], list[str]]]:
    """Case id -> its channels and targets."""
    return {case.id: (list(case.images), list(case.targets)) for case in manifest.cases}


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


def test_bids(bids):
    manifest = auto(bids)
    assert (manifest.source, manifest.channels) == ("bids", ("FLAIR", "T1w"))
    assert table(manifest) == {
        "sub-01": (["FLAIR", "T1w"], ["label"]),
        "sub-02_ses-a": (["T1w"], []),
        "sub-02_ses-b": (["T1w"], []),
    }
    assert [(case.subject, case.session) for case in manifest.cases] == [
        ("sub-01", None),
        ("sub-02", "ses-a"),
        ("sub-02", "ses-b"),
    ]
    assert manifest.case("sub-01").covariates == {"age": 31.5, "sex": "F", "site": None}
    assert manifest.case("sub-02_ses-b").covariates == {"age": None, "sex": "M", "site": "London"}
    label = manifest.case("sub-01").targets["label"]
    assert isinstance(label, ImageRef)
    assert label.files == ("derivatives/atlas/sub-01/anat/sub-01_space-orig_dseg.nii.gz",)
    assert label.kind == "labels"


def test_bids_label_names_from_the_table(bids):
    (bids / "derivatives/atlas/dseg.tsv").write_text("index\tname\n0\tbackground\n47\thippocampus\n")
    assert auto(bids).labels == {"label": {0: "background", 47: "hippocampus"}}
    named = open_manifest(BIDSSource(root=bids, label_names={1: "other"}))
    assert named.labels == {"label": {1: "other"}}


@pytest.mark.parametrize("derivative", ["atlas", "fmriprep"])
def test_bids_brain_masks_are_a_target_of_their_own(bids, touch, derivative):
    file = f"derivatives/{derivative}/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    touch(bids, file)
    manifest = auto(bids)
    targets = manifest.case("sub-01").targets
    assert list(targets) == ["brain_mask", "label"]
    mask = targets["brain_mask"]
    assert isinstance(mask, ImageRef)
    assert (mask.kind, mask.files) == ("mask", (file,))
    assert manifest.labels == {"brain_mask": {0: "background", 1: "brain"}}
    for path in (bids / "derivatives").rglob("*_dseg.nii.gz"):
        path.unlink()
    assert list(auto(bids).case("sub-01").targets) == ["brain_mask"]


def test_bids_other_masks_are_named_after_what_they_are_of(bids, touch):
    touch(bids, "derivatives/atlas/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    touch(bids, "sub-01/anat/sub-01_label-lesion_mask.nii.gz")
    assert table(auto(bids))["sub-01"][1] == ["brain_mask", "label", "lesion_mask"]
    for path in (bids / "derivatives").rglob("*_dseg.nii.gz"):
        path.unlink()
    assert table(auto(bids))["sub-01"][1] == ["brain_mask", "label"]
    touch(bids, "sub-01/anat/sub-01_desc-csf_mask.nii.gz")
    assert table(auto(bids))["sub-01"][1] == ["brain_mask", "csf_mask", "lesion_mask"]


def test_bids_predictions_of_medae_are_no_references(bids, touch):
    """``medae predict --to bids`` may write among the derivatives of the set that it reads."""
    before = table(auto(bids))
    touch(bids, "derivatives/guess/sub-01/anat/sub-01_dseg.nii.gz", "derivatives/guess/sub-02/anat/sub-02_dseg.nii.gz")
    description = {"Name": "Predictions", "DatasetType": "derivative", "GeneratedBy": [{"Name": "medae", "Version": "1"}]}
    (bids / "derivatives/guess/dataset_description.json").write_text(json.dumps(description))
    manifest = auto(bids)
    assert table(manifest) == before
    (finding,) = [each for each in manifest.findings if each.code == "predictions"]
    assert (finding.level, finding.file) == ("warning", "derivatives/guess") and "derivatives: guess" in finding.remedy
    chosen = open_manifest(BIDSSource(root=bids, derivatives="guess")).case("sub-01").targets["label"]
    assert isinstance(chosen, ImageRef) and chosen.files[0].startswith("derivatives/guess/")


def test_bids_several_derivatives_have_to_be_chosen(bids, touch):
    touch(bids, "derivatives/other/sub-01/anat/sub-01_dseg.nii.gz")
    with pytest.raises(DataError, match="Several derivatives hold label maps: atlas, other"):
        auto(bids)
    chosen = open_manifest(BIDSSource(root=bids, derivatives="other")).case("sub-01").targets["label"]
    assert isinstance(chosen, ImageRef)
    assert chosen.files[0].startswith("derivatives/other/")
    assert not any(case.targets for case in open_manifest(BIDSSource(root=bids, derivatives="none")).cases)
    with pytest.raises(DataError, match=r"no derivative 'x'(.|\n)*atlas, fmriprep, other"):
        open_manifest(BIDSSource(root=bids, derivatives="x"))


def test_bids_several_images_of_a_suffix_need_patterns(bids, touch):
    touch(bids, "sub-01/anat/sub-01_ce-gd_T1w.nii.gz")
    manifest = auto(bids)
    assert list(table(manifest)) == ["sub-02_ses-a", "sub-02_ses-b"]
    assert [(found.case, found.code, found.role) for found in manifest.findings] == [
        ("sub-01", "ambiguous", "image T1w"),
        ("sub-01", "ambiguous", "image T1w"),
    ]
    assert "channels" in manifest.findings[0].remedy
    channels = {"T1": "sub-01_T1w", "T1gd": "*_ce-gd_T1w"}
    assert table(open_manifest(BIDSSource(root=bids, channels=channels))) == {"sub-01": (["T1", "T1gd"], ["label"])}


def test_bids_file_in_another_persons_folder(bids, touch):
    touch(bids, "sub-01/anat/sub-03_T2w.nii.gz")
    manifest = auto(bids)
    assert list(table(manifest)) == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    assert manifest.channels == ("FLAIR", "T1w")
    (finding,) = manifest.findings
    assert (finding.level, finding.code, finding.case) == ("error", "misplaced", "")
    assert finding.file == "sub-01/anat/sub-03_T2w.nii.gz"
    assert manifest.excluded == ()


def test_bids_without_images_of_the_datatype(bids):
    with pytest.raises(DataError, match=r"No image is found in sub-\*/ct"):
        open_manifest(BIDSSource(root=bids, datatype="ct"))


@pytest.mark.parametrize(
    "text",
    [
        "name\tage\nsub-01\t3",
        "participant_id,age\nsub-01,3",
        "participant_id\tage\tage\nsub-01\t1\t2",
        "participant_id\nsub-01\t5",
    ],
)
def test_bids_malformed_participants(bids, text):
    (bids / "participants.tsv").write_text(text)
    with pytest.raises(DataError, match=r"participants\.tsv"):
        auto(bids)


@pytest.mark.data
def test_real_covariates_and_label_files(data_root):
    manifest = open_manifest(BIDSSource(root=data_root / "ixi_t1", derivatives="dlmuse"))
    assert manifest.case("sub-IXI048").covariates == {"age": 50.65, "sex": "M"}
    label = manifest.case("sub-IXI048").targets["label"]
    assert isinstance(label, ImageRef)
    assert label.files == ("derivatives/dlmuse/sub-IXI048/anat/sub-IXI048_space-orig_dseg.nii.gz",)


def test_bids_label_maps_beside_the_images_and_chosen_by_pattern(bids, touch):
    touch(bids, "sub-01/anat/sub-01_desc-manual_dseg.nii.gz", "sub-01/anat/sub-01_defacemask.nii.gz")
    manifest = auto(bids)
    assert table(manifest)["sub-01"] == (["FLAIR", "T1w"], [])
    assert [(found.level, found.code, found.role) for found in manifest.findings] == [
        ("warning", "ambiguous", "target label")
    ] * 2
    assert "label_pattern" in manifest.findings[0].remedy
    touch(bids, "sub-01/anat/sub-01_desc-second_dseg.nii.gz")
    beside = open_manifest(BIDSSource(root=bids, derivatives="none"))
    assert beside.excluded == ("sub-01",), "those that a person put beside the images are an error"
    case = open_manifest(BIDSSource(root=bids, label_pattern="*_desc-manual_*", target_name="tumour")).case("sub-01")
    assert list(case.images) == ["FLAIR", "T1w"]
    label = case.targets["tumour"]
    assert isinstance(label, ImageRef)
    assert label.files == ("sub-01/anat/sub-01_desc-manual_dseg.nii.gz",)


def test_bids_malformed_label_table(bids):
    table_file = bids / "derivatives/atlas/dseg.tsv"
    table_file.write_text("index\tname\nall\tbrain\n")
    with pytest.raises(DataError, match=r"(?s)'index' holds more than whole numbers.*dseg\.tsv"):
        auto(bids)
    table_file.write_bytes("index\tname\n".encode("utf-16"))
    with pytest.raises(DataError, match="table cannot be read"):
        auto(bids)


def runs(root: Path, touch: Any, *names: str) -> Manifest:
    touch(root, *(f"sub-1/anat/sub-1_{name}.nii.gz" for name in names))
    return open_manifest(BIDSSource(root=root))


def test_runs_of_one_suffix_are_cases_and_share_what_has_no_run(tmp_path, touch):
    manifest = runs(tmp_path, touch, "run-1_T1w", "run-2_T1w", "run-1_dseg", "FLAIR")
    assert manifest.findings == ()
    assert table(manifest) == {"sub-1_run-1": (["FLAIR", "T1w"], ["label"]), "sub-1_run-2": (["FLAIR", "T1w"], [])}
    assert {case.subject for case in manifest.cases} == {"sub-1"}
    assert manifest.case("sub-1_run-2").images["T1w"].files == ("sub-1/anat/sub-1_run-2_T1w.nii.gz",)


def test_runs_of_different_suffixes_are_one_case(tmp_path, touch):
    manifest = runs(tmp_path, touch, "run-2_T1w", "run-1_FLAIR", "run-2_dseg")
    assert table(manifest) == {"sub-1": (["FLAIR", "T1w"], ["label"])}
    assert manifest.findings == ()


@pytest.mark.parametrize(
    ("images", "label", "code"),
    [
        (["run-1_T1w", "run-2_T1w"], "dseg", "entities"),
        (["run-1_T1w", "run-2_T1w"], "run-3_dseg", "entities"),
        (["run-2_T1w"], "run-1_dseg", "entities"),
        (["T1w"], "run-1_dseg", "entities"),
        (["acq-3d_T1w"], "acq-2d_dseg", "entities"),
        (["ce-gd_T1w"], "ce-gd_dseg", None),
        (["ce-gd_T1w"], "dseg", None),
        (["acq-3d_T1w", "FLAIR"], "acq-3d_desc-manual_dseg", None),
        (["T1w"], "space-MNI152NLin2009cAsym_dseg", None),
    ],
)
def test_a_label_map_belongs_to_images_of_its_entities(tmp_path, touch, images, label, code):
    manifest = runs(tmp_path, touch, *images, label)
    assert [(found.level, found.code, found.case) for found in manifest.findings] == ([("error", code, "")] if code else [])
    labelled = [case.id for case in manifest.cases if case.targets]
    assert labelled == (["sub-1"] if code is None and "space-MNI" not in label else [])


def test_channels_leave_label_maps_of_other_sessions_alone(bids):
    manifest = open_manifest(BIDSSource(root=bids, channels={"T1": "sub-02_*_T1w"}))
    assert list(table(manifest)) == ["sub-02_ses-a", "sub-02_ses-b"]
    assert [(found.level, found.code, found.case) for found in manifest.findings] == [("warning", "participants", "sub-01")]


def test_several_derivatives_by_name(bids, touch):
    touch(bids, "derivatives/other/sub-01/anat/sub-01_dseg.nii.gz")
    touch(bids, "derivatives/masks/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    manifest = open_manifest(BIDSSource(root=bids, derivatives=("other", "masks")))
    assert table(manifest)["sub-01"][1] == ["brain_mask", "label"]
    touch(bids, "derivatives/other/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    with pytest.raises(DataError, match="Several derivatives hold brain masks: masks, other"):
        open_manifest(BIDSSource(root=bids, derivatives=("other", "masks")))


def test_participants_and_files_that_do_not_meet_are_warnings(bids):
    rows = ["participant_id\tage", "sub-01\t30", "sub-03\t40", "sub-04\t1", "sub-04\t2"]
    (bids / "participants.tsv").write_text("\n".join(rows))
    manifest = auto(bids)
    assert {found.level for found in manifest.findings} == {"warning"}
    assert [(found.case, found.problem.split(" participants.tsv")[0]) for found in manifest.findings] == [
        ("sub-02_ses-a", "has no row in"),
        ("sub-02_ses-b", "has no row in"),
        ("sub-03", "has a row in"),
        ("sub-04", "has two rows in"),
        ("sub-04", "has a row in"),
    ]
    assert [case.covariates for case in manifest.cases] == [{"age": 30.0}, {}, {}]


def test_a_participant_with_two_rows_has_no_covariates(bids):
    (bids / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-01\t31\nsub-02\t5\n")
    assert [case.covariates for case in auto(bids).cases] == [{}, {"age": 5.0}, {"age": 5.0}]


def test_columns_of_sessions_go_before_those_of_participants(bids):
    (bids / "sub-02/sub-02_sessions.tsv").write_text("session_id\tage\tscanner\nses-a\t40\tX\nb\tn/a\tY\n")
    manifest = auto(bids)
    assert manifest.case("sub-02_ses-a").covariates == {"age": 40.0, "sex": "M", "site": "London", "scanner": "X"}
    assert manifest.case("sub-02_ses-b").covariates == {"age": None, "sex": "M", "site": "London", "scanner": "Y"}
    (bids / "sub-02/sub-02_sessions.tsv").write_text("age\n40\n")
    (finding,) = auto(bids).findings
    assert (finding.level, finding.code, finding.case) == ("warning", "sessions", "sub-02")


FMRIPREP = (
    "desc-preproc_T1w",
    "desc-brain_mask",
    "dseg",
    "desc-aseg_dseg",
    "desc-aparcaseg_dseg",
    "label-CSF_probseg",
    "space-MNI152NLin2009cAsym_res-2_desc-brain_mask",
    "space-MNI152NLin2009cAsym_res-2_dseg",
)


def fmriprep(root: Path, touch: Any, *folders: str) -> Path:
    """What fMRIPrep leaves in the folders, such as ``sub-1`` or ``sub-1/ses-a``, and the tables of its label maps."""
    base = "derivatives/fmriprep"
    for folder in folders:
        touch(root, *(f"{base}/{folder}/anat/{folder.replace('/', '_')}_{name}.nii.gz" for name in FMRIPREP))
    (root / base / "desc-aseg_dseg.tsv").write_text("index\tname\n0\tUnknown\n10\tLeft-Thalamus-Proper\n")
    return root


def test_each_kind_of_label_map_of_fmriprep_is_a_target(tmp_path, touch):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-2/ses-a/anat/sub-2_ses-a_T1w.nii.gz")
    manifest = auto(fmriprep(tmp_path, touch, "sub-1", "sub-2/ses-a"))
    assert manifest.findings == ()
    targets = ["aparcaseg", "aseg", "brain_mask", "label"]
    assert table(manifest) == {"sub-1": (["T1w"], targets), "sub-2_ses-a": (["T1w"], targets)}
    found = manifest.case("sub-1").targets
    for name, file in (("label", "sub-1_dseg"), ("aseg", "sub-1_desc-aseg_dseg")):
        ref = found[name]
        assert isinstance(ref, ImageRef)
        assert (ref.kind, ref.files) == ("labels", (f"derivatives/fmriprep/sub-1/anat/{file}.nii.gz",))
    assert "label" not in manifest.labels, "the table of another kind of label map"


def test_the_only_kind_of_label_map_is_the_target_however_it_is_named(tmp_path, touch):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "derivatives/x/sub-1/anat/sub-1_space-orig_desc-DLMUSE_dseg.nii.gz")
    (tmp_path / "derivatives/x/desc-DLMUSE_dseg.tsv").write_text("index\tname\n0\tbackground\n4\tventricle\n")
    manifest = auto(tmp_path)
    assert table(manifest) == {"sub-1": (["T1w"], ["label"])}
    assert manifest.labels == {"label": {0: "background", 4: "ventricle"}}
    touch(tmp_path, "sub-1/anat/sub-1_dseg.nii.gz")
    assert table(auto(tmp_path)) == {"sub-1": (["T1w"], ["dlmuse", "label"])}


def test_derivatives_of_a_subject_over_all_sessions_are_left_out_and_said(tmp_path, touch):
    touch(tmp_path, *(f"sub-1/ses-{name}/anat/sub-1_ses-{name}_T1w.nii.gz" for name in "ab"))
    manifest = auto(fmriprep(tmp_path, touch, "sub-1", "sub-2"))
    assert table(manifest) == {"sub-1_ses-a": (["T1w"], []), "sub-1_ses-b": (["T1w"], [])}
    assert manifest.excluded == ()
    assert {(found.level, found.code, found.case) for found in manifest.findings} == {("warning", "orphan", "")}
    assert len(manifest.findings) == 2 * 4


def test_a_label_map_of_a_derivative_that_fits_several_or_none_costs_no_case(tmp_path, touch):
    touch(tmp_path, "sub-1/anat/sub-1_run-1_T1w.nii.gz", "sub-1/anat/sub-1_run-2_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz")
    fmriprep(tmp_path, touch, "sub-1", "sub-2")
    touch(tmp_path, "derivatives/fmriprep/sub-2/anat/sub-2_space-T1w_desc-aseg_dseg.nii.gz")
    manifest = auto(tmp_path)
    assert table(manifest) == {
        "sub-1_run-1": (["T1w"], []),
        "sub-1_run-2": (["T1w"], []),
        "sub-2": (["T1w"], ["aparcaseg", "brain_mask", "label"]),
    }
    counts = Counter((found.level, found.code, found.case) for found in manifest.findings)
    assert counts == {("warning", "entities", ""): 4, ("warning", "ambiguous", "sub-2"): 2}
