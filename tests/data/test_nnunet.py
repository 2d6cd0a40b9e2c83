"""The raw layout of nnU-Net, versions 2 and 1, and its faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medae.data.case import Manifest
from medae.data.check import check_manifest
from medae.data.reading import read_image
from medae.data.sources import AutoSource, open_manifest
from medae.errors import DataError
from medae.volume import spacing_of


def table(manifest: Manifest) -> dict[str, tuple[list[str], list[str]]]:
    """Case id -> its channels and targets."""
    return {case.id: (list(case.images), list(case.targets)) for case in manifest.cases}


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


def test_nnunet(nnunet):
    manifest = auto(nnunet, target_name="tumour")
    assert (manifest.source, manifest.channels) == ("nnunet", ("T1", "CT"))
    assert manifest.labels == {"tumour": {0: "background", 1: "tumour"}}
    assert table(manifest) == {"a": (["T1", "CT"], ["tumour"]), "b": (["CT"], []), "c": (["T1"], [])}
    assert {name: ref.modality for name, ref in manifest.case("a").images.items()} == {"T1": "MR", "CT": "CT"}
    assert manifest.case("c").covariates == {"partition": "test"}


def test_nnunet_version_1(nnunet, edit_json):
    listed = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]  # names without channel, as version 1 has it
    edit_json(
        nnunet, channel_names=None, file_ending=None, modality={"0": "T1", "1": "CT"}, training=listed, labels={"0": "bg"}
    )
    manifest = auto(nnunet)
    assert (manifest.source, manifest.channels, manifest.labels) == ("nnunet", ("T1", "CT"), {"label": {0: "bg"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["T1"]}, "'channel_names' is not a mapping"),
        ({"channel_names": {"0": "T1", "1": "T1"}}, "different names"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "'whole' is a region"),
        ({"labels": {"background": 0, "ignore": 1}}, "'ignore' label is not supported"),
        ({"labels": {"background": 0, "other": 0}}, "not one value and its name"),
        ({"file_ending": ".bmp"}, "'.bmp' are not supported"),
        ({"file_ending": 3}, "ending 3 are not supported"),
        ({"dataset": []}, "'dataset' is not a mapping"),
        ({"file_ending": ".png"}, r"(?s)holds no images.*end in"),
    ],
)
def test_malformed_nnunet(nnunet, changes, message, edit_json):
    edit_json(nnunet, **changes)
    with pytest.raises(DataError, match=message):
        auto(nnunet)


@pytest.mark.parametrize(("file", "case"), [("d.nii.gz", "d"), ("d_0007.nii.gz", "d"), ("b_0000x.nii.gz", "b_0000x")])
def test_an_image_without_a_declared_channel_number(nnunet, touch, file, case):
    touch(nnunet, f"imagesTr/{file}")
    manifest = auto(nnunet)
    assert list(table(manifest)) == ["a", "b", "c"]
    (finding,) = manifest.findings
    assert (finding.level, finding.code, finding.case, finding.file) == ("error", "channel", case, f"imagesTr/{file}")
    assert "_0000, _0001" in finding.remedy
    assert manifest.excluded == (case,)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif"])
def test_only_files_of_the_stated_ending_are_taken(tmp_path, touch, ending):
    others = [other for other in (".nrrd", ".png") if other != ending]
    touch(tmp_path, f"imagesTr/a_0000{ending}", f"labelsTr/a{ending}", *(f"imagesTr/a_0000{other}" for other in others))
    touch(tmp_path, "imagesTr/notes.txt")
    content = {"channel_names": {"0": "T2"}, "labels": {"background": 0, "x": 1}, "file_ending": ending}
    content["overwrite_image_reader_writer"] = "SimpleITKIO"
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    manifest = auto(tmp_path)
    assert [ref.files[0] for case in manifest.cases for ref in case.images.values()] == [f"imagesTr/a_0000{ending}"]
    assert [(found.level, found.code, found.file) for found in manifest.findings] == [("warning", "ending", "imagesTr")]
    assert f"{len(others)} of the images" in manifest.findings[0].problem


def test_voxel_sizes_beside_tiff_are_said_not_to_be_read(tmp_path, touch):
    touch(tmp_path, "imagesTr/a_0000.tif", "imagesTr/a_0000.json", "labelsTr/a.tif")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "x"}, "file_ending": ".tif"}))
    assert [(found.level, found.code) for found in auto(tmp_path).findings] == [("warning", "spacing")]


def listed(root: Path, cases: dict[str, Any]) -> None:
    content = {"channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nrrd"}
    (root / "dataset.json").write_text(json.dumps(content | {"dataset": cases}))


def test_files_listed_by_case(tmp_path, touch):
    touch(
        tmp_path, "p/t1.nrrd", "p/ct.nrrd", "p/seg.nrrd", "q/t1.nrrd", "q/ct.nrrd", "imagesTs/r_0000.nrrd", "imagesTr/z.nrrd"
    )
    listed(
        tmp_path,
        {
            "p": {"images": ["p/t1.nrrd", str(tmp_path / "p/ct.nrrd")], "label": "p/seg.nrrd"},
            "q": {"images": ["q/t1.nrrd", "./q/ct.nrrd"]},
        },
    )
    manifest = auto(tmp_path)
    assert [(found.code, found.file) for found in manifest.findings] == [("passed-over", "imagesTr/z.nrrd")]
    assert table(manifest) == {"p": (["T1", "CT"], ["label"]), "q": (["T1", "CT"], []), "r": (["T1"], [])}
    assert manifest.case("p").images["CT"].files == ("p/ct.nrrd",)
    assert [case.covariates["partition"] for case in manifest.cases] == ["training", "training", "test"]


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("p/t1.nrrd", "entry"),
        ({"label": "p/seg.nrrd"}, "entry"),
        ({"images": "p/t1.nrrd"}, "entry"),
        ({"images": ["p/t1.nrrd", 3]}, "entry"),
        ({"images": ["p/t1.nrrd"]}, "entry"),
        ({"images": ["p/t1.nrrd", "../ct.nrrd"]}, "outside"),
        ({"images": ["p/t1.nrrd", "p/ct.nrrd"], "label": "/etc/seg.nrrd"}, "outside"),
        ({"images": ["p/t1.nrrd", "p/gone.nrrd"]}, "unreadable"),
    ],
)
def test_a_bad_listed_case_leaves_the_others(tmp_path, touch, entry, code):
    touch(tmp_path, "p/t1.nrrd", "p/ct.nrrd", "p/seg.nrrd", "q/t1.nrrd", "q/ct.nrrd")
    listed(tmp_path, {"p": entry, "q": {"images": ["q/t1.nrrd", "q/ct.nrrd"]}})
    manifest = auto(tmp_path)
    assert list(table(manifest)) == ["q"]
    errors = [found for found in manifest.findings if found.level == "error"]
    assert [(found.code, found.case) for found in errors] == [(code, "p")]
    assert {found.code for found in manifest.findings} <= {code, "passed-over"}
    assert not any(
        "p/t1" in found.file for found in manifest.findings if found.code == "passed-over" and "images" in str(entry)
    )


def test_two_dimensional_pictures_are_slices_of_1_mm_and_colour_is_refused(tmp_path):
    """nnU-Net's natural images: one channel a file is read, a colour picture is an error of the check by its name."""
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    for case, picture in (("a", grey), ("b", np.stack([grey] * 3, axis=-1))):
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=picture.ndim == 3), tmp_path / f"imagesTr/{case}_0000.png")
        sitk.WriteImage(sitk.GetImageFromArray((grey > 10).astype(np.uint8)), tmp_path / f"labelsTr/{case}.png")
    content = {"channel_names": {"0": "photo"}, "labels": {"background": 0, "road": 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    manifest = auto(tmp_path)
    volume = read_image(manifest, manifest.case("a").images["photo"])
    assert volume.image.shape == (1, 6, 5, 1)
    assert spacing_of(volume.native.matrix()) == (1.0, 1.0, 1.0)
    assert sorted(volume.image.flatten().tolist()) == list(range(30))
    errors = [found for found in check_manifest(manifest).findings if found.level == "error"]
    assert [(found.case, found.file) for found in errors] == [("b", "imagesTr/b_0000.png")]
    assert "6 x 5 x 3" in errors[0].problem
