"""BIDS: sessions, suffixes, derivatives, participants, and their faults."""

from __future__ import annotations

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


def test_bids_mask_is_the_target_where_it_is_alone_and_a_second_one_beside_dseg(bids, touch):
    touch(bids, "derivatives/atlas/sub-01/anat/sub-01_desc-lesion_mask.nii.gz")
    assert table(auto(bids))["sub-01"][1] == ["label", "mask"]
    for path in (bids / "derivatives").rglob("*_dseg.nii.gz"):
        path.unlink()
    case = auto(bids).case("sub-01")
    assert list(case.targets) == ["label"]
    touch(bids, "derivatives/atlas/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    assert table(auto(bids))["sub-01"][1] == ["brain", "label"]


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
    with pytest.raises(DataError, match="Two files claim to be 'T1w' of the case 'sub-01'"):
        auto(bids)
    channels = {"T1": "sub-01_T1w", "T1gd": "*_ce-gd_T1w"}
    assert table(open_manifest(BIDSSource(root=bids, channels=channels))) == {"sub-01": (["T1", "T1gd"], ["label"])}


def test_bids_file_in_another_persons_folder(bids, touch):
    touch(bids, "sub-01/anat/sub-03_T2w.nii.gz")
    with pytest.raises(DataError, match=r"(?s)does not begin with the subject.*sub-01/anat/sub-03_T2w"):
        auto(bids)


def test_bids_without_images_of_the_datatype(bids):
    with pytest.raises(DataError, match=r"No image is found in sub-\*/ct"):
        open_manifest(BIDSSource(root=bids, datatype="ct"))


@pytest.mark.parametrize(
    "text",
    ["name\tage\nsub-01\t3", "participant_id,age\nsub-01,3", "participant_id\nsub-01\nsub-01", "participant_id\nsub-01\t5"],
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
    with pytest.raises(DataError, match="Two files claim to be 'label'"):
        auto(bids)
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
