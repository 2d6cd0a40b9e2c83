"""NRRD of results: the grid of the scan to an independent reader, names and extents of segments as Slicer keeps them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from medae.errors import DataError, GeometryError
from medae.export.nrrd import write_nrrd, write_seg_nrrd
from medae.formats.itk import read_itk
from medae.volume import NativeGrid


def grid_of(codes: str, shape: tuple[int, int, int], tilt: float) -> NativeGrid:
    plain = nib.Nifti1Image(np.zeros(shape, dtype=np.uint8), np.diag([0.9, 1.1, 2.5, 1.0]))
    turned = plain.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt(tuple(codes)))
    )
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [tilt, tilt / 2, -tilt], degrees=True).as_matrix()
    affine = affine @ turned.affine
    affine[:3, 3] += (-80.5, 12.25, 33.0)
    return NativeGrid(shape=turned.shape, affine=tuple(map(tuple, affine.tolist())))


@pytest.mark.parametrize("tilt", [0.0, 17.0])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "LAI"])
@pytest.mark.parametrize("shape", [(5, 7, 9), (6, 5, 1)])
def test_both_lie_on_the_grid_of_the_scan(tmp_path, codes, shape, tilt):
    native = grid_of(codes, shape, tilt)
    labels = np.random.default_rng(0).integers(0, 3, native.shape).astype(np.int16)
    heat = np.random.default_rng(1).normal(size=native.shape)
    write_seg_nrrd(labels, native, tmp_path / "a.seg.nrrd", {1: "one", 2: "two"})
    write_nrrd(heat, native, tmp_path / "a.nrrd")
    for path, values in ((tmp_path / "a.seg.nrrd", labels), (tmp_path / "a.nrrd", heat.astype(np.float32))):
        again = read_itk(path)
        assert again.native.matrix() == pytest.approx(native.matrix(), abs=1e-4)
        assert np.array_equal(again.array, values)
    assert sitk.ReadImage(str(tmp_path / "a.seg.nrrd")).GetPixelID() == sitk.sitkUInt8
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.nrrd", "a.seg.nrrd"]


def test_segments_have_their_names_values_and_extents(tmp_path):
    labels = np.zeros((4, 5, 6), dtype=np.int16)
    labels[1:3, 2, 3:6] = 7
    write_seg_nrrd(labels, grid_of("RAS", (4, 5, 6), 0.0), tmp_path / "a.seg.nrrd", {7: "grey matter", 9: "nothing"})
    image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    said = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert said["Segment0_Name"] == "grey matter" and said["Segment0_LabelValue"] == "7" and said["Segment0_Layer"] == "0"
    assert said["Segment0_Extent"] == "1 2 2 2 3 5"
    assert said["Segment1_Name"] == "nothing" and said["Segment1_Extent"] == "0 -1 0 -1 0 -1"
    assert len({said["Segment0_Color"], said["Segment1_Color"]}) == 2
    assert said["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert {key for key in said if key.startswith("Segment2")} == set()


def test_what_does_not_fit_is_refused(tmp_path):
    native = grid_of("RAS", (4, 5, 6), 0.0)
    with pytest.raises(GeometryError, match="does not fit"):
        write_nrrd(np.zeros((4, 5, 7)), native, tmp_path / "a.nrrd")
    with pytest.raises(DataError, match="whole numbers"):
        write_seg_nrrd(np.full(native.shape, 0.5), native, tmp_path / "a.seg.nrrd", {1: "a"})
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_nrrd(np.zeros(native.shape), native, tmp_path / "file" / "a.nrrd")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
