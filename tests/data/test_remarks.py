"""What is said of headers, values and grids, with hand-made ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.data import remarks

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def codes(found) -> list[tuple[str, str]]:
    return [(remark.level, remark.code) for remark in found]


def nifti(path: Path, **fields) -> Path:
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), AFFINE)
    image.header.set_xyzt_units("mm")
    for name, value in fields.items():
        image.header[name] = value
    image.to_filename(path)
    if fields:  # nibabel writes sform and codes of its own: put the header as wanted
        raw = bytearray(path.read_bytes())
        header = nib.Nifti1Header.from_fileobj(path.open("rb"), check=False)
        for name, value in fields.items():
            header[name] = value
        raw[:348] = header.binaryblock
        path.write_bytes(bytes(raw))
    return path


def test_a_sound_header_has_no_remark(tmp_path):
    assert list(remarks.nifti_header(nifti(tmp_path / "a.nii"))) == []


def test_neither_sform_nor_qform(tmp_path):
    found = list(remarks.nifti_header(nifti(tmp_path / "a.nii", sform_code=0, qform_code=0)))
    assert codes(found) == [("warning", "no_position")]


@pytest.mark.parametrize(("code", "expected"), [(4, [("warning", "units")]), (7 + 8, [("warning", "units")]), (2 + 56, [])])
def test_a_unit_that_nifti_does_not_know(tmp_path, code, expected):
    assert codes(remarks.nifti_header(nifti(tmp_path / "a.nii", xyzt_units=code))) == expected


@pytest.mark.parametrize(("shift", "is_said"), [(0.04, False), (3.0, True)])
def test_sform_and_qform_that_disagree(tmp_path, shift, is_said):
    path = nifti(tmp_path / "a.nii", sform_code=1, qform_code=1, qoffset_x=shift)
    found = list(remarks.nifti_header(path))
    assert codes(found) == ([("warning", "sform_qform")] if is_said else [])
    assert not is_said or "up to 3 mm apart" in found[0].problem


def test_pixdim_against_sform(tmp_path):
    path = nifti(tmp_path / "a.nii", sform_code=1, qform_code=0, pixdim=[1, 1, 1.5, 5, 0, 0, 0, 0])
    (remark,) = remarks.nifti_header(path)
    assert remark.code == "pixdim"
    assert "1 x 1.5 x 5 mm in pixdim and of 1 x 1.5 x 2 mm in the sform" in remark.problem


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((64, 64, 30), (1.0, 1.0, 3.0), []),
        ((64, 64, 30), (0.001, 1.0, 3.0), [("error", "spacing")]),
        ((64, 64, 30), (1.0, 1.0, 300.0), [("error", "spacing")]),
        ((64, 64, 1), (0.5, 0.5, 3.0), [("warning", "single_slice")]),
        ((256, 256, 20), (1.0, 1.0, 1.0), [("warning", "unset_spacing")]),
        ((256, 256, 180), (1.0, 1.0, 1.0), []),
        ((256, 256, 20), (1.0, 1.0, 5.0), []),
    ],
)
def test_voxel_sizes_and_shapes(shape, spacing, expected):
    assert codes(remarks.geometry(shape, np.diag([*spacing, 1.0]))) == expected


@pytest.mark.parametrize(
    ("voxels", "modality", "expected"),
    [
        ([0.0, 1.0, 2.0], "MR", []),
        ([0, 3], "CT", [("warning", "not_hounsfield")]),
        ([-1000, 3], "CT", []),
        ([5, 5], "MR", [("error", "constant")]),
        ([0.0, np.nan], "MR", [("error", "not_finite")]),
        ([0.0, -np.inf], "unknown", [("error", "not_finite")]),
        ([1j, 0], "MR", [("error", "complex")]),
    ],
)
def test_values(voxels, modality, expected):
    assert codes(remarks.intensities(np.array(voxels), modality)) == expected


@pytest.mark.parametrize(
    ("values", "declared", "expected"),
    [
        ([0, 1, 2], {0: "background", 1: "a", 2: "b"}, []),
        ([0, 1, 2], None, []),
        ([0, 1, 2], {1: "a"}, [("error", "undeclared")]),
    ],
)
def test_undeclared_labels(values, declared, expected):
    assert codes(remarks.undeclared_labels(values, declared)) == expected


def turned(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (AFFINE, None),
        (AFFINE + 1e-4, None),
        (np.diag([1.0, 1.5, 2.2, 1.0]), "spacing 1 x 1.5 x 2.2 mm, not 1 x 1.5 x 2 mm"),
        (turned(5.0), "its axes are turned by up to 5 degrees"),
        (AFFINE + np.array([[0, 0, 0, 4.0]] + [[0.0] * 4] * 3), "its corners lie up to 4 mm apart"),
    ],
)
def test_how_grids_differ(other, expected):
    assert remarks.grid((10, 10, 10), AFFINE, (10, 10, 10), other) == expected


def test_shapes_are_compared_first():
    assert remarks.grid((10, 10, 10), AFFINE, (10, 9, 10), AFFINE) == "shape (10, 9, 10), not (10, 10, 10)"
