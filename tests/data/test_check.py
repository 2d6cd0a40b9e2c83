"""The check of a data set: each fault is planted in a sound case and must be named, and nothing else."""

from __future__ import annotations

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medae.data.check import check_manifest
from medae.data.folder import FolderSource
from medae.data.roots import resolve_root
from medae.data.sources import AutoSource, open_manifest
from medae.errors import DataError
from medae.formats.header import read_grid
from medae.formats.read import read_array

SHAPE = (6, 5, 4)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def save(path, voxels, affine=AFFINE, units="mm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units(units)
    nib.save(image, path)


def ramp(shape=SHAPE, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def blocks(dtype=np.uint8, value=1, place=2):
    labels = np.zeros(SHAPE, dtype)
    labels[place : place + 2, 1:3, 1:3] = value
    return labels


@pytest.fixture
def folder(tmp_path):
    """Three sound cases."""
    for name in ("ann", "bob", "cyd"):
        save(tmp_path / "image" / f"{name}.nii.gz", ramp() + ord(name[0]) / 128)
        save(tmp_path / "mask" / f"{name}.nii.gz", blocks(place=ord(name[0]) % 3))
    return tmp_path


def findings(root, names=("background", "lesion")):
    source = FolderSource(root=root, images="image", labels="mask", ids="names", label_names=dict(enumerate(names)))
    return list(check_manifest(open_manifest(source)).findings)


def only(root):
    found = findings(root)
    assert len(found) == 1, found
    assert str(root) not in found[0].problem
    assert found[0].case == "bob"
    return found[0]


def test_sound_data_has_no_findings_and_progress_counts_every_case(folder):
    seen = []
    manifest = open_manifest(FolderSource(root=folder, images="image", labels="mask"))
    assert check_manifest(manifest, progress=lambda done, total: seen.append((done, total))).findings == ()
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "flipped"])
def test_unreadable_file(folder, damage):
    path = folder / "image" / "bob.nii.gz"
    sound = path.read_bytes()
    content = {"text": b"not an image", "empty": b"", "truncated": sound[:-40]}.get(damage)
    path.write_bytes(content if content is not None else sound[:40] + bytes(255 - b for b in sound[40:60]) + sound[60:])
    finding = only(folder)
    assert (finding.level, finding.file) == ("error", "image/bob.nii.gz")
    assert finding.code == "unreadable"
    assert "cannot be read" in finding.problem


def test_colour_image(folder):
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(folder / "image" / "bob.nii.gz", colour)
    assert "not one 3D volume" in only(folder).problem


def test_image_without_voxels(folder):
    save(folder / "image" / "bob.nii.gz", np.zeros((0, 5, 4), np.float32))
    assert "its size is 0" in only(folder).problem


def test_four_dimensions(folder):
    save(folder / "image" / "bob.nii.gz", ramp((*SHAPE, 2)))
    finding = only(folder)
    assert finding.level == "error"
    assert "its size is 6 x 5 x 4 x 2" in finding.problem


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
    assert (finding.level, finding.problem) == ("error", "has the value 7 everywhere")


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan, np.inf, 32768, 40000, 65535])
def test_labels_that_are_not_labels(folder, value):
    save(folder / "mask" / "bob.nii.gz", blocks(np.float32, value))
    finding = only(folder)
    assert (finding.level, finding.file) == ("error", "mask/bob.nii.gz")
    assert f"such as {value:g}" in finding.problem
    with pytest.raises(DataError, match="not whole numbers from 0 to 32767"):  # reading says the same
        read_array([folder / "mask" / "bob.nii.gz"], "labels")


def test_what_reading_rounds_is_no_finding(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(np.float64, 1.00001) - 1e-6)
    assert findings(folder) == []
    assert np.unique(read_array([folder / "mask" / "bob.nii.gz"], "labels")[0]).tolist() == [0, 1]


def test_labels_are_drawn_as_they_are_read(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(np.float32, 0.99999))
    manifest = open_manifest(FolderSource(root=folder, images="image", labels="mask", ids="names"))
    check = check_manifest(manifest, picture=lambda _, labels: str(np.unique(labels.array).tolist()).encode())
    assert check.pictures["bob"] == b"[0, 1]"


def lungs(left, right):
    labels = np.zeros(SHAPE, np.float32)
    labels[left : left + 2, 1:3, 1:3], labels[right : right + 2, 1:3, 1:3] = 1.0000153, 2  # as a scale factor rounds
    return labels


@pytest.mark.parametrize(("affine", "level"), [(AFFINE, "error"), (None, "warning")])
def test_wrong_sides_are_an_error_only_where_the_file_states_sides(folder, affine, level):
    for name in ("ann", "bob", "cyd"):
        save(folder / "mask" / f"{name}.nii.gz", lungs(0, 4))
    names = ("background", "left lung", "right lung")
    assert "sides" not in {finding.code for finding in findings(folder, names)}
    save(folder / "image" / "bob.nii.gz", ramp(), affine)
    save(folder / "mask" / "bob.nii.gz", lungs(0, 4) if affine is None else lungs(4, 0), affine)  # None: nibabel takes LAS
    found = [finding for finding in findings(folder, names) if finding.code == "sides"]
    assert [(finding.case, finding.level) for finding in found] == [("bob", level)]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pictures_do_not_state_sides(tmp_path, ending):
    labels = np.zeros((40, 60), np.uint8)
    labels[5:15, 5:15], labels[5:15, 40:50] = 1, 2
    for name, voxels in (("image", ramp((40, 60), np.uint8)), ("mask", labels)):
        (tmp_path / name).mkdir()
        Image.fromarray(voxels).save(tmp_path / name / f"bob.{ending}")
    found = [finding for finding in findings(tmp_path, ("background", "left lung", "right lung")) if finding.code == "sides"]
    assert [finding.level for finding in found] == ["warning"]


def test_a_process_that_dies_is_a_users_error(folder, monkeypatch):
    """As when the system kills a worker for its memory."""
    monkeypatch.setattr("medae.data.check.WORTH_A_PROCESS", 1)
    with pytest.raises(DataError, match="One of 2 processes that read scans died") as caught:
        check_manifest(open_manifest(FolderSource(root=folder, images="image")), workers=2, picture=lambda *_: os._exit(1))
    assert "--workers 1" in caught.value.remedy


@pytest.mark.parametrize("field", ["vox_offset", "dim"])
def test_absurd_numbers_in_a_header(folder, field):
    path = folder / "image" / "bob.nii"
    (folder / "image" / "bob.nii.gz").unlink()
    save(path, ramp())
    raw = bytearray(path.read_bytes())
    if field == "vox_offset":
        raw[108:112] = np.float32(1e30).tobytes()
    else:
        raw[42:48] = np.array([32767] * 3, np.int16).tobytes()
    path.write_bytes(bytes(raw))
    finding = only(folder)
    assert (finding.level, finding.code) == ("error", "unreadable")


def test_a_unit_that_nifti_does_not_know_is_taken_for_mm(folder):
    path = folder / "image" / "bob.nii.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[123] = 7
    path.write_bytes(gzip.compress(bytes(raw)))
    assert (only(folder).level, only(folder).code) == ("warning", "units")
    for native in (read_array([path], "intensity")[1], read_grid([path])):
        assert native.matrix().tolist() == AFFINE.tolist()


def test_whole_numbers_stored_as_floats_are_labels(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(np.float32))
    assert findings(folder) == []


def test_undeclared_labels(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(value=3))
    finding = only(folder)
    assert (finding.level, finding.problem) == ("error", "has labels that are not declared: 3")


def test_label_map_of_another_shape(folder):
    save(folder / "mask" / "bob.nii.gz", blocks()[:-1])
    finding = only(folder)
    assert finding.level == "error"
    assert "is not on the grid of the case's first image: shape (5, 5, 4), not (6, 5, 4)" in finding.problem
    assert finding.remedy.startswith("Resample it to that image")


def test_channels_on_different_grids(tmp_path):
    save(tmp_path / "T1" / "a.nii.gz", blocks(np.float32))
    save(tmp_path / "T2" / "a.nii.gz", blocks(np.float32)[:-1])
    (finding,) = check_manifest(open_manifest(FolderSource(root=tmp_path, images={"T1": "T1", "T2": "T2"}))).findings
    assert (finding.code, finding.role) == ("grid", "image T2")
    assert finding.remedy == "Take one channel (the key 'channels'), or bring the channels onto one grid."


@pytest.mark.parametrize(("shift", "is_found"), [(0.5, True), (0.001, False)])
def test_label_map_at_another_place(folder, shift, is_found):
    affine = AFFINE.copy()
    affine[2, 3] += shift
    save(folder / "mask" / "bob.nii.gz", blocks(), affine)
    assert [finding.problem for finding in findings(folder)] == (
        ["is not on the grid of the case's first image: its corners lie up to 0.5 mm apart"] if is_found else []
    )


def test_flipped_label_map_of_the_same_shape(folder):
    save(folder / "mask" / "bob.nii.gz", blocks(), np.diag([-1.0, 1.5, 2.0, 1.0]))
    assert "its corners lie up to 5 mm apart" in only(folder).problem  # nearest-RAS axes agree, the place does not


def test_singular_affine(folder):
    path = folder / "image" / "bob.nii.gz"
    image = nib.load(path)
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    image.header["srow_z"] = 0
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[:348] = image.header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))
    assert any("singular" in finding.problem and finding.level == "error" for finding in findings(folder))


def test_units_not_stated(folder):
    save(folder / "image" / "bob.nii.gz", ramp(), units="unknown")
    assert (only(folder).level, only(folder).code) == ("warning", "units")


@pytest.mark.parametrize(("units", "per_mm"), [("meter", 1e-3), ("micron", 1e3)])
def test_other_units_are_converted_and_said(folder, units, per_mm):
    affine = AFFINE.copy()
    affine[:3] *= per_mm
    save(folder / "image" / "bob.nii.gz", ramp(), affine, units)
    save(folder / "mask" / "bob.nii.gz", blocks(), affine, units)
    assert [(finding.level, finding.code) for finding in findings(folder)] == [("warning", "units")]


@pytest.mark.parametrize("units", ["meter", "micron"])
def test_units_that_make_voxels_absurd(folder, units):
    save(folder / "image" / "bob.nii.gz", ramp(), units=units)
    assert "spacing" in {finding.code for finding in findings(folder) if finding.level == "error"}


def test_names_in_small_groups_hint_at_shared_subjects(tmp_path):
    for person in ("ann", "bob", "cyd"):
        for side in ("left1", "right1"):
            save(tmp_path / "image" / f"{person}_{side}.nii.gz", ramp() + ord(person[0]) + ord(side[0]) / 128)
    alone = check_manifest(open_manifest(FolderSource(root=tmp_path, images="image"))).findings
    assert [(finding.case, finding.level) for finding in alone] == [("", "warning")]
    assert "3 groups" in alone[0].problem
    stated = FolderSource(root=tmp_path, images="image", subject="^[a-z]+")
    assert check_manifest(open_manifest(stated)).findings == ()


def test_stored_axes_may_differ_as_long_as_the_place_is_the_same(folder):
    image = nib.load(folder / "mask" / "bob.nii.gz")
    nib.save(image.as_reoriented([[0, -1], [2, 1], [1, 1]]), folder / "mask" / "bob.nii.gz")
    assert findings(folder) == []


def test_the_same_scan_under_two_subjects(folder):
    save(folder / "image" / "bob.nii.gz", (ramp() + ord("a") / 128).astype(np.float64))  # stored otherwise: other bytes
    finding = only(folder)
    assert (finding.level, finding.code) == ("error", "duplicate")
    assert finding.file == "image/bob.nii.gz and image/ann.nii.gz"
    assert "the same voxels in 'image' as the case ann, of another subject" in finding.problem


def test_a_copy_under_another_channels_name_is_found(tmp_path):
    for name, folder_name in (("ann", "T1"), ("ann", "T2"), ("bob", "T1"), ("bob", "T2")):
        offset = {"annT1": 1.0, "annT2": 2.0, "bobT1": 3.0, "bobT2": 1.0}[name + folder_name]
        save(tmp_path / folder_name / f"{name}.nii.gz", ramp() + offset)
    source = FolderSource(root=tmp_path, images={"T1": "T1", "T2": "T2"}, ids="names")
    (finding,) = check_manifest(open_manifest(source)).findings
    assert (finding.case, finding.level) == ("bob", "error")
    assert finding.problem == "has the same voxels in 'T2' as 'T1' of the case ann, of another subject"


def test_a_broken_copy_does_not_take_the_sound_one_with_it(folder):
    save(folder / "image" / "bob.nii.gz", ramp() + ord("a") / 128)
    save(folder / "mask" / "ann.nii.gz", blocks(value=9))  # undeclared: ann is left out
    source = FolderSource(root=folder, images="image", labels="mask", ids="names", label_names={1: "lesion"})
    check = check_manifest(open_manifest(source))
    assert check.excluded == ("ann",)


def test_one_label_map_for_two_images(folder):
    (folder / "mask" / "bob.nii.gz").write_bytes((folder / "mask" / "ann.nii.gz").read_bytes())
    assert (only(folder).level, only(folder).code) == ("warning", "duplicate_labels")


def test_ct_without_negative_values(folder):
    source = FolderSource(root=folder, images="image", ids="names", modality="CT")
    found = check_manifest(open_manifest(source)).findings
    assert [(finding.case, finding.code) for finding in found] == [
        (name, "not_hounsfield") for name in ("ann", "bob", "cyd")
    ]


def test_errors_leave_cases_out_and_warnings_do_not(folder):
    save(folder / "image" / "bob.nii.gz", np.full(SHAPE, 7.0, np.float32))
    save(folder / "image" / "cyd.nii.gz", ramp() * 7, units="unknown")
    source = FolderSource(root=folder, images="image", labels="mask", ids="names")
    check = check_manifest(open_manifest(source))
    assert check.excluded == ("bob",)
    assert [case.id for case in check.usable.cases] == ["ann", "cyd"]


def test_processes_find_the_same(folder, monkeypatch):
    monkeypatch.setattr("medae.data.check.WORTH_A_PROCESS", 1)
    save(folder / "image" / "bob.nii.gz", ramp((*SHAPE, 2)))
    manifest = open_manifest(FolderSource(root=folder, images="image", labels="mask", ids="names"))
    one, two = check_manifest(manifest), check_manifest(manifest, workers=2)
    assert one.findings == two.findings
    assert one.inspections == two.inspections


def test_what_was_found_before_is_remembered_with_its_contents(folder, monkeypatch):
    manifest = open_manifest(FolderSource(root=folder, images="image", labels="mask", ids="names"))
    first = check_manifest(manifest, picture=picture)
    with monkeypatch.context() as patch:
        patch.setattr("medae.data.check.inspect_case", forbidden)
        again = check_manifest(manifest, picture=picture)
    assert (again.findings, again.inspections, again.pictures) == (first.findings, first.inspections, first.pictures)
    save(folder / "image" / "bob.nii.gz", np.full(SHAPE, 7.0, np.float32))
    assert only(folder).code == "constant"


def picture(image, labels):
    return f"{image.array.shape} {labels is not None}".encode()


def forbidden(*_):
    raise AssertionError("read again")


def test_an_unreadable_file_is_tried_again(folder):
    path = folder / "image" / "bob.nii.gz"
    sound = path.read_bytes()
    path.write_bytes(sound[:-40])
    assert only(folder).code == "unreadable"
    path.write_bytes(sound)
    assert findings(folder) == []


@pytest.mark.data
@pytest.mark.parametrize("name", ["ixi_t1", "oasis_t1"])
def test_sound_real_data(data_root, name):
    check = check_manifest(open_manifest(AutoSource(root=resolve_root(data_root / name))), workers=2)
    assert check.findings == ()
    assert {facts.orientation for found in check.inspections.values() for facts in found.images.values()} == {
        {"ixi_t1": "PSR", "oasis_t1": "LAS"}[name]
    }


@pytest.mark.data
def test_real_data_with_mixed_ranges(data_root):
    found = check_manifest(open_manifest(AutoSource(root=data_root / "hippocampus")), workers=2).findings
    assert {(finding.level, finding.code) for finding in found} == {("warning", "ranges"), ("warning", "outlier")}
    assert "37 of 190 images" in next(finding.problem for finding in found if finding.code == "ranges")


@pytest.mark.data
def test_real_data_with_unknown_units_and_shared_subjects(data_root):
    lgg = check_manifest(open_manifest(AutoSource(root=data_root / "lgg_3ch"))).findings
    assert {(finding.level, finding.code) for finding in lgg} == {("warning", "units"), ("warning", "unset_spacing")}
    assert len([finding for finding in lgg if finding.code == "units"]) == 24
    lidc = check_manifest(open_manifest(AutoSource(root=data_root / "lidc")), workers=2).findings
    assert ["counts as a subject" in finding.problem for finding in lidc] == [True]
