"""The Decathlon layout: its lists, its folders, its faults."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from medae.data.case import Manifest
from medae.data.msd import MSDSource
from medae.data.sources import AutoSource, detect_format, open_manifest
from medae.errors import DataError


def table(manifest: Manifest) -> dict[str, tuple[list[str], list[str]]]:
    """Case id -> its channels and targets."""
    return {case.id: (list(case.images), list(case.targets)) for case in manifest.cases}


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


def test_decathlon(msd):
    manifest = auto(msd)
    assert manifest.source == "msd"
    assert manifest.channels == ("MRI",)
    assert manifest.labels == {"label": {0: "background", 1: "atrium"}}
    assert table(manifest) == {"la_1": (["MRI"], ["label"]), "la_2": (["MRI"], []), "la_3": (["MRI"], [])}
    image = manifest.case("la_1").images["MRI"]
    assert image.files == ("imagesTr/la_1.nii.gz",)
    assert image.sha256 == hashlib.sha256(b"imagesTr/la_1.nii.gz").hexdigest()
    assert (image.kind, image.modality) == ("intensity", "MR")
    assert [case.covariates["partition"] for case in manifest.cases] == ["training", "training", "test"]
    assert manifest.paths(image)[0].is_file()


def test_decathlon_list_joins_differing_names_and_a_validation_list(msd, touch, edit_json):
    touch(msd, "imagesTr/img0001.nii.gz", "labelsTr/label0001.nii.gz")
    entry = {"image": "imagesTr/img0001.nii.gz", "label": "labelsTr/label0001.nii.gz"}
    edit_json(msd, validation=[entry], labels=None, modality=None)
    manifest = auto(msd)
    assert table(manifest)["img0001"] == (["image"], ["label"])
    assert manifest.labels == {}


def test_decathlon_without_lists_goes_by_the_folders(msd, edit_json):
    edit_json(msd, training=None, test=None)
    assert list(table(auto(msd))) == ["la_1", "la_2", "la_3"]


def test_decathlon_with_four_digits_is_not_nnunet(tmp_path, touch):
    touch(tmp_path, "imagesTr/scan_0001.nii.gz", "imagesTr/scan_0002.nii.gz", "labelsTr/scan_0001.nii.gz")
    (tmp_path / "dataset.json").write_text(
        json.dumps({"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}})
    )
    assert detect_format(tmp_path) == "msd"
    assert list(table(auto(tmp_path))) == ["scan_0001", "scan_0002"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"image": "x"}}, "not a list of files"),
        ({"training": [["imagesTr/la_1.nii.gz"]]}, "an entry that is not one image"),
        ({"training": [{"image": ["imagesTr/la_1.nii.gz"]}]}, "an entry that is not one image"),
        ({"training": [{"image": "imagesTr/gone.nii.gz"}]}, r"(?s)lists a file that is not there.*gone"),
        ({"training": [{"image": "imagesTr/la_1.nrrd"}]}, r"(?s)not NIfTI.*la_1\.nrrd"),
        ({"training": [{"image": "../x.nii.gz"}]}, "outside the data set"),
        ({"modality": "MRI"}, "'modality' is not a mapping"),
        ({"modality": {"0": "FLAIR", "1": "FLAIR"}}, r"(?s)2 channels in one 4D file.*imagesTr/la_1\.nii\.gz"),
        ({"labels": ["background", "atrium"]}, "'labels' is not a mapping"),
        ({"labels": {"background": "none"}}, "not one value and its name"),
    ],
)
def test_malformed_decathlon(msd, changes, message, edit_json):
    edit_json(msd, **changes)
    with pytest.raises(DataError, match=message):
        open_manifest(MSDSource(root=msd))
