"""The check of a data set: each fault is planted in a sound case and must be named, and nothing else."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from medae.data.check import check_manifest
from medae.data.files import resolve_root
from medae.data.folder import FolderSource
from medae.data.sources import AutoSource, open_manifest

SHAPE = (6, 5, 4)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def save(path, voxels, affine=AFFINE, units="mm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units(units)
    nib.save(image, path)


def ramp(shape=SHAPE, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def blocks(dtype=np.uint8, value=1):
    labels = np.zeros(SHAPE, dtype)
    labels[2:4, 1:3, 1:3] = value
    return labels


@pytest.fixture
def folder(tmp_path):
    """Three sound cases."""
    for name in ("ann", "bob", "cyd"):
        save(tmp_path / "image" / f"{name}.nii.gz", ramp())
        save(tmp_path / "mask" / f"{name}.nii.gz", blocks())
    return tmp_path


def findings(root):
    source = FolderSource(root=root, images="image", labels="mask", ids="names", label_names={0: "background", 1: "lesion"})
    return check_manifest(open_manifest(source))


def only(root):
    found = findings(root)
    assert len(found) == 1, found
    assert str(root) not in found[0].problem
    assert found[0].case == "bob"
    return found[0]


def test_sound_data_has_no_findings_and_progress_counts_every_case(folder):
    seen = []
    manifest = open_manifest(FolderSource(root=folder, images="image", labels="mask"))
    assert check_manifest(manifest, progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "flipped"])
def test_unreadable_file(folder, damage):
    path = folder / "image" / "bob.nii.gz"
    sound = path.read_bytes()
    content = {"text": b"not an image", "empty": b"", "truncated": sound[:-40]}.get(damage)
    path.write_bytes(content if content is not None else sound[:40] + bytes(255 - b for b in sound[40:60]) + sound[60:])
    finding = only(folder)
    assert (finding.level, finding.file) == ("error", "image/bob.nii.gz")
    assert "cannot be read" in finding.problem


def test_colour_image(folder):
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(folder / "image" / "bob.nii.gz", colour)
    assert "not plain numbers" in only(folder).problem


def test_image_without_voxels(folder):
    save(folder / "image" / "bob.nii.gz", np.zeros((0, 5, 4), np.float32))
    assert "no voxels" in only(folder).problem


def test_four_dimensions(folder):
    save(folder / "image" / "bob.nii.gz", ramp((*SHAPE, 2)))
    finding = only(folder)
    assert finding.level == "error"
    assert "4 dimensions (6, 5, 4, 2)" in finding.problem


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number(folder, value):
    voxels = ramp()
    voxels[0, 0, :2] = value
    save(folder / "image" / "bob.nii.gz", voxels)
    finding = only(folder)
    assert finding.level == "error"
    assert "2 voxels" in finding.problem


def test_constant_image(folder):
    save(folder / "image" / "bob.nii.gz", np.full(SHAPE, 7.0, np.float32))
    finding = only(folder)
    assert (finding.level, finding.problem) == ("warning", "has the value 7 everywhere")


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan])
def test_labels_that_are_not_labels(folder, value):
    save(folder / "mask" / "bob.nii.gz", blocks(np.float32, value))
    finding = only(folder)
    assert (finding.level, finding.file) == ("error", "mask/bob.nii.gz")
    assert f"{value:g}" in finding.problem


def test_whole_numbers_stored_as_floats_are_labels(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(np.float32))
    assert findings(folder) == []


def test_undeclared_labels(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(value=3))
    finding = only(folder)
    assert (finding.level, finding.problem) == ("warning", "has labels that are not declared: 3")


def test_label_map_of_another_shape(folder):
    save(folder / "mask" / "bob.nii.gz", blocks()[:-1])
    finding = only(folder)
    assert finding.level == "error"
    assert "is not on the grid of image/bob.nii.gz: shape (5, 5, 4), not (6, 5, 4)" in finding.problem


@pytest.mark.parametrize(("shift", "is_found"), [(0.5, True), (0.001, False)])
def test_label_map_at_another_place(folder, shift, is_found):
    affine = AFFINE.copy()
    affine[2, 3] += shift
    save(folder / "mask" / "bob.nii.gz", blocks(), affine)
    assert [finding.problem for finding in findings(folder)] == (
        ["is not on the grid of image/bob.nii.gz: its corners lie up to 0.5 mm apart"] if is_found else []
    )


def test_flipped_label_map_of_the_same_shape(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(), np.diag([-1.0, 1.5, 2.0, 1.0]))
    assert "corners lie up to 10 mm apart" in only(folder).problem


def test_singular_affine(folder):
    path = folder / "image" / "bob.nii.gz"
    image = nib.load(path)
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    image.header["srow_z"] = 0
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[:348] = image.header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))
    assert any("singular" in finding.problem and finding.level == "error" for finding in findings(folder))


@pytest.mark.parametrize(("units", "level"), [("meter", "error"), ("micron", "error"), ("unknown", "warning")])
def test_units(folder, units, level):
    save(folder / "image" / "bob.nii.gz", ramp(), units=units)
    assert only(folder).level == level


def test_names_in_small_groups_hint_at_shared_subjects(tmp_path):
    for person in ("ann", "bob", "cyd"):
        for side in ("left1", "right1"):
            save(tmp_path / "image" / f"{person}_{side}.nii.gz", ramp())
    alone = check_manifest(open_manifest(FolderSource(root=tmp_path, images="image")))
    assert [(finding.case, finding.level) for finding in alone] == [("", "warning")]
    assert "3 groups" in alone[0].problem
    stated = FolderSource(root=tmp_path, images="image", subject="^[a-z]+")
    assert check_manifest(open_manifest(stated)) == []


@pytest.mark.data
@pytest.mark.parametrize("name", ["hippocampus", "ixi_t1", "oasis_t1"])
def test_sound_real_data(data_root, name):
    assert check_manifest(open_manifest(AutoSource(root=resolve_root(data_root / name)))) == []


@pytest.mark.data
def test_real_data_with_unknown_units_and_shared_subjects(data_root):
    lgg = check_manifest(open_manifest(AutoSource(root=data_root / "lgg_3ch")))
    assert {finding.problem for finding in lgg} == {"states no unit of length; mm is assumed"}
    assert len(lgg) == 24
    lidc = check_manifest(open_manifest(AutoSource(root=data_root / "lidc")))
    assert ["counts as a subject" in finding.problem for finding in lidc] == [True]
