"""Plain folders: stated and guessed layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from medae.data.case import Manifest
from medae.data.folder import FolderSource, matches
from medae.data.sources import AutoSource, detect_format, open_manifest
from medae.errors import DataError


def table(manifest: Manifest) -> dict[str, tuple[list[str], list[str]]]:
    """Case id -> its channels and targets."""
    return {case.id: (list(case.images), list(case.targets)) for case in manifest.cases}


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


def test_plain_folders(plain):
    manifest = auto(plain)
    assert (manifest.source, manifest.channels) == ("folder", ("image",))
    assert sorted(table(manifest).values()) == [(["image"], []), (["image"], ["label"])]
    assert "jane" not in json.dumps([{**case.model_dump(exclude={"images", "targets"})} for case in manifest.cases])


def test_plain_folders_with_names_and_subjects(plain):
    source = FolderSource(
        root=plain, images="image", labels="mask", subject="^[a-z]+_[a-z]+", ids="names", label_names={1: "x"}
    )
    manifest = open_manifest(source)
    assert table(manifest) == {"jane_doe_1": (["image"], ["label"]), "jane_doe_2": (["image"], [])}
    assert {case.subject for case in manifest.cases} == {"jane_doe"}
    assert manifest.labels == {"label": {1: "x"}}
    group = open_manifest(source.model_copy(update={"subject": re.compile("jane_(.*)_")}))
    assert {case.subject for case in group.cases} == {"doe"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a_T1w", "a_dseg", "b_T1w", "b_dseg"], {"a": (["T1w"], ["label"]), "b": (["T1w"], ["label"])}),
        (["a_T1w", "a_dseg"], {"a": (["T1w"], ["label"])}),
        (["a_t1", "a_flair", "a_seg", "b_t1", "b_flair"], {"a": (["flair", "t1"], ["label"]), "b": (["flair", "t1"], [])}),
        (["a_T1w", "a_dseg", "a_mask"], {"a": (["T1w"], ["dseg", "mask"])}),
        (["case_1", "case_1_seg", "case_2"], {"case_1": (["image"], ["label"]), "case_2": (["image"], [])}),
        (["jane_doe", "john_doe", "john_doe_mask"], {"jane_doe": (["image"], []), "john_doe": (["image"], ["label"])}),
        (["case_1", "case_2"], {"case_1": (["image"], []), "case_2": (["image"], [])}),
        (["lung_left", "lung_right"], {"lung_left": (["image"], []), "lung_right": (["image"], [])}),
        (["x", "y"], {"x": (["image"], []), "y": (["image"], [])}),
        (["images/x", "lung_masks/x", "nodule_masks/x"], {"x": (["image"], ["lung_masks", "nodule_masks"])}),
        (["ct/x", "pet/x", "label/x"], {"x": (["ct", "pet"], ["label"])}),
        (["t1/x", "flair/x", "flair/y", ".cache/x"], {"x": (["flair", "t1"], []), "y": (["flair"], [])}),
    ],
)
def test_guessed_plain_layouts(tmp_path, files, expected, touch):
    touch(tmp_path, *(f"{name}.nii.gz" for name in files))
    assert table(open_manifest(FolderSource(root=tmp_path, ids="names"))) == expected
    assert detect_format(tmp_path) == "folder"


def test_patterns_over_subfolders_and_leading_bids_subject(tmp_path, touch):
    touch(tmp_path, "sub-1_v1/sub-1_v1-t1n.nii.gz", "sub-1_v1/sub-1_v1-seg.nii.gz", "sub-2_v1/sub-2_v1-t1n.nii", "note.txt")
    source = FolderSource(root=tmp_path, image_pattern={"t1": "*/*-t1n"}, label_pattern="*/*-seg.nii.gz", ids="names")
    manifest = open_manifest(source)
    assert table(manifest) == {"sub-1_v1": (["t1"], ["label"]), "sub-2_v1": (["t1"], [])}
    assert [case.subject for case in manifest.cases] == ["sub-1", "sub-2"]


def test_pattern_takes_special_characters_as_they_are(tmp_path, touch):
    touch(tmp_path, "a[1]_x.nii.gz", "a1_x.nii.gz", ".b[1]_x.nii.gz")
    assert [name for name, _ in matches(tmp_path, "*[1]_x.nii.gz")] == ["a"]


@pytest.mark.parametrize(
    "fields",
    [
        {"images": "a", "image_pattern": "*"},
        {"labels": "a"},
        {"images": "a", "labels": "b", "label_pattern": "*"},
        {"image_pattern": "one.nii.gz"},
        {"image_pattern": "**/x_*"},
        {"image_pattern": "/data/*"},
        {"images": "/data/image"},
        {"images": {"t1": "t1", "t2": "../t2"}},
        {"subject": "("},
        {"unknown": 1},
    ],
)
def test_contradictory_folder_sources(fields):
    with pytest.raises(ValidationError):
        FolderSource(root=Path(), **fields)


def test_pattern_that_fits_nothing(plain):
    with pytest.raises(DataError, match=r"No image fits 'images/\*'"):
        open_manifest(FolderSource(root=plain, images="images"))
    with pytest.raises(DataError, match=r"'\^P' finds nothing in 'jane_doe_"):
        auto(plain, subject="^P")


def test_a_subject_pattern_that_fits_some_names_leaves_out_the_others(plain, touch):
    touch(plain, "image/scan7.nii.gz")
    manifest = open_manifest(FolderSource(root=plain, images="image", subject="^[a-z]+_[a-z]+", ids="names"))
    assert list(table(manifest)) == ["jane_doe_1", "jane_doe_2"]
    assert [(found.case, found.level, found.code) for found in manifest.findings] == [("scan7", "error", "subject")]


def test_a_channel_without_any_image_is_left_out_and_said(plain):
    manifest = open_manifest(FolderSource(root=plain, images={"t1": "image", "t2": "t2"}, ids="names"))
    assert manifest.channels == ("t1",)
    assert [(found.level, found.code) for found in manifest.findings] == [("warning", "channel")]
    assert "'t2'" in manifest.findings[0].problem


@pytest.mark.parametrize("ending", [".nii", ".NII.GZ", ".nrrd", ".mha", ".png", ".tif", ".TIFF"])
def test_every_ending_that_is_read(tmp_path, touch, ending):
    touch(tmp_path, *(f"{folder}/{name}{ending}" for folder in ("image", "mask") for name in ("a", "b")))
    for source in (
        FolderSource(root=tmp_path, ids="names"),
        FolderSource(root=tmp_path, image_pattern="image/*", label_pattern=f"mask/*{ending}", ids="names"),
    ):
        assert table(open_manifest(source)) == {"a": (["image"], ["label"]), "b": (["image"], ["label"])}


def test_pictures_beside_volumes_are_previews(tmp_path, touch):
    touch(tmp_path, "image/a.nii.gz", "image/a.png", "mask/a.nrrd", "mask/a.png", "figure.png")
    manifest = open_manifest(FolderSource(root=tmp_path, ids="names"))
    assert table(manifest) == {"a": (["image"], ["label"])}
    assert manifest.findings == ()
    stated = FolderSource(root=tmp_path, image_pattern="image/*.png", ids="names")
    assert open_manifest(stated).case("a").images["image"].files == ("image/a.png",)


def test_pictures_of_other_names_beside_volumes_are_images(tmp_path, touch):
    touch(tmp_path, "image/a.nii.gz", "image/b.png", "mask/a.nii.gz", "mask/b.png")
    manifest = open_manifest(FolderSource(root=tmp_path, ids="names"))
    assert table(manifest) == {"a": (["image"], ["label"]), "b": (["image"], ["label"])}


def test_a_figure_beside_volumes_does_not_change_how_they_are_told_apart(tmp_path, touch):
    touch(tmp_path, "a_T1w.nii.gz", "a_dseg.nii.gz", "figure.png")
    assert table(open_manifest(FolderSource(root=tmp_path, ids="names"))) == {"a": (["T1w"], ["label"])}


@pytest.mark.data
def test_real_suffix_patterns_and_guess_agree(data_root):
    stated = FolderSource(root=data_root / "oasis_t1", image_pattern={"T1w": "*_T1w.nii.gz"}, label_pattern="*_dseg.nii.gz")
    guessed = FolderSource(root=data_root / "oasis_t1")
    assert open_manifest(stated).digest() == open_manifest(guessed).digest()


def test_layout_that_cannot_be_guessed(tmp_path, touch):
    touch(tmp_path, "a/b/c.nii.gz")
    with pytest.raises(DataError, match="The layout cannot be guessed"):
        open_manifest(FolderSource(root=tmp_path))
