"""Which way up, which side left: on marked volumes in many stored orientations and on real scans."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from medae.errors import GeometryError
from medae.report.planes import Scene, largest_slice

SPACING = (1.0, 2.0, 3.0)
RIGHT_FRONT_TOP = (8, 9, 10)


def marked(codes: str) -> tuple[np.ndarray, np.ndarray]:
    """A volume stored as ``codes`` with one bright voxel to the right, front and top, and its affine."""
    array = np.zeros((10, 11, 12), dtype=np.float32)
    array[RIGHT_FRONT_TOP] = 1
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.diag([*SPACING, 1.0]) @ nib.orientations.inv_ornt_aff(change, array.shape)
    return apply_orientation(array, change), affine


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "PLS", "IRA"])
def test_the_right_side_is_on_the_left_and_the_top_is_up(codes: str) -> None:
    array, affine = marked(codes)
    scene = Scene(affine)
    assert scene.spacing == pytest.approx(SPACING)
    array_IJK = scene.ras(array)
    axial, coronal, sagittal = scene.orthogonal(array_IJK > 0)
    assert [cut.name for cut in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    # Rows count from the top, columns from the left; the voxel is one from the right end, the front and the top.
    assert np.argwhere(axial.of(array_IJK)).tolist() == [[1, 1]]
    assert axial.marks == ("R", "L", "A", "P")
    assert axial.size_mm(array_IJK.shape) == pytest.approx((10.0, 22.0))
    assert np.argwhere(coronal.of(array_IJK)).tolist() == [[1, 1]]
    assert coronal.marks == ("R", "L", "S", "I")
    assert coronal.size_mm(array_IJK.shape) == pytest.approx((10.0, 36.0))
    assert np.argwhere(sagittal.of(array_IJK)).tolist() == [[1, 1]]
    assert sagittal.marks == ("A", "P", "S", "I")
    assert sagittal.size_mm(array_IJK.shape) == pytest.approx((22.0, 36.0))


def test_an_oblique_affine_keeps_its_spacing() -> None:
    turn = nib.eulerangles.euler2mat(z=0.3, y=-0.2, x=0.1)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING)
    assert Scene(affine).spacing == pytest.approx(SPACING)


def test_crop_keeps_the_region_and_a_margin() -> None:
    array, affine = marked("LPS")
    around = np.zeros(array.shape, dtype=bool)
    around[3:6, 4:7, 5:8] = True
    scene = Scene(affine, around, margin_mm=2.0)
    assert scene.ras(around).sum() == around.sum()
    assert scene.ras(around).shape == (3 + 4, 3 + 2, 3 + 2)  # 2 mm are 2, 1 and (rounded) 1 voxels a side


def test_an_empty_region_shows_all_and_cuts_the_middle() -> None:
    array, affine = marked("RAS")
    nothing = np.zeros(array.shape, dtype=bool)
    scene = Scene(affine, nothing)
    assert scene.ras(array).shape == array.shape
    assert [cut.index for cut in scene.orthogonal(nothing)] == [6, 5, 5]


def test_slices_through_a_region_are_spread_and_never_repeated() -> None:
    mask = np.zeros((4, 4, 12), dtype=bool)
    mask[..., 3:9] = True
    scene = Scene(np.eye(4))
    assert [cut.index for cut in scene.through(mask, axis=2)] == [4, 6, 8]
    assert [cut.index for cut in scene.through(mask[..., 3:4], axis=2)] == [0]


def test_the_largest_slice_counts_voxels() -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[:, 0, 1] = True
    mask[:2, 0, 3] = True
    assert largest_slice(mask, 2) == 1


def test_other_than_three_axes_are_refused() -> None:
    with pytest.raises(GeometryError, match="volume"):
        Scene(np.eye(4)).ras(np.zeros((2, 2)))


@pytest.mark.data
def test_agrees_with_nibabel_on_a_scan_stored_psr(data_root: Path) -> None:
    file = sorted((data_root / "ixi_t1").glob("sub-*/anat/*_T1w.nii.gz"))[0]
    scan = nib.nifti1.Nifti1Image.from_filename(file)
    assert nib.aff2axcodes(scan.affine) == ("P", "S", "R")
    canonical = nib.as_closest_canonical(scan)
    scene = Scene(scan.affine)
    assert np.array_equal(scene.ras(np.asarray(scan.dataobj)), np.asarray(canonical.dataobj))
    assert scene.spacing == pytest.approx(canonical.header.get_zooms())
    assert io_orientation(canonical.affine)[:, 1].tolist() == [1, 1, 1]
