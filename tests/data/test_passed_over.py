"""No file that looks like an image is passed over without a word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from medae.data.bids import BIDSSource
from medae.data.folder import FolderSource
from medae.data.passed_over import hint
from medae.data.sources import AutoSource, open_manifest
from medae.errors import DataError


def found(root: Path, **keys: Any) -> list[tuple[str, str]]:
    """Code and file of each finding."""
    return [(finding.code, finding.file) for finding in open_manifest(AutoSource(root=root, **keys)).findings]


def test_a_sound_set_of_every_layout_has_none(msd, tmp_path_factory, touch):
    assert found(msd) == []
    plain = touch(tmp_path_factory.mktemp("plain"), "image/a.nii.gz", "mask/a.nii.gz", "notes.txt", "image/a.json")
    assert found(plain) == []


def test_formats_that_are_not_read_are_counted_and_named(plain, touch):
    touch(plain, "image/x.mgz", "image/y.MGZ", "image/z.hdr", "image/z.img", "image/.hidden.mgz", "image/deep/w.mgz")
    (finding,) = open_manifest(AutoSource(root=plain)).findings
    assert (finding.level, finding.code, finding.case) == ("warning", "unread-format", "")
    assert finding.problem == "5 files are passed over: a format that is not read (.hdr, .img, .mgz)"
    assert finding.file == "image/x.mgz, image/deep/w.mgz, image/y.MGZ and 2 more"
    assert "Convert them to NIfTI" in finding.remedy
    assert finding.public().file == "" and ".mgz" in finding.public().problem


def test_images_in_deeper_folders_are_counted(plain, touch):
    touch(plain, "image/old/a.nii.gz", "image/old/b.nii.gz", "other/c.nii.gz")
    (finding,) = open_manifest(AutoSource(root=plain)).findings
    assert (finding.level, finding.code) == ("warning", "passed-over")
    assert finding.problem.startswith("3 files are passed over: an image")
    assert finding.file == "image/old/a.nii.gz, other/c.nii.gz, image/old/b.nii.gz"


def test_previews_and_figures_are_no_images(plain, touch):
    touch(plain, "image/jane_doe_1.png", "figure.png", "image/deep/figure.tif", "image/jane_doe_2.jpg")
    assert found(plain) == []


def test_pictures_count_among_pictures(tmp_path, touch):
    touch(tmp_path, "image/a.png", "mask/a.png", "image/deep/b.png", "image/c.jpg")
    assert found(tmp_path) == [("unread-format", "image/c.jpg"), ("passed-over", "image/deep/b.png")]


def test_folders_that_are_not_searched_are_named(plain, touch, monkeypatch):
    other = touch(plain.with_name("other"), "x.nii.gz")
    (plain / "image" / "linked").symlink_to(other, target_is_directory=True)
    touch(plain, "image/shut/y.nii.gz")
    listed = os.scandir

    def refusing(folder):  # what the operating system does for a user without the right, and never for root
        if Path(folder) == plain / "image" / "shut":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    (finding,) = open_manifest(AutoSource(root=plain)).findings
    assert (finding.level, finding.code) == ("warning", "closed-folder")
    assert finding.problem.startswith("2 folders")
    assert set(finding.file.split(", ")) == {"image/linked", "image/shut"}


def test_what_the_user_chose_from_is_not_held_against_the_rest(tmp_path, touch):
    touch(tmp_path, "a_T1.nii.gz", "a_T2.nii.gz", "b_T2.mgz", "elsewhere/c.mgz")
    manifest = open_manifest(FolderSource(root=tmp_path / ".", image_pattern="*_T2", ids="names"))
    assert [(finding.code, finding.file) for finding in manifest.findings] == [
        ("unread-format", "b_T2.mgz, elsewhere/c.mgz"),
    ]
    touch(tmp_path, "scans/a.nii.gz")
    manifest = open_manifest(FolderSource(root=tmp_path, images="scans", ids="names"))
    assert manifest.findings == (), "only the folders that hold scans are searched"


def test_bids_says_what_lies_in_other_datatypes_and_formats(bids, touch):
    assert found(bids) == []
    touch(bids, "sub-01/func/sub-01_task-rest_bold.nii.gz", "sub-01/anat/sub-01_T2w.nrrd", "sub-01/anat/sub-01_T1w.mgz")
    touch(bids, "derivatives/freesurfer/sub-01/mri/brain.mgz", "sourcedata/x.nii.gz")
    assert found(bids) == [
        ("unread-format", "sub-01/anat/sub-01_T1w.mgz"),
        ("passed-over", "sub-01/anat/sub-01_T2w.nrrd, sub-01/func/sub-01_task-rest_bold.nii.gz"),
    ]
    chosen = open_manifest(BIDSSource(root=bids, channels={"T1": "*_T1w"}))
    assert {finding.code for finding in chosen.findings} == {"unread-format"}, "the user chose the images"


def test_nnunet_with_images_in_a_folder_of_their_own(nnunet, touch):
    touch(nnunet, "imagesTr/more/d_0000.nii.gz", "imagesTr/e_0000.mha")
    assert found(nnunet) == [("ending", "imagesTr"), ("passed-over", "imagesTr/more/d_0000.nii.gz")]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["p1/scan.nii.gz", "p2/scan.nii.gz"], ["images in 'p1'", "--format folder", 'image_pattern="*/*"']),
        (["a/b/c/x.nrrd"], ["images in 'a/b/c'", "*/*/*/*"]),
        (["x.mgz", "y.mgz"], [".mgz files", "convert them to NIfTI"]),
        (["x.txt"], []),
    ],
)
def test_a_folder_that_is_not_recognised_gets_a_hint(tmp_path, touch, files, words):
    touch(tmp_path, *files)
    assert bool(hint(tmp_path)) == bool(words)
    with pytest.raises(DataError) as error:
        open_manifest(AutoSource(root=tmp_path))
    assert all(word in str(error.value) for word in words)


def test_the_hint_works(tmp_path, touch):
    touch(tmp_path, "p1/scan.nii.gz", "p2/scan.nii.gz")
    manifest = open_manifest(FolderSource(root=tmp_path, image_pattern="*/*", ids="names"))
    assert [case.id for case in manifest.cases] == ["p1_scan", "p2_scan"]
