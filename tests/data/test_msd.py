"""The Decathlon layout: its lists, its folders, its faults."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medae.data.case import Manifest
from medae.data.msd import MSDSource
from medae.data.reading import read_image
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
        ({"modality": "MRI"}, "'modality' is not a mapping"),
        ({"modality": {"0": "FLAIR", "1": "FLAIR"}}, "'modality' is not a mapping"),
        ({"modality": {"first": "FLAIR"}}, "'modality' is not a mapping"),
        ({"labels": ["background", "atrium"]}, "'labels' is not a mapping"),
        ({"labels": {"background": "none"}}, "not one value and its name"),
    ],
)
def test_malformed_decathlon(msd, changes, message, edit_json):
    edit_json(msd, **changes)
    with pytest.raises(DataError, match=message):
        open_manifest(MSDSource(root=msd))


@pytest.mark.parametrize(
    ("entry", "finding"),
    [
        (["imagesTr/la_9.nii.gz"], ("error", "entry", "", "")),
        ({"image": ["imagesTr/la_9.nii.gz"]}, ("error", "entry", "", "")),
        ({"image": "imagesTr/la_9.nii.gz", "label": 3}, ("error", "entry", "", "")),
        ({"image": "imagesTr/la_9.nii.gz"}, ("error", "unreadable", "la_9", "imagesTr/la_9.nii.gz")),
        ({"image": "imagesTr/la_9.txt"}, ("error", "ending", "la_9.txt", "imagesTr/la_9.txt")),
        ({"image": "../la_9.nii.gz"}, ("error", "outside", "la_9", "")),
        ({"image": "/etc/la_9.nii.gz"}, ("error", "outside", "la_9", "")),
        (
            {"image": "imagesTr/la_2.nii.gz", "label": "labelsTr/la_2.nii.gz"},
            ("error", "unreadable", "la_2", "labelsTr/la_2.nii.gz"),
        ),
        ({"image": "imagesTr/la_2.nii.gz", "label": "../la_2.nii.gz"}, ("error", "outside", "la_2", "")),
    ],
)
def test_a_bad_entry_leaves_out_its_case(msd, entry, finding, edit_json):
    listed = [{"image": "./imagesTr/la_1.nii.gz", "label": "./labelsTr/la_1.nii.gz"}]
    edit_json(msd, training=[entry, *listed])
    manifest = auto(msd)
    assert [(found.level, found.code, found.case, found.file) for found in manifest.findings] == [finding]
    assert list(table(manifest)) == [case for case in ("la_1", "la_2", "la_3") if case != finding[2]]


def test_channels_in_one_4d_file(msd, edit_json):
    """Task05 of the Decathlon: T2 and ADC along the fourth axis."""
    values = np.arange(3 * 4 * 5 * 2, dtype=np.int16).reshape(3, 4, 5, 2)
    for path in msd.glob("images*/la_*.nii.gz"):
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    edit_json(msd, modality={"1": "ADC", "0": "T2"})
    manifest = auto(msd)
    assert manifest.channels == ("T2", "ADC")
    images = manifest.case("la_1").images
    assert [(name, ref.component, ref.modality) for name, ref in images.items()] == [("T2", 0, "MR"), ("ADC", 1, "MR")]
    assert images["T2"].sha256 == images["ADC"].sha256
    assert images["T2"].identity() != images["ADC"].identity()
    for channel, ref in enumerate(images.values()):
        np.testing.assert_array_equal(read_image(manifest, ref).image[0].numpy(), values[..., channel])
    edit_json(msd, modality={"0": "T2", "1": "ADC", "2": "DWI"})
    with pytest.raises(DataError, match=r"(?s)no channel 2 .*3 x 4 x 5 x 2.*imagesTr/la_1"):
        read_image(auto(msd), auto(msd).case("la_1").images["DWI"])
